#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"

namespace pare::jinja {
namespace {

constexpr uint64_t kBytesPerStep = 1024;

int key_rank(const Value& value) {
  if (value.is_number()) return 0;
  return 1 + static_cast<int>(value.kind());
}

}  // namespace

int max_depth(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth;
}

Status Runtime::step(uint64_t bytes) {
  steps_ += 1 + static_cast<int64_t>(bytes / kBytesPerStep);
  if (steps_ > kMaxTemplateSteps) {
    return limit_exceeded("template runs longer than " + std::to_string(kMaxTemplateSteps) + " steps");
  }
  return reserve(0);
}

Status Runtime::reserve(uint64_t bytes) const {
  if (bytes > static_cast<uint64_t>(kMaxTemplateMemoryBytes) ||
      live_bytes_ + static_cast<int64_t>(bytes) > kMaxTemplateMemoryBytes) {
    return limit_exceeded("template values need more than " + std::to_string(kMaxTemplateMemoryBytes) + " bytes");
  }
  return ok_status();
}

Status Runtime::reserve_product(uint64_t count, uint64_t bytes_each) const {
  return reserve(checked_mul(count, bytes_each).value_or(UINT64_MAX));
}

Value Value::boolean(bool b) {
  Value v(Kind::kBool);
  v.integer_ = b ? 1 : 0;
  return v;
}

Value Value::integer(int64_t i) {
  Value v(Kind::kInt);
  v.integer_ = i;
  return v;
}

Value Value::real(double d) {
  Value v(Kind::kFloat);
  v.real_ = d;
  return v;
}

Value Value::string(Runtime* runtime, std::string text, bool safe) {
  Value v(Kind::kString);
  v.safe_ = safe;
  v.object_ = std::make_shared<StringObject>(runtime, std::move(text));
  return v;
}

Value Value::list(Runtime* runtime, std::vector<Value> items) {
  return object(Kind::kList, std::make_shared<SequenceObject>(runtime, std::move(items)));
}

Value Value::tuple(Runtime* runtime, std::vector<Value> items) {
  return object(Kind::kTuple, std::make_shared<SequenceObject>(runtime, std::move(items)));
}

Value Value::undefined(Runtime* runtime, std::string reason) {
  return object(Kind::kUndefined, std::make_shared<StringObject>(runtime, std::move(reason)));
}

Value Value::object(Kind kind, std::shared_ptr<const Object> object) {
  Value v(kind);
  v.object_ = std::move(object);
  return v;
}

const std::string& Value::text() const { return as<StringObject>().text; }

Value Value::with_safe(bool safe) const {
  Value v = *this;
  v.safe_ = safe;
  return v;
}

const std::vector<Value>& Value::items() const { return as<SequenceObject>().items; }

const DictObject& Value::dict() const { return as<DictObject>(); }

const std::string& Value::undefined_reason() const {
  static const std::string kNoReason = "value is undefined";
  return object_ ? as<StringObject>().text : kNoReason;
}

int Value::depth() const { return object_ ? object_->depth : 0; }

std::string_view Value::type_name() const {
  switch (kind_) {
    case Kind::kUndefined: return "Undefined";
    case Kind::kNone: return "NoneType";
    case Kind::kBool: return "bool";
    case Kind::kInt: return "int";
    case Kind::kFloat: return "float";
    case Kind::kString: return safe_ ? "Markup" : "str";
    case Kind::kList: return "list";
    case Kind::kTuple: return "tuple";
    case Kind::kRange: return "range";
    case Kind::kView: return as<ViewObject>().name;
    case Kind::kDict: return "dict";
    case Kind::kGenerator: return "generator";
    case Kind::kNamespace: return "Namespace";
    case Kind::kLoop: return "LoopContext";
    case Kind::kMacro: return "Macro";
    case Kind::kMethod: return "method";
    case Kind::kFunction: return "function";
    case Kind::kJoiner: return "Joiner";
  }
  return "object";
}

SequenceObject::SequenceObject(Runtime* runtime, std::vector<Value> values)
    : Object(runtime, sizeof(RangeObject) + values.capacity() * sizeof(Value)), items(std::move(values)) {
  depth = 1 + max_depth(items);
}

DictObject::DictObject(Runtime* runtime, std::vector<Entry> pairs) : Object(runtime, sizeof(DictObject)) {
  depth = 1;
  std::vector<uint32_t> sorted(pairs.size());
  for (size_t i = 0; i < sorted.size(); ++i) sorted[i] = static_cast<uint32_t>(i);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](uint32_t a, uint32_t b) { return compare_keys(pairs[a].first, pairs[b].first) < 0; });
  // The first of a run of equal keys keeps its place; the last one's value wins.
  std::vector<bool> keep(pairs.size(), false);
  for (size_t i = 0; i < sorted.size();) {
    size_t last = i;
    while (last + 1 < sorted.size() && compare_keys(pairs[sorted[i]].first, pairs[sorted[last + 1]].first) == 0) ++last;
    keep[sorted[i]] = true;
    if (last != i) pairs[sorted[i]].second = pairs[sorted[last]].second;
    i = last + 1;
  }
  std::vector<uint32_t> place(pairs.size());
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (!keep[i]) continue;
    place[i] = static_cast<uint32_t>(entries.size());
    entries.push_back(std::move(pairs[i]));
    depth = std::max(depth, 1 + entries.back().second.depth());
  }
  for (uint32_t i : sorted) {
    if (keep[i]) order.push_back(place[i]);
  }
  memory.grow(static_cast<int64_t>(entries.capacity() * sizeof(Entry) + order.capacity() * sizeof(uint32_t)));
}

const Value* DictObject::find(const Value& key) const {
  const auto it = std::lower_bound(order.begin(), order.end(), key, [&](uint32_t entry, const Value& wanted) {
    return compare_keys(entries[entry].first, wanted) < 0;
  });
  if (it == order.end() || compare_keys(entries[*it].first, key) != 0) return nullptr;
  return &entries[*it].second;
}

const Value* DictObject::find(std::string_view key) const { return find(Value::string(nullptr, std::string(key))); }

void NamespaceObject::set(const std::string& name, Value value) const {
  const auto [it, added] = index.try_emplace(name, attributes.size());
  if (added) {
    attributes.emplace_back(name, std::move(value));
    memory.grow(static_cast<int64_t>(2 * sizeof(attributes[0]) + 2 * name.size()));
  } else {
    attributes[it->second].second = std::move(value);
  }
}

const Value* NamespaceObject::find(std::string_view name) const {
  const auto it = index.find(name);
  return it == index.end() ? nullptr : &attributes[it->second].second;
}

Status LoopObject::take(size_t count) const {
  while (items.size() < count && taken < source.items().size()) {
    const Value& item = source.items()[taken++];
    if (keep) {
      PARE_ASSIGN_OR_RETURN(const bool wanted, keep(item));
      if (!wanted) continue;
    }
    items.push_back(item);
    memory.grow(sizeof(Value));
  }
  return ok_status();
}

bool is_hashable(const Value& value) {
  return value.is_number() || value.is_none() || value.is_string() || value.is_undefined();
}

int compare_keys(const Value& a, const Value& b) {
  const int rank_a = key_rank(a), rank_b = key_rank(b);
  if (rank_a != rank_b) return rank_a < rank_b ? -1 : 1;
  if (a.is_string()) return a.text().compare(b.text());
  if (!a.is_number()) return 0;
  if (a.is_integral() && b.is_integral()) {
    return a.as_integer() < b.as_integer() ? -1 : a.as_integer() > b.as_integer() ? 1 : 0;
  }
  // long double holds every int64 and every double exactly. NaN sorts first, so that the order stays total.
  const auto widen = [](const Value& v) {
    return v.is_integral() ? static_cast<long double>(v.as_integer()) : static_cast<long double>(v.as_real());
  };
  const long double x = widen(a), y = widen(b);
  if (std::isnan(x) || std::isnan(y)) return static_cast<int>(std::isnan(y)) - static_cast<int>(std::isnan(x));
  return x < y ? -1 : x > y ? 1 : 0;
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone: return false;
    case Kind::kBool:
    case Kind::kInt: return value.as_integer() != 0;
    case Kind::kFloat: return value.as_real() != 0.0;
    case Kind::kString: return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView: return !value.items().empty();
    case Kind::kDict: return !value.dict().entries.empty();
    default: return true;
  }
}

Value make_dict(Runtime* runtime, std::vector<DictObject::Entry> entries) {
  return Value::object(Kind::kDict, std::make_shared<DictObject>(runtime, std::move(entries)));
}

}  // namespace pare::jinja
