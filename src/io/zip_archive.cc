#include "io/zip_archive.h"

#include <zip.h>

#include <algorithm>

#include "io/quote_name.h"

namespace pare {
namespace {

struct CloseMember {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};

bool leaves_folder(std::string_view name) {
  if (name.starts_with('/') || name.find('\\') != std::string_view::npos) return true;
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('/', start), name.size());
    if (name.substr(start, end - start) == "..") return true;
    start = end + 1;
  }
  return false;
}

}  // namespace

void ZipArchive::Discard::operator()(zip* archive) const { zip_discard(archive); }

Expected<ZipArchive> ZipArchive::adopt(zip* opened, int code, int64_t max_entries) {
  if (opened == nullptr) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    std::string message = std::string("not a readable zip archive: ") + zip_error_strerror(&error);
    zip_error_fini(&error);
    return data_loss(std::move(message));
  }
  ZipArchive archive(opened);
  // libzip opens no archive in which a name occurs twice.
  const zip_int64_t entries = zip_get_num_entries(opened, 0);
  if (entries < 0 || entries > max_entries) {
    return data_loss(std::to_string(entries) + " entries, limit " + std::to_string(max_entries));
  }
  archive.names_.reserve(static_cast<size_t>(entries));
  for (zip_int64_t i = 0; i < entries; ++i) {
    const char* name = zip_get_name(opened, static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
    if (name == nullptr) return data_loss("entry " + std::to_string(i) + " has no name");
    if (leaves_folder(name)) return data_loss("entry " + quote_name(name) + " would leave its folder");
    archive.names_.emplace_back(name);
  }
  return archive;
}

Expected<ZipArchive> ZipArchive::open(const std::filesystem::path& path, int64_t max_entries) {
  int code = 0;
  zip_t* const archive = zip_open(path.c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &code);
  return adopt(archive, code, max_entries);
}

Expected<ZipArchive> ZipArchive::open(std::span<const std::byte> bytes, int64_t max_entries) {
  zip_error_t error;
  zip_error_init(&error);
  zip_t* archive = nullptr;
  zip_source_t* const source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
  if (source != nullptr) {
    archive = zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error);
    if (archive == nullptr) zip_source_free(source);
  }
  const int code = zip_error_code_zip(&error);
  zip_error_fini(&error);
  return adopt(archive, code, max_entries);
}

Expected<int64_t> ZipArchive::read(const std::string& member, int64_t max_bytes, int64_t max_ratio,
                                   const std::function<Status(std::string_view)>& sink) const {
  const auto found = std::find(names_.begin(), names_.end(), member);
  if (found == names_.end()) return not_found("no member " + quote_name(member));
  const auto index = static_cast<zip_uint64_t>(found - names_.begin());
  const auto too_long = [&](const std::string& bytes) {
    return data_loss("member " + quote_name(member) + " has " + bytes + " bytes, limit " + std::to_string(max_bytes));
  };
  zip_stat_t info;
  if (zip_stat_index(archive_.get(), index, 0, &info) != 0 || (info.valid & ZIP_STAT_SIZE) == 0) {
    return data_loss("member " + quote_name(member) + ": " + zip_strerror(archive_.get()));
  }
  if (max_bytes < 0 || info.size > static_cast<zip_uint64_t>(max_bytes)) return too_long(std::to_string(info.size));
  if (max_ratio > 0 &&
      ((info.valid & ZIP_STAT_COMP_SIZE) == 0 || info.size / static_cast<zip_uint64_t>(max_ratio) > info.comp_size)) {
    return data_loss("member " + quote_name(member) + " unpacks to more than " + std::to_string(max_ratio) +
                     " times its stored bytes");
  }

  const std::unique_ptr<zip_file_t, CloseMember> file(zip_fopen_index(archive_.get(), index, 0));
  if (!file) return data_loss("member " + quote_name(member) + ": " + zip_strerror(archive_.get()));
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
