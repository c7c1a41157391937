// A little-endian cursor over bytes that nobody vouches for. Every read is checked against what is left; an
// overrun names what was wanted, where, and how much there was. Reads never allocate.
#pragma once

#include <fmt/format.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "pare/status.h"

namespace pare {

static_assert(std::endian::native == std::endian::little, "file formats are read in place");

class BoundedReader {
 public:
  explicit BoundedReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t offset() const { return offset_; }
  uint64_t left() const { return bytes_.size() - offset_; }

  // A number. `what` names the field in the error.
  template <typename T>
  requires std::is_arithmetic_v<T> Expected<T> read(std::string_view what) {
    if (left() < sizeof(T)) return overrun(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  // The next `count` bytes, in place.
  Expected<std::span<const std::byte>> take(uint64_t count, std::string_view what) {
#ifdef PARE_FAULT_IO_READ_PAST_END
    if (left() == 0) return overrun(what, count);
#else
    if (left() < count) return overrun(what, count);
#endif
    const auto bytes = bytes_.subspan(offset_, count);
    offset_ += count;
    return bytes;
  }

  Expected<std::string_view> read_text(uint64_t count, std::string_view what) {
    PARE_ASSIGN_OR_RETURN(const auto bytes, take(count, what));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  Status overrun(std::string_view what, uint64_t wanted) const {
    return data_loss(fmt::format("{} at byte {} needs {} bytes, {} are left", what, offset_, wanted, left()));
  }

  std::span<const std::byte> bytes_;
  uint64_t offset_ = 0;
};

}  // namespace pare
