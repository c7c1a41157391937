#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <type_traits>

#include "base/checked.h"
#include "base/limits.h"
#include "io/atomic_file.h"
#include "io/gguf.h"
#include "io/gguf_types.h"
#include "io/quote_name.h"
#include "io/tensor_copier.h"

namespace pare {
namespace {

constexpr int64_t kMaxAlignment = 65'536;

class HeaderWriter {
 public:
  std::string take() { return std::move(out_); }

  template <typename T>
  requires std::is_arithmetic_v<T>
  void number(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    out_.append(raw, sizeof(T));
  }
  void type(GgufValueType value) { number(static_cast<uint32_t>(value)); }
  void text(std::string_view value) {
    number(static_cast<uint64_t>(value.size()));
    out_.append(value);
  }
  void array(GgufValueType item, size_t count) {
    type(GgufValueType::kArray);
    type(item);
    number(static_cast<uint64_t>(count));
  }

  void value(bool v) {
    type(GgufValueType::kBool);
    number(static_cast<uint8_t>(v));
  }
  void value(int64_t v) {
    const bool narrow = v >= INT32_MIN && v <= INT32_MAX;
    type(narrow ? GgufValueType::kInt32 : GgufValueType::kInt64);
    narrow ? number(static_cast<int32_t>(v)) : number(v);
  }
  void value(uint64_t v) {
    const bool narrow = v <= UINT32_MAX;
    type(narrow ? GgufValueType::kUint32 : GgufValueType::kUint64);
    narrow ? number(static_cast<uint32_t>(v)) : number(v);
  }
  void value(double v) {
    const bool narrow = is_float(v);
    type(narrow ? GgufValueType::kFloat32 : GgufValueType::kFloat64);
    narrow ? number(static_cast<float>(v)) : number(v);
  }
  void value(const std::string& v) {
    type(GgufValueType::kString);
    text(v);
  }
  void value(const std::vector<bool>& v) {
    array(GgufValueType::kBool, v.size());
    for (const bool item : v) number(static_cast<uint8_t>(item));
  }
  void value(const std::vector<int64_t>& v) {
    bool narrow = true;
    for (const int64_t item : v) narrow = narrow && item >= INT32_MIN && item <= INT32_MAX;
    array(narrow ? GgufValueType::kInt32 : GgufValueType::kInt64, v.size());
    for (const int64_t item : v) narrow ? number(static_cast<int32_t>(item)) : number(item);
  }
  void value(const std::vector<double>& v) {
    bool narrow = true;
    for (const double item : v) narrow = narrow && is_float(item);
    array(narrow ? GgufValueType::kFloat32 : GgufValueType::kFloat64, v.size());
    for (const double item : v) narrow ? number(static_cast<float>(item)) : number(item);
  }
  void value(const std::vector<std::string>& v) {
    array(GgufValueType::kString, v.size());
    for (const std::string& item : v) text(item);
  }

 private:
  static bool is_float(double v) {
    if (!(v >= -std::numeric_limits<float>::max() && v <= std::numeric_limits<float>::max()))
      return v != v || v - v != 0;
    return static_cast<double>(static_cast<float>(v)) == v;
  }

  std::string out_;
};

// What read_gguf would refuse must not be written.
Status check_value(std::string_view key, const MetaValue& value) {
  if (key.empty() || static_cast<int64_t>(key.size()) > kMaxKeyBytes) {
    return invalid_argument(
        fmt::format("metadata key {} has {} bytes, allowed 1 to {}", quote_name(key), key.size(), kMaxKeyBytes));
  }
  return std::visit(
      [&](const auto& held) -> Status {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_arithmetic_v<T>) {
          return ok_status();
        } else if constexpr (std::is_same_v<T, std::string>) {
          if (static_cast<int64_t>(held.size()) <= kMaxMetadataStringBytes) return ok_status();
          return invalid_argument(fmt::format("metadata key {}: a string of {} bytes, limit {}", quote_name(key),
                                              held.size(), kMaxMetadataStringBytes));
        } else {
          if (static_cast<int64_t>(held.size()) <= kMaxMetadataArrayItems) return ok_status();
          return invalid_argument(fmt::format("metadata key {}: an array of {} items, limit {}", quote_name(key),
                                              held.size(), kMaxMetadataArrayItems));
        }
      },
      value);
}

Expected<uint64_t> read_alignment(const Metadata& metadata) {
  const auto alignment = metadata.get_int_or("general.alignment", kGgufDefaultAlignment, 8, kMaxAlignment);
  if (!alignment.ok() || !std::has_single_bit(static_cast<uint64_t>(*alignment))) {
    return invalid_argument(fmt::format("general.alignment must be a power of two from 8 to {}", kMaxAlignment));
  }
  return static_cast<uint64_t>(*alignment);
}

}  // namespace

Status write_gguf(const std::filesystem::path& path, const Metadata& metadata, std::span<const TensorSpec> tensors,
                  const TensorProducer& produce, const WriteProgress& progress) {
  if (static_cast<int64_t>(metadata.values().size()) > kMaxMetadataKeys) {
    return invalid_argument(fmt::format("{} metadata keys, limit {}", metadata.values().size(), kMaxMetadataKeys));
  }
  PARE_ASSIGN_OR_RETURN(const uint64_t alignment, read_alignment(metadata));
  PARE_ASSIGN_OR_RETURN(const std::vector<uint64_t> bytes, check_specs(tensors));
  HeaderWriter header;
  header.number(uint32_t{0x46554747});  // "GGUF"
  header.number(kGgufVersion);
  header.number(static_cast<uint64_t>(tensors.size()));
  header.number(static_cast<uint64_t>(metadata.values().size()));
  for (const auto& [key, value] : metadata.values()) {
    PARE_RETURN_IF_ERROR(check_value(key, value));
    header.text(key);
    std::visit([&](const auto& held) { header.value(held); }, value);
  }
  uint64_t offset = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorSpec& spec = tensors[i];
    const GgufTensorType* const type = find_gguf_tensor_type(spec.dtype);
    if (!type || bytes[i] == 0) {
      return invalid_argument(fmt::format("tensor {}: GGUF has no {}", quote_name(spec.name),
                                          type ? "empty tensors" : fmt::format("type {}", dtype_name(spec.dtype))));
    }
    header.text(spec.name);
    header.number(static_cast<uint32_t>(spec.shape.size()));
    for (size_t d = spec.shape.size(); d-- > 0;) header.number(static_cast<uint64_t>(spec.shape[d]));
    header.number(type->number);
    header.number(offset);
    const auto end = checked_add<uint64_t>(offset, bytes[i]);
    const auto next = end ? checked_round_up<uint64_t>(*end, alignment) : std::nullopt;
    if (!next || *next > static_cast<uint64_t>(INT64_MAX))
      return invalid_argument("the tensors have more than 2^63 bytes");
    offset = *next;
  }
  std::string text = header.take();
  text.resize(round_up<uint64_t>(text.size(), alignment), '\0');
  PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  PARE_RETURN_IF_ERROR(
      check_free_space(path.has_parent_path() ? path.parent_path() : ".", static_cast<int64_t>(text.size() + offset)));
  PARE_RETURN_IF_ERROR(file.write(text));
  TensorCopier copier(produce, progress, std::accumulate(bytes.begin(), bytes.end(), uint64_t{0}));
  const std::string padding(alignment, '\0');
  for (size_t i = 0; i < tensors.size(); ++i) {
    PARE_RETURN_IF_ERROR(copier.copy(i, tensors[i], bytes[i], &file));
    PARE_RETURN_IF_ERROR(
        file.write(std::string_view(padding).substr(0, round_up<uint64_t>(bytes[i], alignment) - bytes[i])));
  }
  return file.commit();
}

}  // namespace pare
