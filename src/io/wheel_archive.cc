#include "io/wheel_archive.h"

#include "io/zip_archive.h"

namespace pare {

Expected<int64_t> read_wheel_member(const std::filesystem::path& wheel, const std::string& member, int64_t max_bytes,
                                    const std::function<Status(std::string_view)>& sink) {
  PARE_ASSIGN_OR_RETURN(const ZipArchive archive, ZipArchive::open(wheel, kMaxWheelEntries));
  return archive.read(member, max_bytes, 0, sink);
}

}  // namespace pare
