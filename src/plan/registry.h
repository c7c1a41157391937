// From a spec term to an object: parameter schemas, typed values with defaults, and the table of a family's
// policies. Tables are constant and returned by functions (attention/registry.h, kv/registry.h): nothing
// registers itself at static initialization.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"
#include "plan/caps.h"
#include "plan/policy_context.h"
#include "plan/spec.h"

namespace pare {

enum class ParamKind : uint8_t {
  kInt,
  kFloat,     // an int is accepted
  kFraction,  // "1.8%" or a number in [0, 1]; held as a fraction
  kBytes,     // "8GiB"; a bare int is bytes
  kString,
  kLayers,  // "0-3,7" or one int
};

struct ParamSchema {
  std::string_view name;
  ParamKind kind = ParamKind::kInt;
  bool optional = false;    // kInt, kString, kLayers: may be absent, then it is not printed; has() tells
  double fallback = 0;      // default of numeric kinds
  double min = 0, max = 0;  // both included; numeric kinds; layers: the largest layer number
  std::string_view help;
};

struct PolicySchema {
  std::string_view name;
  std::string_view summary;
  std::string_view neutral;  // spec text of a setting that equals dense
  const Caps* caps = nullptr;
  std::span<const ParamSchema> params;
};

// A term checked against its schema, with defaults filled in.
class BoundTerm {
 public:
  const PolicySchema& schema() const { return *schema_; }
  // `name` must be a parameter of the schema, of that kind (PARE_CHECK).
  int64_t integer(std::string_view name) const;  // kInt, kBytes
  double number(std::string_view name) const;    // kFloat, kFraction
  const std::string& text(std::string_view name) const;
  const std::vector<LayerRange>& layers(std::string_view name) const;  // empty = absent
  bool has(std::string_view name) const;                               // of any kind: given, or not optional

  // For RegistryEntry::resolve: what a file says takes the place of the parameter that names the file.
  void set_integer(std::string_view name, int64_t value);  // kInt
  void set_layers(std::string_view name, std::vector<LayerRange> layers);
  void clear(std::string_view name);  // absent from now on
  // Every parameter in schema order, defaults included, so that the text means the same after a default has
  // changed; absent optional ones are left out; `dense` without parentheses when there is nothing to print.
  std::string canonical() const;

 private:
  friend Expected<BoundTerm> bind_term(const Spec& spec, size_t term, const PolicySchema& schema);
  int index_of(std::string_view name, ParamKind a, ParamKind b) const;
  const PolicySchema* schema_ = nullptr;
  struct Value {
    int64_t integer = 0;
    double number = 0;
    std::string text;
    std::vector<LayerRange> layers;
    bool present = true;
  };
  std::vector<Value> values_;  // schema order
};

// Unknown parameter, wrong kind, value out of range: kInvalidArgument that points at it and lists what is
// known.
Expected<BoundTerm> bind_term(const Spec& spec, size_t term, const PolicySchema& schema);

// The error for a term whose name is in no table: lists the known names.
Status unknown_policy(const Spec& spec, size_t term, std::span<const std::string_view> known);

template <typename T>
struct RegistryEntry {
  PolicySchema schema;
  // From a term that bind_term accepted; checks what concerns several parameters together.
  Expected<std::unique_ptr<T>> (*make)(const BoundTerm& term, const PolicyContext& context) = nullptr;
  // Before make, may be null: replaces parameters that name files by what is in them, so that the canonical form means
  // the same without the file.
  Status (*resolve)(BoundTerm& term, const PolicyContext& context) = nullptr;
};

template <typename T>
struct BoundPolicy {
  BoundTerm term;
  std::unique_ptr<T> policy;
};

// Looks the term up, binds it and makes the object.
template <typename T>
Expected<BoundPolicy<T>> make_policy(std::span<const RegistryEntry<T>> table, const Spec& spec, size_t term,
                                     const PolicyContext& context = {}) {
  std::vector<std::string_view> names;
  for (const RegistryEntry<T>& entry : table) {
    names.push_back(entry.schema.name);
    if (entry.schema.name != spec.terms[term].name) continue;
    PARE_ASSIGN_OR_RETURN(BoundTerm bound, bind_term(spec, term, entry.schema));
    if (entry.resolve != nullptr) {
      if (Status status = entry.resolve(bound, context); !status.ok()) {
        return spec_error(spec, spec.terms[term].column, status.message());
      }
    }
    auto made = entry.make(bound, context);
    if (!made.ok()) return spec_error(spec, spec.terms[term].column, made.status().message());
    return BoundPolicy<T>{std::move(bound), std::move(made).value()};
  }
  return unknown_policy(spec, term, names);
}

}  // namespace pare
