#include "io/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <system_error>

namespace pare {

Expected<AtomicFile> AtomicFile::create(const std::filesystem::path& path) {
  // Process and count make the name unique among the living; a name left by a killed process is skipped.
  static std::atomic<uint32_t> counter{0};
  constexpr int kAttempts = 64;
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  Status last;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    AtomicFile file;
    file.path_ = folder / path.filename();
    const std::filesystem::path staged =
        folder / fmt::format(".{}.{}-{}.tmp", path.filename().string(), ::getpid(), counter.fetch_add(1));
    auto fd = open_file(staged, O_WRONLY | O_CREAT | O_EXCL);
    if (fd.ok()) {
      file.staged_ = staged;
      file.fd_ = std::move(*fd);
      return file;
    }
    // The hidden name is nobody's business.
    last =
        Status(fd.status().code(), path.string() + std::string(fd.status().message().substr(staged.string().size())));
    std::error_code error;
    if (!std::filesystem::exists(std::filesystem::symlink_status(staged, error))) break;
  }
  return last;
}

AtomicFile::~AtomicFile() {
  if (!staged_.empty()) ::unlink(staged_.c_str());
}

Status AtomicFile::write(std::span<const std::byte> bytes) {
  return write(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

Status AtomicFile::commit() {
  fd_.reset();
  PARE_RETURN_IF_ERROR(publish_file(staged_, path_));
  staged_.clear();
  return ok_status();
}

}  // namespace pare
