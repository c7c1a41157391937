// Values of the template language: Python's, as far as chat templates use them. Immutable apart from
// namespaces, generators and loop state; cheap to copy; every heap object is counted against the Runtime that
// made it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "pare/status.h"

namespace pare::jinja {

// Bytes of values alive at one time, and levels of containers in one value (so that recursion over it is
// bounded).
inline constexpr int64_t kMaxTemplateMemoryBytes = 4 * kMaxTemplateOutputBytes;
inline constexpr int kMaxValueDepth = static_cast<int>(kMaxJsonDepth + kMaxTemplateDepth);

// The budgets of one rendering. Not thread-safe; outlives every value made under it.
class Runtime {
 public:
  std::function<std::string(std::string_view format)> now;

  // One unit of work, or of `bytes` copied at 1 KiB a unit. Fails when steps or memory have run out.
  Status step(uint64_t bytes = 0);
  // Fails if `bytes` more would not fit: asked before work whose size an operand chooses.
  Status reserve(uint64_t bytes) const;
  Status reserve_product(uint64_t count, uint64_t bytes_each) const;

  void charge(int64_t bytes) { live_bytes_ += bytes; }
  int nested_filters = 0;  // map('map', 'map', ...) applies filters inside filters
  int64_t steps() const { return steps_; }

 private:
  int64_t steps_ = 0;
  int64_t live_bytes_ = 0;
};

// Bytes held in the runtime's account while this lives; a null runtime (constants of a parsed template)
// counts none.
class MemoryCharge {
 public:
  MemoryCharge() = default;
  MemoryCharge(Runtime* runtime, uint64_t bytes) : runtime_(runtime), bytes_(static_cast<int64_t>(bytes)) {
    if (runtime_ != nullptr) runtime_->charge(bytes_);
  }
  ~MemoryCharge() {
    if (runtime_ != nullptr) runtime_->charge(-bytes_);
  }
  MemoryCharge(const MemoryCharge&) = delete;
  MemoryCharge& operator=(const MemoryCharge&) = delete;
  void grow(int64_t bytes) {
    bytes_ += bytes;
    if (runtime_ != nullptr) runtime_->charge(bytes);
  }

 private:
  Runtime* runtime_ = nullptr;
  int64_t bytes_ = 0;
};

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kRange,
  kView,  // dict.keys(), .values(), .items()
  kDict,
  kGenerator,
  kNamespace,
  kLoop,
  kMacro,
  kMethod,
  kFunction,
  kJoiner,
};

class Value;

struct Object {
  Object(Runtime* runtime, uint64_t bytes) : memory(runtime, bytes) {}
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  mutable MemoryCharge memory;
  int depth = 0;  // levels of containers below and with this one; 0 where cycles are possible
};

int max_depth(const std::vector<Value>& items);

struct StringObject;
struct SequenceObject;
struct DictObject;

class Value {
 public:
  Value() = default;  // undefined without a reason
  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool b);
  static Value integer(int64_t i);
  static Value real(double d);
  // `text` is valid UTF-8.
  static Value string(Runtime* runtime, std::string text, bool safe = false);
  static Value list(Runtime* runtime, std::vector<Value> items);
  static Value tuple(Runtime* runtime, std::vector<Value> items);
  // `reason` is what using the value in an expression reports.
  static Value undefined(Runtime* runtime, std::string reason);
  static Value object(Kind kind, std::shared_ptr<const Object> object);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }
  // List, tuple, range or view: has items().
  bool is_sequence() const { return kind_ >= Kind::kList && kind_ <= Kind::kView; }

  bool as_bool() const { return integer_ != 0; }
  int64_t as_integer() const { return integer_; }  // kInt or kBool
  double as_real() const { return kind_ == Kind::kFloat ? real_ : static_cast<double>(integer_); }
  const std::string& text() const;
  // A string that HTML escaping must not touch (Python's Markup).
  bool safe() const { return safe_; }
  Value with_safe(bool safe) const;
  const std::vector<Value>& items() const;
  const DictObject& dict() const;
  const std::string& undefined_reason() const;
  template <typename T>
  const T& as() const {
    return static_cast<const T&>(*object_);
  }
  const std::shared_ptr<const Object>& shared() const { return object_; }

  // Levels of containers: 0 for scalars.
  int depth() const;
  // Python's type name: "str", "dict".
  std::string_view type_name() const;

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::kUndefined;
  bool safe_ = false;
  union {
    int64_t integer_ = 0;
    double real_;
  };
  std::shared_ptr<const Object> object_;
};

struct StringObject : Object {
  StringObject(Runtime* runtime, std::string t)
      : Object(runtime, sizeof(StringObject) + t.capacity()), text(std::move(t)) {}
  const std::string text;
};

struct SequenceObject : Object {
  SequenceObject(Runtime* runtime, std::vector<Value> values);
  const std::vector<Value> items;
};

struct RangeObject : SequenceObject {
  RangeObject(Runtime* runtime, std::vector<Value> values, int64_t first, int64_t last, int64_t by)
      : SequenceObject(runtime, std::move(values)), start(first), stop(last), step(by) {}
  const int64_t start, stop, step;
};

struct ViewObject : SequenceObject {
  ViewObject(Runtime* runtime, std::vector<Value> values, std::string_view type)
      : SequenceObject(runtime, std::move(values)), name(type) {}
  const std::string_view name;  // "dict_items"
};

// Insertion-ordered; a repeated key keeps its first place and takes the last value.
struct DictObject : Object {
  using Entry = std::pair<Value, Value>;
  DictObject(Runtime* runtime, std::vector<Entry> pairs);
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;

  std::vector<Entry> entries;
  std::vector<uint32_t> order;  // entries by key, for lookup
};

// What map, select and the like return: evaluated at once, but an error waits for its place in the iteration.
struct GeneratorObject : Object {
  GeneratorObject(Runtime* runtime, std::vector<Value> values, Status status)
      : Object(runtime, sizeof(GeneratorObject) + values.size() * sizeof(Value)),
        items(std::move(values)),
        error(std::move(status)) {
    depth = 1 + max_depth(items);
  }
  const std::vector<Value> items;
  const Status error;  // met after the last item
  mutable size_t next = 0;
};

struct NamespaceObject : Object {
  explicit NamespaceObject(Runtime* runtime) : Object(runtime, sizeof(NamespaceObject)) {}
  void set(const std::string& name, Value value) const;
  const Value* find(std::string_view name) const;

  mutable std::vector<std::pair<std::string, Value>> attributes;
  mutable std::map<std::string, size_t, std::less<>> index;
};

// The "loop" of a running for: takes items from the source as they are needed, so that the condition of a
// filtered loop sees what earlier iterations did.
struct LoopObject : Object {
  LoopObject(Runtime* runtime, Value sequence) : Object(runtime, sizeof(LoopObject)), source(std::move(sequence)) {
    depth = 1 + source.depth();
  }
  // Takes items until there are `count`, or all.
  Status take(size_t count) const;

  const Value source;
  mutable std::function<Expected<bool>(const Value& item)> keep;  // null: every item; only while the loop runs
  mutable std::vector<Value> items;
  mutable size_t taken = 0, position = 0;
};

// A dictionary key must be a scalar: Python would also hash tuples, which no template was seen to need.
bool is_hashable(const Value& value);
// Total order of hashable values under which equal keys (1, 1.0, true) compare as 0.
int compare_keys(const Value& a, const Value& b);

bool truthy(const Value& value);
Value make_dict(Runtime* runtime, std::vector<DictObject::Entry> entries);

}  // namespace pare::jinja
