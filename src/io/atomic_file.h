// A file that appears whole or not at all. Every writer of model files goes through it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#include "io/store_files.h"
#include "pare/status.h"

namespace pare {

// Bytes go to a hidden file in the same folder; commit() makes it durable and renames it over the final name.
// Without a successful commit the hidden file is removed and what was at the final name stays. A full disk is
// kResourceExhausted, other refusals kIoError or kNotFound. Not for use by several threads at once.
class AtomicFile {
 public:
  // The folder must exist.
  static Expected<AtomicFile> create(const std::filesystem::path& path);

  AtomicFile(AtomicFile&& other) noexcept
      : path_(std::move(other.path_)), staged_(std::exchange(other.staged_, {})), fd_(std::move(other.fd_)) {}
  AtomicFile& operator=(AtomicFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(staged_, other.staged_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~AtomicFile();

  Status write(std::span<const std::byte> bytes);
  Status write(std::string_view bytes) { return write_all(fd_.get(), bytes, path_); }
  // At most once, after the last write.
  Status commit();

 private:
  AtomicFile() = default;

  std::filesystem::path path_, staged_;  // staged_ is empty once there is nothing to remove
  UniqueFd fd_;
};

}  // namespace pare
