// Small model files in memory and scratch folders for the tests of src/io.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../../scratch_folder.h"
#include "io/tensor_entry.h"
#include "io/tensor_stream.h"

namespace pare {

inline std::filesystem::path source_path(std::string_view relative) {
  return std::filesystem::path(PARE_SOURCE_DIR) / relative;
}

using test::ScratchFolder;

inline std::string read_whole(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

inline void write_whole(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

inline std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

// Bytes of a file under construction.
class Bytes {
 public:
  template <typename T>
  Bytes& number(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    text_.append(raw, sizeof(T));
    return *this;
  }
  Bytes& u32(uint32_t value) { return number(value); }
  Bytes& u64(uint64_t value) { return number(value); }
  Bytes& string(std::string_view value) { return u64(value.size()).raw(value); }
  Bytes& raw(std::string_view value) {
    text_ += value;
    return *this;
  }
  Bytes& pad(size_t unit) {
    while (text_.size() % unit != 0) text_ += '\0';
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// A producer of tensors that lie in memory, one text each, in pieces of at most 7 bytes.
inline TensorProducer produce_texts(const std::vector<std::string>& texts) {
  return [&texts](size_t index, const TensorSink& sink) -> Status {
    for (std::string_view rest = texts[index]; !rest.empty(); rest.remove_prefix(std::min<size_t>(7, rest.size()))) {
      PARE_RETURN_IF_ERROR(sink(as_bytes(rest.substr(0, 7))));
    }
    return ok_status();
  };
}

inline std::string text_of(const TensorEntry& entry) {
  return std::string(reinterpret_cast<const char*>(entry.data.data()), entry.data.size());
}

}  // namespace pare
