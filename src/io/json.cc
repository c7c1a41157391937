#include "io/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "io/quote_name.h"

namespace pare {
namespace {

using Json = nlohmann::ordered_json;

// Builds the document from the parser's events. The library's own builder searches an object for every key it
// adds, which is quadratic for a vocabulary; here duplicates are found once, when the object ends.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Json take() { return std::move(root_); }
  Status status() const { return status_; }

  bool null() override { return add(Json()) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return add(value) != nullptr; }
  bool string(string_t& value) override { return add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return fail(data_loss("binary data")); }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool key(string_t& name) override {
    key_ = std::move(name);
    return true;
  }

  bool end_object() override {
    const auto& members = open_.back()->get_ref<const Json::object_t&>();
    std::vector<std::string_view> names;
    names.reserve(members.size());
    for (const auto& member : members) names.push_back(member.first);
    std::sort(names.begin(), names.end());
    const auto twin = std::adjacent_find(names.begin(), names.end());
    if (twin != names.end()) return fail(data_loss(fmt::format("key {} occurs twice in an object", quote_name(*twin))));
    open_.pop_back();
    return true;
  }

  bool end_array() override {
    open_.pop_back();
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    // The library's text ends with the token it read last, which may be anything.
    std::string_view reason = error.what();
    reason = reason.substr(0, reason.find("; last read"));
    if (const size_t start = reason.rfind(" - "); start != std::string_view::npos) reason.remove_prefix(start + 3);
    return fail(data_loss(fmt::format("not JSON at byte {}: {}", position, quote_name(reason))));
  }

 private:
  bool fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
    return false;
  }

  // Where the value now lives, or null when there are too many.
  Json* add(Json value) {
    if (++values_ > kMaxMetadataArrayItems) {
      fail(limit_exceeded(fmt::format("more than {} values", kMaxMetadataArrayItems)));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    // Nothing is added to a container while one inside it is open, so the pointers in open_ stay good.
    if (open_.back()->is_array()) {
      auto& items = open_.back()->get_ref<Json::array_t&>();
      items.push_back(std::move(value));
      return &items.back();
    }
    auto& members = open_.back()->get_ref<Json::object_t&>();
    return &members.Json::object_t::Container::emplace_back(std::move(key_), std::move(value)).second;
  }

  bool open(Json container) {
    if (static_cast<int64_t>(open_.size()) >= kMaxJsonDepth) {
      return fail(limit_exceeded(fmt::format("nested deeper than {} levels", kMaxJsonDepth)));
    }
    Json* const place = add(std::move(container));
    if (place) open_.push_back(place);
    return place != nullptr;
  }

  Json root_;
  std::vector<Json*> open_;
  std::string key_;
  int64_t values_ = 0;
  Status status_;
};

bool is_integer(const Json& value) { return value.is_number_integer(); }  // unsigned included

MetaValue integer_value(const Json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    return value.get<uint64_t>();
  return value.get<int64_t>();
}

template <typename T>
MetaValue array_of(const Json& array) {
  std::vector<T> items;
  items.reserve(array.size());
  for (const Json& item : array) items.push_back(item.get<T>());
  return items;
}

// The array as one metadata value, or nothing when its items are not of one scalar kind.
std::optional<MetaValue> array_value(const Json& array) {
  const auto all = [&](auto is_kind) { return std::all_of(array.begin(), array.end(), is_kind); };
  const auto fits_int64 = [](const Json& item) {
    return is_integer(item) && !std::holds_alternative<uint64_t>(integer_value(item));
  };
  if (all(fits_int64)) return array_of<int64_t>(array);  // an empty array too
  if (all([](const Json& item) { return item.is_number(); })) return array_of<double>(array);
  if (all([](const Json& item) { return item.is_string(); })) return array_of<std::string>(array);
  if (all([](const Json& item) { return item.is_boolean(); })) return array_of<bool>(array);
  return std::nullopt;
}

Status flatten(const Json& value, const std::string& path, Metadata* out) {
  const auto below = [&](std::string_view name) {
    return path.empty() ? std::string(name) : fmt::format("{}.{}", path, name);
  };
  if (value.is_null()) return ok_status();
  if (value.is_object()) {
    for (const auto& [name, member] : value.get_ref<const Json::object_t&>()) {
      PARE_RETURN_IF_ERROR(flatten(member, below(name), out));
    }
    return ok_status();
  }
  MetaValue flat;
  if (value.is_array()) {
    std::optional<MetaValue> array = array_value(value);
    if (!array) {
      for (size_t i = 0; i < value.size(); ++i) PARE_RETURN_IF_ERROR(flatten(value[i], below(std::to_string(i)), out));
      return ok_status();
    }
    flat = std::move(*array);
  } else if (value.is_boolean()) {
    flat = value.get<bool>();
  } else if (is_integer(value)) {
    flat = integer_value(value);
  } else if (value.is_number()) {
    flat = value.get<double>();
  } else {
    flat = value.get<std::string>();
  }
  if (static_cast<int64_t>(path.size()) > kMaxKeyBytes) {
    return limit_exceeded(fmt::format("key {} has {} bytes, limit {}", quote_name(path), path.size(), kMaxKeyBytes));
  }
  if (out->has(path)) return data_loss(fmt::format("two paths spell the key {}", quote_name(path)));
  if (static_cast<int64_t>(out->values().size()) >= kMaxMetadataKeys) {
    return limit_exceeded(fmt::format("more than {} metadata keys", kMaxMetadataKeys));
  }
  out->set(path, std::move(flat));
  return ok_status();
}

}  // namespace

Expected<Json> parse_json(std::string_view text) {
  if (static_cast<int64_t>(text.size()) > kMaxJsonBytes) {
    return limit_exceeded(fmt::format("a JSON document of {} bytes, limit {}", text.size(), kMaxJsonBytes));
  }
  Builder builder;
  try {
    const bool parsed = Json::sax_parse(text.begin(), text.end(), &builder);
    PARE_RETURN_IF_ERROR(builder.status());
    if (!parsed) return data_loss("not JSON");
    return builder.take();
  } catch (const std::exception& error) {
    return limit_exceeded(fmt::format("JSON: {}", error.what()));
  }
}

Expected<Metadata> flatten_json(const Json& object) {
  if (!object.is_object()) return invalid_argument("not a JSON object");
  Metadata out;
  PARE_RETURN_IF_ERROR(flatten(object, "", &out));
  return out;
}

}  // namespace pare
