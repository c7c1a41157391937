// A file mapped read-only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <utility>

#include "pare/status.h"

namespace pare {

// Owns the mapping; moving it keeps addresses. The bytes are the file's at the time of each access: a process
// that truncates the file under a mapping makes reads of the lost pages fatal (SIGBUS), which is why pare's own
// writers replace files and never rewrite them.
class MappedFile {
 public:
  // kNotFound or kIoError from the system; kInvalidArgument for what is not a regular file. An empty file gives
  // empty bytes.
  static Expected<MappedFile> open(const std::filesystem::path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }

  // Lets the system forget the resident pages that lie wholly inside `range` (a part of bytes()); a later read
  // fetches them again. For weights that have been packed elsewhere. Safe from any thread.
  void drop_resident(std::span<const std::byte> range) const;

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace pare
