#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/limits.h"
#include "text/jinja_library.h"

namespace pare::jinja {
namespace {

// Builds values directly from the parser's events, so that key order, integers and duplicate keys stay as
// Python's json module has them, and depth and memory are bounded while reading.
class ValueBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit ValueBuilder(Runtime* runtime) : runtime_(runtime) {}

  bool null() override { return add(Value::none()); }
  bool boolean(bool value) override { return add(Value::boolean(value)); }
  bool number_integer(number_integer_t value) override { return add(Value::integer(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<int64_t>::max()))
      return fail_integer(std::to_string(value));
    return add(Value::integer(static_cast<int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") == std::string::npos) return fail_integer(text);
    return add(Value::real(value));
  }
  bool string(string_t& value) override { return add(Value::string(runtime_, std::move(value))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(true); }
  bool start_array(std::size_t) override { return open(false); }
  bool key(string_t& value) override {
    stack_.back().key = Value::string(runtime_, std::move(value));
    return true;
  }
  bool end_object() override {
    Level level = close();
    return add(make_dict(runtime_, std::move(level.entries)));
  }
  bool end_array() override {
    Level level = close();
    return add(Value::list(runtime_, std::move(level.items)));
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    error_ = invalid_argument("not JSON at byte " + std::to_string(position));
    return false;
  }

  const Status& error() const { return error_; }
  Value result() const { return result_.value_or(Value()); }

 private:
  struct Level {
    bool object;
    Value key;
    std::vector<DictObject::Entry> entries;
    std::vector<Value> items;
  };

  bool fail_integer(const std::string& text) {
    error_ = limit_exceeded("integer " + text.substr(0, 40) + " does not fit 64 bits");
    return false;
  }

  bool open(bool object) {
    if (static_cast<int64_t>(stack_.size()) >= kMaxJsonDepth) {
      error_ = limit_exceeded("nested deeper than " + std::to_string(kMaxJsonDepth) + " levels");
      return false;
    }
    stack_.push_back(Level{.object = object});
    return true;
  }

  Level close() {
    Level level = std::move(stack_.back());
    stack_.pop_back();
    return level;
  }

  bool add(Value value) {
    error_ = runtime_->reserve(0);
    if (!error_.ok()) return false;
    if (stack_.empty()) {
      result_ = std::move(value);
    } else if (stack_.back().object) {
      stack_.back().entries.emplace_back(std::move(stack_.back().key), std::move(value));
    } else {
      stack_.back().items.push_back(std::move(value));
    }
    return true;
  }

  Runtime* runtime_;
  std::vector<Level> stack_;
  std::optional<Value> result_;
  Status error_;
};

}  // namespace

Expected<Value> parse_json(Runtime& rt, std::string_view name, std::string_view text) {
  if (static_cast<int64_t>(text.size()) > kMaxJsonBytes) {
    return limit_exceeded(std::string(name) + ": " + std::to_string(text.size()) + " bytes of JSON, limit " +
                          std::to_string(kMaxJsonBytes));
  }
  ValueBuilder builder(&rt);
  bool parsed = false;
  try {
    parsed = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  } catch (const std::exception& e) {
    return invalid_argument(std::string(name) + ": " + e.what());
  }
  if (!parsed) return builder.error().with_context(name);
  return builder.result();
}

}  // namespace pare::jinja
