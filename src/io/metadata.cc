#include "io/metadata.h"

#include <fmt/format.h>

#include <cmath>
#include <type_traits>

#include "io/quote_name.h"

namespace pare {
namespace {

std::string_view type_name(const MetaValue& value) {
  constexpr std::string_view kNames[] = {
      "a boolean",          "an integer",           "an integer",           "a number",
      "a string",           "an array of booleans", "an array of integers", "an array of numbers",
      "an array of strings"};
  static_assert(std::variant_size_v<MetaValue> == std::size(kNames));
  return kNames[value.index()];
}

Status absent(std::string_view key) { return not_found(fmt::format("metadata key {} is missing", quote_name(key))); }

Status wrong_type(std::string_view key, const MetaValue& value, std::string_view wanted) {
  return data_loss(fmt::format("metadata key {} is {}, wanted {}", quote_name(key), type_name(value), wanted));
}

// An empty JSON array has no element type, so it stands for an empty array of any.
bool is_empty_array(const MetaValue& value) {
  return std::visit(
      [](const auto& held) {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
          return false;
        } else {
          return held.empty();
        }
      },
      value);
}

}  // namespace

const MetaValue* Metadata::find(std::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

Expected<int64_t> Metadata::get_int(std::string_view key, int64_t min, int64_t max) const {
  const MetaValue* value = find(key);
  if (!value) return absent(key);
  int64_t number = 0;
  if (const auto* i = std::get_if<int64_t>(value)) {
    number = *i;
  } else if (const auto* u = std::get_if<uint64_t>(value)) {
    if (*u > static_cast<uint64_t>(INT64_MAX)) {
      return data_loss(fmt::format("metadata key {} is {}, allowed {} to {}", quote_name(key), *u, min, max));
    }
    number = static_cast<int64_t>(*u);
  } else {
    return wrong_type(key, *value, "an integer");
  }
  if (number < min || number > max) {
    return data_loss(fmt::format("metadata key {} is {}, allowed {} to {}", quote_name(key), number, min, max));
  }
  return number;
}

Expected<double> Metadata::get_float(std::string_view key) const {
  const MetaValue* value = find(key);
  if (!value) return absent(key);
  double number = 0.0;
  if (const auto* d = std::get_if<double>(value)) {
    number = *d;
  } else if (const auto* i = std::get_if<int64_t>(value)) {
    number = static_cast<double>(*i);
  } else if (const auto* u = std::get_if<uint64_t>(value)) {
    number = static_cast<double>(*u);
  } else {
    return wrong_type(key, *value, "a number");
  }
  if (!std::isfinite(number)) {
    return data_loss(fmt::format("metadata key {} is {}, wanted a finite number", quote_name(key), number));
  }
  return number;
}

Expected<bool> Metadata::get_bool(std::string_view key) const {
  const MetaValue* value = find(key);
  if (!value) return absent(key);
  if (const auto* b = std::get_if<bool>(value)) return *b;
  return wrong_type(key, *value, "a boolean");
}

Expected<std::string_view> Metadata::get_string(std::string_view key) const {
  const MetaValue* value = find(key);
  if (!value) return absent(key);
  if (const auto* s = std::get_if<std::string>(value)) return std::string_view(*s);
  return wrong_type(key, *value, "a string");
}

Expected<const std::vector<std::string>*> Metadata::get_string_array(std::string_view key) const {
  static const std::vector<std::string> kNone;
  const MetaValue* value = find(key);
  if (!value) return absent(key);
  if (const auto* strings = std::get_if<std::vector<std::string>>(value)) return strings;
  if (is_empty_array(*value)) return &kNone;
  return wrong_type(key, *value, "an array of strings");
}

Expected<std::vector<int64_t>> Metadata::get_int_array(std::string_view key) const {
  const MetaValue* value = find(key);
  if (!value) return absent(key);
  if (const auto* ints = std::get_if<std::vector<int64_t>>(value)) return *ints;
  if (is_empty_array(*value)) return std::vector<int64_t>();
  const auto* numbers = std::get_if<std::vector<double>>(value);
  if (!numbers) return wrong_type(key, *value, "an array of integers");
  std::vector<int64_t> converted;
  converted.reserve(numbers->size());
  for (const double number : *numbers) {
    // 2^53: beyond it a double no longer tells integers apart.
    if (!(std::abs(number) <= 0x1p53) || number != std::trunc(number)) {
      return data_loss(
          fmt::format("metadata key {} item {} is {}, wanted an integer", quote_name(key), converted.size(), number));
    }
    converted.push_back(static_cast<int64_t>(number));
  }
  return converted;
}

Expected<std::vector<double>> Metadata::get_float_array(std::string_view key) const {
  const MetaValue* value = find(key);
  if (!value) return absent(key);
  if (const auto* numbers = std::get_if<std::vector<double>>(value)) return *numbers;
  if (is_empty_array(*value)) return std::vector<double>();
  const auto* ints = std::get_if<std::vector<int64_t>>(value);
  if (!ints) return wrong_type(key, *value, "an array of numbers");
  return std::vector<double>(ints->begin(), ints->end());
}

Expected<int64_t> Metadata::get_int_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) const {
  return has(key) ? get_int(key, min, max) : Expected<int64_t>(fallback);
}
Expected<double> Metadata::get_float_or(std::string_view key, double fallback) const {
  return has(key) ? get_float(key) : Expected<double>(fallback);
}
Expected<bool> Metadata::get_bool_or(std::string_view key, bool fallback) const {
  return has(key) ? get_bool(key) : Expected<bool>(fallback);
}
Expected<std::string_view> Metadata::get_string_or(std::string_view key, std::string_view fallback) const {
  return has(key) ? get_string(key) : Expected<std::string_view>(fallback);
}

}  // namespace pare
