#include "io/torch_pickle.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <string_view>

#include "base/limits.h"
#include "io/bounded_reader.h"
#include "io/quote_name.h"

namespace pare {
namespace {

constexpr size_t kMaxStack = 256;
constexpr int64_t kMaxItems = int64_t{1} << 40;  // of a storage or an offset: products of four stay in range elsewhere

enum class Kind : uint8_t {
  kMark,
  kInteger,
  kFlag,
  kText,
  kTuple,       // number: into Machine::tuples_
  kRebuild,     // torch._utils._rebuild_tensor_v2
  kHooks,       // collections.OrderedDict: the global
  kHooksValue,  // what calling it with no arguments gives
  kType,        // torch.FloatStorage and its like; number: TorchType
  kStorage,     // number: into Machine::storages_
  kTensor,
};

struct Value {
  Kind kind = Kind::kMark;
  int64_t number = 0;
  std::string_view text;  // into the pickle
};

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::kMark: return "a mark";
    case Kind::kInteger: return "an integer";
    case Kind::kFlag: return "a flag";
    case Kind::kText: return "a text";
    case Kind::kTuple: return "a tuple";
    case Kind::kRebuild: return "_rebuild_tensor_v2";
    case Kind::kHooks: return "OrderedDict";
    case Kind::kHooksValue: return "a dictionary";
    case Kind::kType: return "a storage type";
    case Kind::kStorage: return "a storage";
    case Kind::kTensor: return "a tensor";
  }
  return "";
}

std::optional<Value> find_global(std::string_view module, std::string_view name) {
  if (module == "torch._utils" && name == "_rebuild_tensor_v2") return Value{Kind::kRebuild};
  if (module == "collections" && name == "OrderedDict") return Value{Kind::kHooks};
  if (module != "torch") return std::nullopt;
  constexpr std::pair<std::string_view, TorchType> kTypes[] = {
      {"FloatStorage", TorchType::kFloat}, {"DoubleStorage", TorchType::kDouble},
      {"HalfStorage", TorchType::kHalf},   {"BFloat16Storage", TorchType::kBfloat16},
      {"ByteStorage", TorchType::kByte},   {"CharStorage", TorchType::kChar},
      {"BoolStorage", TorchType::kBool},
  };
  for (const auto& [known, type] : kTypes) {
    if (name == known) return Value{Kind::kType, static_cast<int64_t>(type)};
  }
  return std::nullopt;
}

bool is_key(std::string_view text) {
  return !text.empty() && text.size() <= 10 && text.find_first_not_of("0123456789") == std::string_view::npos;
}

class Machine {
 public:
  explicit Machine(std::span<const std::byte> pickle) : in_(pickle) {}

  Expected<TorchTensorRecord> run() {
    for (;;) {
      at_ = in_.offset();
      PARE_ASSIGN_OR_RETURN(const uint8_t opcode, in_.read<uint8_t>("an opcode"));
      if (opcode == '.') return stop();
      if (const Status status = step(opcode); !status.ok()) return status.with_context(fmt::format("byte {}", at_));
    }
  }

 private:
  Status step(uint8_t opcode) {
    switch (opcode) {
      case 0x80: {  // PROTO
        PARE_ASSIGN_OR_RETURN(const uint8_t version, in_.read<uint8_t>("the protocol"));
        if (version != 2) return unsupported(fmt::format("pickle protocol {}, only 2 is read", version));
        return ok_status();
      }
      case 'c': return global();
      case 'q': return put<uint8_t>();
      case 'r': return put<uint32_t>();
      case 'h': return get<uint8_t>();
      case 'j': return get<uint32_t>();
      case '(': return push({Kind::kMark});
      case 'X': {  // BINUNICODE
        PARE_ASSIGN_OR_RETURN(const uint32_t bytes, in_.read<uint32_t>("the length of a text"));
        PARE_ASSIGN_OR_RETURN(const std::string_view text, in_.read_text(bytes, "a text"));
        return push({Kind::kText, 0, text});
      }
      case 'J': return integer<int32_t>();
      case 'K': return integer<uint8_t>();
      case 'M': return integer<uint16_t>();
      case 0x8A: return long_integer();
      case 0x88: return push({Kind::kFlag, 1});
      case 0x89: return push({Kind::kFlag, 0});
      case ')': return tuple(0);
      case 0x85: return tuple(1);
      case 0x86: return tuple(2);
      case 0x87: return tuple(3);
      case 't': return marked_tuple();
      case 'Q': return persistent_id();
      case 'R': return reduce();
      default:
        return unsupported(opcode > 0x20 && opcode < 0x7F
                               ? fmt::format("opcode '{}' has no place in the pickle of a tensor", char(opcode))
                               : fmt::format("opcode 0x{:02x} has no place in the pickle of a tensor", opcode));
    }
  }

  Status push(Value value) {
    if (stack_.size() >= kMaxStack) return limit_exceeded(fmt::format("more than {} values on the stack", kMaxStack));
    stack_.push_back(value);
    return ok_status();
  }

  Expected<Value> pop(std::string_view what) {
    if (stack_.empty()) return data_loss(fmt::format("{}: the stack is empty", what));
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }

  Expected<Value> pop(Kind kind, std::string_view what) {
    PARE_ASSIGN_OR_RETURN(const Value value, pop(what));
    if (value.kind != kind) {
      return data_loss(fmt::format("{} is {}, not {}", what, kind_name(value.kind), kind_name(kind)));
    }
    return value;
  }

  template <typename T>
  Status integer() {
    PARE_ASSIGN_OR_RETURN(const T value, in_.read<T>("an integer"));
    return push({Kind::kInteger, static_cast<int64_t>(value)});
  }

  Status long_integer() {
    PARE_ASSIGN_OR_RETURN(const uint8_t bytes, in_.read<uint8_t>("the length of an integer"));
    PARE_ASSIGN_OR_RETURN(const std::string_view digits, in_.read_text(bytes, "an integer"));
    if (bytes == 0 || bytes > 8) return limit_exceeded(fmt::format("an integer of {} bytes, limit 8", bytes));
    uint64_t value = digits.back() & 0x80 ? ~uint64_t{0} : 0;  // sign
    for (size_t i = digits.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(digits[i]);
    return push({Kind::kInteger, static_cast<int64_t>(value)});
  }

  Expected<std::string_view> line() {
    const uint64_t left = in_.left();
    BoundedReader ahead = in_;
    for (uint64_t i = 0; i < left; ++i) {
      PARE_ASSIGN_OR_RETURN(const char c, ahead.read<char>("a name"));
      if (c != '\n') continue;
      PARE_ASSIGN_OR_RETURN(const std::string_view text, in_.read_text(i + 1, "a name"));
      return text.substr(0, text.size() - 1);
    }
    return data_loss("the name of a global has no end");
  }

  Status global() {
    PARE_ASSIGN_OR_RETURN(const std::string_view module, line());
    PARE_ASSIGN_OR_RETURN(const std::string_view name, line());
    const auto known = find_global(module, name);
    if (!known) {
      return unsupported(
          fmt::format("global {}.{} is not on the list of what a tensor needs", quote_name(module), quote_name(name)));
    }
    return push(*known);
  }

  template <typename T>
  Status put() {
    PARE_ASSIGN_OR_RETURN(const T slot, in_.read<T>("a memo slot"));
    if (stack_.empty() || stack_.back().kind == Kind::kMark) return data_loss("nothing to put into the memo");
    memo_[slot] = stack_.back();
    return ok_status();
  }

  template <typename T>
  Status get() {
    PARE_ASSIGN_OR_RETURN(const T slot, in_.read<T>("a memo slot"));
    const auto found = memo_.find(slot);
    if (found == memo_.end()) return data_loss(fmt::format("memo slot {} is empty", slot));
    return push(found->second);
  }

  Status tuple(size_t items) {
    if (stack_.size() < items) return data_loss(fmt::format("a tuple of {} from {} values", items, stack_.size()));
    std::vector<Value> values(stack_.end() - static_cast<std::ptrdiff_t>(items), stack_.end());
    for (const Value& value : values) {
      if (value.kind == Kind::kMark) return data_loss("a mark inside a tuple");
    }
    stack_.resize(stack_.size() - items);
    tuples_.push_back(std::move(values));
    return push({Kind::kTuple, static_cast<int64_t>(tuples_.size()) - 1});
  }

  Status marked_tuple() {
    size_t items = 0;
    while (items < stack_.size() && stack_[stack_.size() - 1 - items].kind != Kind::kMark) ++items;
    if (items == stack_.size()) return data_loss("a tuple without a mark");
    PARE_RETURN_IF_ERROR(tuple(items));
    const Value made = stack_.back();
    stack_.pop_back();
    stack_.back() = made;  // the mark
    return ok_status();
  }

  // ("storage", type, key, device, items)
  Status persistent_id() {
    PARE_ASSIGN_OR_RETURN(const Value id, pop(Kind::kTuple, "a persistent id"));
    const std::vector<Value>& v = tuples_[id.number];
    if (v.size() != 5 || v[0].kind != Kind::kText || v[1].kind != Kind::kType || v[2].kind != Kind::kText ||
        v[3].kind != Kind::kText || v[4].kind != Kind::kInteger || v[0].text != "storage") {
      return data_loss("a persistent id that is not ('storage', type, key, device, items)");
    }
    if (!is_key(v[2].text)) return data_loss(fmt::format("storage key {} is not a number", quote_name(v[2].text)));
    if (v[4].number < 0 || v[4].number > kMaxItems) {
      return data_loss(fmt::format("a storage of {} items", v[4].number));
    }
    TorchTensorRecord record;
    record.type = static_cast<TorchType>(v[1].number);
    record.storage_key = v[2].text;
    record.storage_items = v[4].number;
    storages_.push_back(std::move(record));
    return push({Kind::kStorage, static_cast<int64_t>(storages_.size()) - 1});
  }

  Status reduce() {
    PARE_ASSIGN_OR_RETURN(const Value arguments, pop(Kind::kTuple, "what a global is called with"));
    PARE_ASSIGN_OR_RETURN(const Value callee, pop("what is called"));
    const std::vector<Value>& v = tuples_[arguments.number];
    if (callee.kind == Kind::kHooks) {
      if (!v.empty()) return data_loss(fmt::format("an OrderedDict of {} arguments, not 0", v.size()));
      return push({Kind::kHooksValue});
    }
    if (callee.kind != Kind::kRebuild) return data_loss(fmt::format("{} is called", kind_name(callee.kind)));
    return rebuild(v);
  }

  // (storage, offset, shape, strides, requires_grad, backward_hooks)
  Status rebuild(const std::vector<Value>& v) {
    if (v.size() != 6 || v[0].kind != Kind::kStorage || v[1].kind != Kind::kInteger || v[2].kind != Kind::kTuple ||
        v[3].kind != Kind::kTuple || v[4].kind != Kind::kFlag || v[5].kind != Kind::kHooksValue) {
      return data_loss("a tensor that is not (storage, offset, shape, strides, requires_grad, backward_hooks)");
    }
    TorchTensorRecord record = storages_[v[0].number];
    record.offset = v[1].number;
    if (record.offset < 0 || record.offset > kMaxItems) return data_loss(fmt::format("storage offset {}", v[1].number));
    PARE_ASSIGN_OR_RETURN(record.shape, integers(v[2], "size"));
    PARE_ASSIGN_OR_RETURN(record.strides, integers(v[3], "stride"));
    if (record.shape.size() != record.strides.size()) {
      return data_loss(fmt::format("{} sizes and {} strides", record.shape.size(), record.strides.size()));
    }
    tensors_.push_back(std::move(record));
    return push({Kind::kTensor, static_cast<int64_t>(tensors_.size()) - 1});
  }

  Expected<std::vector<int64_t>> integers(const Value& tuple, std::string_view what) {
    const std::vector<Value>& items = tuples_[tuple.number];
    if (static_cast<int64_t>(items.size()) > kMaxTensorDims) {
      return limit_exceeded(fmt::format("{} dimensions, limit {}", items.size(), kMaxTensorDims));
    }
    std::vector<int64_t> out;
    for (const Value& item : items) {
      if (item.kind != Kind::kInteger) return data_loss(fmt::format("a {} is {}", what, kind_name(item.kind)));
      if (item.number < 0 || item.number > kMaxItems) return data_loss(fmt::format("a {} of {}", what, item.number));
      out.push_back(item.number);
    }
    return out;
  }

  Expected<TorchTensorRecord> stop() {
    if (stack_.size() != 1) return data_loss(fmt::format("the pickle ends with {} values, not 1", stack_.size()));
    if (in_.left() != 0) return data_loss(fmt::format("{} bytes after the end of the pickle", in_.left()));
    const Value& value = stack_.front();
    if (value.kind != Kind::kTensor) {
      return unsupported(fmt::format("the file holds {}, not a tensor", kind_name(value.kind)));
    }
    return tensors_[value.number];
  }

  BoundedReader in_;
  uint64_t at_ = 0;
  std::vector<Value> stack_;
  std::map<uint32_t, Value> memo_;
  // Values name these by index, so that nothing that nests is ever walked or freed by recursion.
  std::vector<std::vector<Value>> tuples_;
  std::vector<TorchTensorRecord> storages_, tensors_;
};

}  // namespace

int64_t torch_type_bytes(TorchType type) {
  switch (type) {
    case TorchType::kDouble: return 8;
    case TorchType::kFloat: return 4;
    case TorchType::kHalf:
    case TorchType::kBfloat16: return 2;
    case TorchType::kByte:
    case TorchType::kChar:
    case TorchType::kBool: return 1;
  }
  return 0;
}

Expected<TorchTensorRecord> read_torch_pickle(std::span<const std::byte> pickle) {
  if (static_cast<int64_t>(pickle.size()) > kMaxTorchPickleBytes) {
    return limit_exceeded(fmt::format("a pickle of {} bytes, limit {}", pickle.size(), kMaxTorchPickleBytes));
  }
  return Machine(pickle).run();
}

}  // namespace pare
