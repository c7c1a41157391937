#include "io/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "base/checked.h"
#include "base/limits.h"
#include "io/bounded_reader.h"
#include "io/gguf_types.h"
#include "io/quote_name.h"

namespace pare {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kMaxAlignment = 65'536;
// Smallest possible encodings, which bound a count by the bytes that are left: a key of one byte with a
// one-byte value, a tensor with a name of one byte and one dimension.
constexpr uint64_t kMinPairBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

// Bytes of a fixed-size type; 0 for strings, arrays and unknown types.
size_t value_bytes(GgufValueType type) {
  constexpr std::array<uint8_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  const auto number = static_cast<size_t>(type);
  return number < kBytes.size() ? kBytes[number] : 0;
}

class Parser {
 public:
  explicit Parser(std::span<const std::byte> bytes) : bytes_(bytes), reader_(bytes) {}

  Expected<GgufContents> parse() {
    PARE_RETURN_IF_ERROR(read_header());
    for (uint64_t i = 0; i < n_pairs_; ++i) PARE_RETURN_IF_ERROR(read_pair());
    PARE_RETURN_IF_ERROR(read_alignment());
    for (uint64_t i = 0; i < n_tensors_; ++i) PARE_RETURN_IF_ERROR(read_tensor(i));
    PARE_RETURN_IF_ERROR(place_tensors());
    return std::move(file_);
  }

 private:
  Status read_header() {
    PARE_ASSIGN_OR_RETURN(const uint32_t magic, reader_.read<uint32_t>("the magic number"));
    if (magic != kMagic) return data_loss("not a GGUF file: it does not begin with 'GGUF'");
    PARE_ASSIGN_OR_RETURN(file_.version, reader_.read<uint32_t>("the version"));
    if (file_.version != 2 && file_.version != 3) {
      const bool swapped = (file_.version & 0xFFFF) == 0;
      return unsupported(swapped ? std::string("a big-endian GGUF file; only little-endian files are read")
                                 : fmt::format("GGUF version {}, versions 2 and 3 are read", file_.version));
    }
    PARE_ASSIGN_OR_RETURN(n_tensors_, reader_.read<uint64_t>("the tensor count"));
    PARE_ASSIGN_OR_RETURN(n_pairs_, reader_.read<uint64_t>("the metadata count"));
    PARE_RETURN_IF_ERROR(check_count("tensors", n_tensors_, kMaxTensors, kMinTensorBytes));
    return check_count("metadata keys", n_pairs_, kMaxMetadataKeys, kMinPairBytes);
  }

  Status check_count(std::string_view what, uint64_t count, int64_t limit, uint64_t bytes_each) const {
    if (count > static_cast<uint64_t>(limit)) {
      return limit_exceeded(fmt::format("{} {}, limit {}", count, what, limit));
    }
    if (count > reader_.left() / bytes_each) {
      return data_loss(fmt::format("{} {} do not fit in the {} bytes that follow", count, what, reader_.left()));
    }
    return ok_status();
  }

  Expected<std::string_view> read_string(std::string_view what, int64_t limit) {
    PARE_ASSIGN_OR_RETURN(const uint64_t length, reader_.read<uint64_t>(what));
    if (length > static_cast<uint64_t>(limit)) {
      return limit_exceeded(
          fmt::format("{} at offset {} has {} bytes, limit {}", what, reader_.offset() - 8, length, limit));
    }
    return reader_.read_text(length, what);
  }

  Status read_pair() {
    PARE_ASSIGN_OR_RETURN(const std::string_view key, read_string("a metadata key", kMaxKeyBytes));
    if (key.empty()) return data_loss(fmt::format("empty metadata key at offset {}", reader_.offset()));
    if (file_.metadata.has(key)) return data_loss(fmt::format("metadata key {} occurs twice", quote_name(key)));
    auto value = read_value();
    if (!value.ok()) return value.status().with_context("metadata key " + quote_name(key));
    file_.metadata.set(std::string(key), std::move(*value));
    return ok_status();
  }

  Expected<MetaValue> read_value() {
    PARE_ASSIGN_OR_RETURN(const uint32_t number, reader_.read<uint32_t>("a value type"));
    const auto type = static_cast<GgufValueType>(number);
    if (type == GgufValueType::kArray) return read_array();
    if (type == GgufValueType::kString) {
      PARE_ASSIGN_OR_RETURN(const std::string_view text, read_string("a string", kMaxMetadataStringBytes));
      return MetaValue(std::string(text));
    }
    switch (type) {
      case GgufValueType::kUint8: return read_as<uint8_t, uint64_t>();
      case GgufValueType::kInt8: return read_as<int8_t, int64_t>();
      case GgufValueType::kUint16: return read_as<uint16_t, uint64_t>();
      case GgufValueType::kInt16: return read_as<int16_t, int64_t>();
      case GgufValueType::kUint32: return read_as<uint32_t, uint64_t>();
      case GgufValueType::kInt32: return read_as<int32_t, int64_t>();
      case GgufValueType::kUint64: return read_as<uint64_t, uint64_t>();
      case GgufValueType::kInt64: return read_as<int64_t, int64_t>();
      case GgufValueType::kFloat32: return read_as<float, double>();
      case GgufValueType::kFloat64: return read_as<double, double>();
      case GgufValueType::kBool: {
        PARE_ASSIGN_OR_RETURN(const uint8_t byte, reader_.read<uint8_t>("a boolean"));
        PARE_RETURN_IF_ERROR(check_bool(byte));
        return MetaValue(byte != 0);
      }
      default: return unknown_type(number);
    }
  }

  template <typename Stored, typename Widened>
  Expected<MetaValue> read_as() {
    PARE_ASSIGN_OR_RETURN(const Stored value, reader_.read<Stored>("a value"));
    return MetaValue(static_cast<Widened>(value));
  }

  static Status unknown_type(uint32_t number) {
    return data_loss(fmt::format("unknown value type {} (known: 0 to 12)", number));
  }

  static Status check_bool(uint8_t byte) {
    if (byte > 1) return data_loss(fmt::format("a boolean is {}, allowed 0 and 1", byte));
    return ok_status();
  }

  Expected<MetaValue> read_array() {
    MetaValue out;
    bool typed = false;
    array_items_ = 0;
    PARE_RETURN_IF_ERROR(read_array_into(&out, &typed, 1));
    if (!typed) out = std::vector<int64_t>();
    return out;
  }

  // One array, its leaves appended to `out`; the first leaf array decides the type (`typed`).
  Status read_array_into(MetaValue* out, bool* typed, int64_t depth) {
    PARE_ASSIGN_OR_RETURN(const uint32_t number, reader_.read<uint32_t>("an array's type"));
    PARE_ASSIGN_OR_RETURN(const uint64_t count, reader_.read<uint64_t>("an array's length"));
    const auto type = static_cast<GgufValueType>(number);
    if (number > static_cast<uint32_t>(GgufValueType::kFloat64)) return unknown_type(number);
    const size_t item_bytes = value_bytes(type);
    const uint64_t min_bytes = item_bytes ? item_bytes : type == GgufValueType::kString ? 8 : 12;
    PARE_RETURN_IF_ERROR(check_count("array items", count, kMaxMetadataArrayItems, min_bytes));
    array_items_ += count;
    if (array_items_ > uint64_t{kMaxMetadataArrayItems}) {
      return limit_exceeded(fmt::format("nested arrays of {} items, limit {}", array_items_, kMaxMetadataArrayItems));
    }
    if (type == GgufValueType::kArray) {
      if (depth >= kMaxMetadataDepth) {
        return limit_exceeded(fmt::format("arrays nested deeper than {} levels", kMaxMetadataDepth));
      }
      for (uint64_t i = 0; i < count; ++i) PARE_RETURN_IF_ERROR(read_array_into(out, typed, depth + 1));
      return ok_status();
    }
    switch (type) {
      case GgufValueType::kUint8: return append<uint8_t, int64_t>(count, out, typed);
      case GgufValueType::kInt8: return append<int8_t, int64_t>(count, out, typed);
      case GgufValueType::kUint16: return append<uint16_t, int64_t>(count, out, typed);
      case GgufValueType::kInt16: return append<int16_t, int64_t>(count, out, typed);
      case GgufValueType::kUint32: return append<uint32_t, int64_t>(count, out, typed);
      case GgufValueType::kInt32: return append<int32_t, int64_t>(count, out, typed);
      case GgufValueType::kUint64: return append<uint64_t, int64_t>(count, out, typed);
      case GgufValueType::kInt64: return append<int64_t, int64_t>(count, out, typed);
      case GgufValueType::kFloat32: return append<float, double>(count, out, typed);
      case GgufValueType::kFloat64: return append<double, double>(count, out, typed);
      case GgufValueType::kBool: return append<uint8_t, bool>(count, out, typed);
      default: return append_strings(count, out, typed);
    }
  }

  // The array that the leaves go to; null when an earlier leaf array had another type.
  template <typename T>
  static std::vector<T>* leaves(MetaValue* out, bool* typed) {
    if (!std::exchange(*typed, true)) *out = std::vector<T>();
    return std::get_if<std::vector<T>>(out);
  }

  // Later leaf arrays grow the vector geometrically: an exact reservation for each would make many small ones
  // quadratic.
  template <typename T>
  static void reserve_first(std::vector<T>* items, uint64_t count) {
    if (items->empty()) items->reserve(count);
  }

  static Status mixed_types() { return unsupported("nested arrays of different types"); }

  template <typename Stored, typename Widened>
  Status append(uint64_t count, MetaValue* out, bool* typed) {
    PARE_ASSIGN_OR_RETURN(const auto data, reader_.take(count * sizeof(Stored), "an array"));
    auto* items = leaves<Widened>(out, typed);
    if (!items) return mixed_types();
    reserve_first(items, count);
    for (uint64_t i = 0; i < count; ++i) {
      Stored value;
      std::memcpy(&value, data.data() + i * sizeof(Stored), sizeof(Stored));
      if constexpr (std::is_same_v<Widened, bool>) {
        PARE_RETURN_IF_ERROR(check_bool(value));
      } else if constexpr (std::is_same_v<Stored, uint64_t>) {
        if (value > static_cast<uint64_t>(INT64_MAX)) {
          return unsupported(fmt::format("array item {} is {}, above 2^63 - 1", i, value));
        }
      }
      items->push_back(static_cast<Widened>(value));
    }
    return ok_status();
  }

  Status append_strings(uint64_t count, MetaValue* out, bool* typed) {
    auto* items = leaves<std::string>(out, typed);
    if (!items) return mixed_types();
    reserve_first(items, count);
    for (uint64_t i = 0; i < count; ++i) {
      PARE_ASSIGN_OR_RETURN(const std::string_view text, read_string("an array's string", kMaxMetadataStringBytes));
      items->emplace_back(text);
    }
    return ok_status();
  }

  Status read_alignment() {
    PARE_ASSIGN_OR_RETURN(const int64_t alignment,
                          file_.metadata.get_int_or("general.alignment", kGgufDefaultAlignment, 8, kMaxAlignment));
    if (!std::has_single_bit(static_cast<uint64_t>(alignment))) {
      return data_loss(fmt::format("general.alignment is {}, wanted a power of two", alignment));
    }
    file_.alignment = static_cast<uint64_t>(alignment);
    return ok_status();
  }

  Status read_tensor(uint64_t index) {
    const std::string place = fmt::format("tensor {} of {}", index + 1, n_tensors_);
    auto name = read_string("a tensor's name", kMaxKeyBytes);
    if (!name.ok()) return name.status().with_context(place);
    if (name->empty()) return data_loss(place + ": empty name");
    if (!names_.insert(*name).second) return data_loss(fmt::format("tensor {} occurs twice", quote_name(*name)));
    return read_tensor_info(*name).with_context("tensor " + quote_name(*name));
  }

  Status read_tensor_info(std::string_view name) {
    PARE_ASSIGN_OR_RETURN(const uint32_t n_dims, reader_.read<uint32_t>("the number of dimensions"));
    if (n_dims == 0 || n_dims > kMaxTensorDims) {
      return data_loss(fmt::format("{} dimensions, allowed 1 to {}", n_dims, kMaxTensorDims));
    }
    TensorEntry entry;
    entry.name = name;
    entry.shape.resize(n_dims);
    for (uint32_t d = 0; d < n_dims; ++d) {
      PARE_ASSIGN_OR_RETURN(const uint64_t dim, reader_.read<uint64_t>("a dimension"));
      if (dim == 0 || dim > static_cast<uint64_t>(INT64_MAX)) {
        return data_loss(fmt::format("dimension {} is {}, allowed 1 to 2^63 - 1", d, dim));
      }
      entry.shape[n_dims - 1 - d] = static_cast<int64_t>(dim);
    }
    PARE_ASSIGN_OR_RETURN(const uint32_t number, reader_.read<uint32_t>("the tensor type"));
    const GgufTensorType* type = find_gguf_tensor_type(number);
    if (!type) return unsupported(fmt::format("unknown tensor type {}", number));
    if (!type->dtype) return unsupported(fmt::format("tensor type {} ({}) is not read by pare", number, type->name));
    entry.dtype = *type->dtype;
    Extent extent;
    PARE_ASSIGN_OR_RETURN(extent.offset, reader_.read<uint64_t>("the data offset"));
    PARE_ASSIGN_OR_RETURN(extent.bytes, tensor_bytes(entry.dtype, entry.shape));
    extent.tensor = file_.tensors.size();
    if (extent.offset % file_.alignment != 0) {
      return data_loss(
          fmt::format("data offset {} is no multiple of the alignment {}", extent.offset, file_.alignment));
    }
    extents_.push_back(extent);
    file_.tensors.push_back(std::move(entry));
    return ok_status();
  }

  Status place_tensors() {
    const auto data_offset = checked_round_up<uint64_t>(reader_.offset(), file_.alignment);
    // A file without tensors may end with its header; then there is nothing to align.
    if (!data_offset || *data_offset > bytes_.size()) {
      file_.data_offset = bytes_.size();
      if (!extents_.empty()) return data_loss("the file ends before its tensor data");
      return ok_status();
    }
    file_.data_offset = *data_offset;
    const std::span<const std::byte> data = bytes_.subspan(file_.data_offset);
    for (const Extent& extent : extents_) {
      TensorEntry& entry = file_.tensors[extent.tensor];
      if (extent.offset > data.size() || extent.bytes > data.size() - extent.offset) {
        return data_loss(fmt::format("tensor {}: {} bytes at data offset {}, the file has {} bytes of data",
                                     quote_name(entry.name), extent.bytes, extent.offset, data.size()));
      }
      entry.data = data.subspan(extent.offset, extent.bytes);
    }
    std::sort(extents_.begin(), extents_.end(), [](const Extent& a, const Extent& b) { return a.offset < b.offset; });
    for (size_t i = 1; i < extents_.size(); ++i) {
#ifndef PARE_FAULT_IO_TENSOR_OVERLAP
      if (extents_[i].offset - extents_[i - 1].offset < extents_[i - 1].bytes) {
        return data_loss(fmt::format("tensors {} and {} overlap",
                                     quote_name(file_.tensors[extents_[i - 1].tensor].name),
                                     quote_name(file_.tensors[extents_[i].tensor].name)));
      }
#endif
    }
    return ok_status();
  }

  struct Extent {
    uint64_t offset = 0, bytes = 0;
    size_t tensor = 0;
  };

  std::span<const std::byte> bytes_;
  BoundedReader reader_;
  GgufContents file_;
  uint64_t n_tensors_ = 0, n_pairs_ = 0;
  uint64_t array_items_ = 0;                    // of the current value, over all nesting levels
  std::unordered_set<std::string_view> names_;  // point into bytes_
  std::vector<Extent> extents_;
};

}  // namespace

Expected<GgufContents> read_gguf(std::span<const std::byte> bytes) { return Parser(bytes).parse(); }

bool is_gguf(std::span<const std::byte> bytes) {
  return bytes.size() >= sizeof(kMagic) && std::memcmp(bytes.data(), &kMagic, sizeof(kMagic)) == 0;
}

}  // namespace pare
