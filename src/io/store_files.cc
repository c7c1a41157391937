#include "io/store_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "base/checked.h"

namespace pare {
namespace fs = std::filesystem;

void UniqueFd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Status errno_status(int error, std::string_view operation, const fs::path& path) {
  std::string message =
      path.string() + ": cannot " + std::string(operation) + ": " + std::generic_category().message(error);
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return resource_exhausted(std::move(message));
    case ENOENT: return not_found(std::move(message));
    default: return io_error(std::move(message));
  }
}

Expected<UniqueFd> open_file(const fs::path& path, int flags) {
  if ((flags & O_ACCMODE) != O_RDONLY) flags |= O_NOFOLLOW;
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return errno_status(errno, (flags & O_CREAT) != 0 ? "create" : "open", path);
  return UniqueFd(fd);
}

Status write_all(int fd, std::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(fd, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return errno_status(errno, "write", path);
    bytes.remove_prefix(static_cast<size_t>(wrote));
  }
  return ok_status();
}

Status make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return errno_status(error.value(), "create the folder", folder);
  return ok_status();
}

Status remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return errno_status(error.value(), "remove", path);
  return ok_status();
}

int64_t file_bytes(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return -1;
  return info.st_size;
}

Status publish_file(const fs::path& staged, const fs::path& final_path) {
  PARE_RETURN_IF_ERROR(make_folders(final_path.parent_path()));
  {
    PARE_ASSIGN_OR_RETURN(const UniqueFd file, open_file(staged, O_RDONLY));
    if (::fsync(file.get()) != 0) return errno_status(errno, "flush", staged);
  }
  if (::rename(staged.c_str(), final_path.c_str()) != 0) return errno_status(errno, "rename to", final_path);
  PARE_ASSIGN_OR_RETURN(const UniqueFd folder, open_file(final_path.parent_path(), O_RDONLY | O_DIRECTORY));
  if (::fsync(folder.get()) != 0) return errno_status(errno, "flush", final_path.parent_path());
  return ok_status();
}

Status check_free_space(const fs::path& folder, int64_t bytes) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) return errno_status(errno, "examine", folder);
  const auto available = checked_mul<uint64_t>(info.f_bavail, info.f_frsize);
  if (bytes <= 0 || !available || *available >= static_cast<uint64_t>(bytes)) return ok_status();
  return resource_exhausted(folder.string() + ": " + std::to_string(bytes) + " bytes are needed, " +
                            std::to_string(*available) + " are free");
}

Expected<UniqueFd> lock_file(const fs::path& path) {
  PARE_RETURN_IF_ERROR(make_folders(path.parent_path()));
  PARE_ASSIGN_OR_RETURN(UniqueFd file, open_file(path, O_RDWR | O_CREAT));
  int result;
  do {
    result = ::flock(file.get(), LOCK_EX);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return errno_status(errno, "lock", path);
  return file;
}

}  // namespace pare
