// The few file operations on which the store's promises rest: whole writes, durable renames, one writer at a
// time. Every error names the operation and the path; a full disk, a quota and a size limit are
// kResourceExhausted, all other refusals kIoError (kNotFound for a missing file).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <utility>

#include "pare/status.h"

namespace pare {

// Owns a file descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  void reset();

 private:
  int fd_ = -1;
};

Status errno_status(int error, std::string_view operation, const std::filesystem::path& path);

// open(2) with close-on-exec and mode 0644, never through a final symbolic link when it may write.
Expected<UniqueFd> open_file(const std::filesystem::path& path, int flags);
Status write_all(int fd, std::string_view bytes, const std::filesystem::path& path);
Status make_folders(const std::filesystem::path& folder);
Status remove_tree(const std::filesystem::path& path);
// Size of a regular file, or -1 when there is none.
int64_t file_bytes(const std::filesystem::path& path);

// Makes `staged` (same file system, complete, closed) appear under `final_path` in one step: flush, rename,
// flush the folder. After a crash at any moment the final name holds the old file, the new one, or nothing.
Status publish_file(const std::filesystem::path& staged, const std::filesystem::path& final_path);

// kResourceExhausted when the file system of the existing `folder` has less than `bytes` free, with both
// figures.
Status check_free_space(const std::filesystem::path& folder, int64_t bytes);

// Creates the file and its folders, and holds an exclusive lock on it until destroyed; blocks while another
// process or object holds it. The system drops the lock when a process dies, so a left-over lock file means
// nothing.
Expected<UniqueFd> lock_file(const std::filesystem::path& path);

}  // namespace pare
