// Policy spec strings: `triangle(sink=8,layers=16-31)+minference`. Grammar: docs/formats/spec.md. The parser
// is bounded (kMaxSpecBytes, kMaxSpecTerms), never recurses, and every error points at the character:
//
//   kv spec, column 18: expected a value
//     streaming(sink=4,
//                      ^
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"

namespace pare {

inline constexpr int kMaxSpecParams = 32;       // parameters of a term
inline constexpr int kMaxSpecLayerRanges = 64;  // ranges of a layer list

struct LayerRange {
  int32_t first = 0, last = 0;  // both included
  bool operator==(const LayerRange&) const = default;
};

struct SpecValue {
  enum class Kind : uint8_t { kInt, kFloat, kPercent, kBytes, kLayers, kString };
  Kind kind = Kind::kInt;
  int64_t integer = 0;             // kInt; kBytes: bytes
  double number = 0;               // kFloat; kPercent: as written, 1.8 for 1.8%
  std::string text;                // kString
  std::vector<LayerRange> layers;  // kLayers: ascending, disjoint, not adjacent; a single layer is a kInt
  bool operator==(const SpecValue&) const = default;
};

// Columns are byte offsets into Spec::source, for errors found later; they do not take part in comparison.
struct SpecParam {
  std::string name;
  SpecValue value;
  int32_t name_column = 0, value_column = 0;
  bool operator==(const SpecParam& o) const { return name == o.name && value == o.value; }
};

struct SpecTerm {
  std::string name;
  std::vector<SpecParam> params;  // as written; names are distinct
  int32_t column = 0;
  bool operator==(const SpecTerm& o) const { return name == o.name && params == o.params; }
};

struct Spec {
  std::vector<SpecTerm> terms;  // at least one
  std::string label;            // "attn" or "kv": how messages name it
  std::string source;           // the text that was parsed
  bool operator==(const Spec& o) const { return terms == o.terms; }
};

// One half: what follows `attn=` or `kv=`. `label` names it in messages.
Expected<Spec> parse_spec(std::string_view text, std::string_view label);

// Both halves: "attn=...; kv=...", each at most once, in any order; a missing half is "dense".
struct SpecPair {
  Spec attn, kv;
  bool operator==(const SpecPair&) const = default;
};
Expected<SpecPair> parse_spec_pair(std::string_view text);

// Canonical text: no spaces, numbers in their shortest form, byte sizes in the largest unit that divides
// them. parse_spec(print_spec(s)) == s for every s that the parser returned. Parameters stay in the order
// written; the canonical form of a policy, with defaults filled in, is BoundTerm::canonical (registry.h).
std::string print_spec(const Spec& spec);
std::string print_term(const SpecTerm& term);
std::string print_value(const SpecValue& value);

// "label spec, column C: message", then the source around the column and a caret below it. `column` is a byte
// offset.
Status spec_error(const Spec& spec, int32_t column, std::string_view message);

}  // namespace pare
