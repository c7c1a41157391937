// Reading members of a zip archive that nobody vouches for, without unpacking anything to disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"

struct zip;

namespace pare {

// Names are compared, never used as paths. One object is for one thread. Messages do not name the archive.
class ZipArchive {
 public:
  // kDataLoss when the archive is inconsistent, has more than `max_entries` entries, holds a name twice, or any name
  // that would leave a folder ("../x", "/x"). Cost: the directory.
  static Expected<ZipArchive> open(const std::filesystem::path& path, int64_t max_entries);
  // The same of bytes in memory, which must outlive the object.
  static Expected<ZipArchive> open(std::span<const std::byte> bytes, int64_t max_entries);

  const std::vector<std::string>& names() const { return names_; }

  // Passes the bytes of the member with exactly that name to `sink`, in order, in blocks of at most 256 KiB, and
  // returns how many there were. kNotFound when there is none; kDataLoss when it is encrypted, has a wrong CRC, is
  // longer than `max_bytes`, or more than `max_ratio` times as long as what it is stored in (0: any); sink's error.
  Expected<int64_t> read(const std::string& member, int64_t max_bytes, int64_t max_ratio,
                         const std::function<Status(std::string_view)>& sink) const;

 private:
  struct Discard {
    void operator()(zip* archive) const;
  };
  explicit ZipArchive(zip* archive) : archive_(archive) {}
  static Expected<ZipArchive> adopt(zip* archive, int error, int64_t max_entries);

  std::unique_ptr<zip, Discard> archive_;
  std::vector<std::string> names_;
};

}  // namespace pare
