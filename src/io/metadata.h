// Typed key-value metadata of a model, the same for GGUF (its own keys: "llama.block_count") and for Hugging Face
// folders (config.json flattened with dots: "num_hidden_layers", "rope_scaling.factor").
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "pare/status.h"

namespace pare {

// Integers of every width are widened to int64/uint64, floats to double; `MetaValue` keeps only what readers need.
using MetaValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>>;

class Metadata {
 public:
  void set(std::string key, MetaValue value) { values_.insert_or_assign(std::move(key), std::move(value)); }
  bool has(std::string_view key) const { return values_.find(key) != values_.end(); }
  const std::map<std::string, MetaValue, std::less<>>& values() const { return values_; }
  const MetaValue* find(std::string_view key) const;

  // Each getter: kNotFound names the key when absent; kDataLoss names key and type when it has another type or
  // (integers) lies outside [min, max].
  Expected<int64_t> get_int(std::string_view key, int64_t min = INT64_MIN, int64_t max = INT64_MAX) const;
  Expected<double> get_float(std::string_view key) const;  // finite; integers accepted
  Expected<bool> get_bool(std::string_view key) const;
  Expected<std::string_view> get_string(std::string_view key) const;
  // Pointers live as long as this Metadata. Numeric arrays of either kind convert through get_int_array.
  Expected<const std::vector<std::string>*> get_string_array(std::string_view key) const;
  Expected<std::vector<int64_t>> get_int_array(std::string_view key) const;
  Expected<std::vector<double>> get_float_array(std::string_view key) const;

  // As above with a default when absent; a wrong type is still an error.
  Expected<int64_t> get_int_or(std::string_view key, int64_t fallback, int64_t min = INT64_MIN,
                               int64_t max = INT64_MAX) const;
  Expected<double> get_float_or(std::string_view key, double fallback) const;
  Expected<bool> get_bool_or(std::string_view key, bool fallback) const;
  Expected<std::string_view> get_string_or(std::string_view key, std::string_view fallback) const;

 private:
  std::map<std::string, MetaValue, std::less<>> values_;
};

}  // namespace pare
