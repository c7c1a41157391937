#include "io/store_hub.h"

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <system_error>

#include "io/quote_name.h"
#include "io/sha256.h"
#include "io/store_files.h"

namespace pare {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "hf:";
constexpr std::string_view kDefaultEndpoint = "https://huggingface.co";
constexpr size_t kMaxNamesInMessage = 20;

// What a loader or tokenizer may read beside safetensors. config.json is fetched last: its presence says that
// the set is complete.
constexpr std::string_view kSideFiles[] = {
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
};

bool is_plain_segment(std::string_view segment) {
  if (segment.empty() || segment.size() > 255 || segment.front() == '.') return false;
  return std::all_of(segment.begin(), segment.end(),
                     [](char c) { return c != '/' && c != '\\' && static_cast<unsigned char>(c) >= ' ' && c != 0x7f; });
}

bool is_plain_path(std::string_view path) {
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find('/', start), path.size());
    if (!is_plain_segment(path.substr(start, end - start))) return false;
    start = end + 1;
  }
  return true;
}

std::string from_environment(const char* name, std::string_view fallback) {
  const char* value = std::getenv(name);
  return std::string(value != nullptr && *value != '\0' ? std::string_view(value) : fallback);
}

std::string list_names(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMaxNamesInMessage); ++i) text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > kMaxNamesInMessage) {
    text += " and " + std::to_string(names.size() - kMaxNamesInMessage) + " more";
  }
  return text;
}

using Json = nlohmann::json;

const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto entry = object.find(key);
  return entry == object.end() ? nullptr : &*entry;
}

int64_t size_of(const Json& entry) {
  const Json* size = find(entry, "size");
  if (size == nullptr || !size->is_number_unsigned()) return kUnknownBytes;
  const auto bytes = size->get<uint64_t>();
  return bytes <= static_cast<uint64_t>(kMaxDownloadBytes) ? static_cast<int64_t>(bytes) : kMaxDownloadBytes + 1;
}

Expected<std::vector<HubFile>> parse_listing(const std::string& text) {
  const Json listing = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const Json* siblings = listing.is_discarded() ? nullptr : find(listing, "siblings");
  if (siblings == nullptr || !siblings->is_array()) return data_loss("the hub's answer is no list of files");
  if (siblings->size() > static_cast<size_t>(kMaxHubFiles)) {
    return data_loss(std::to_string(siblings->size()) + " files listed, limit " + std::to_string(kMaxHubFiles));
  }
  std::vector<HubFile> files;
  for (const Json& entry : *siblings) {
    const Json* name = find(entry, "rfilename");
    if (name == nullptr || !name->is_string()) return data_loss("the hub lists a file without a name");
    HubFile file{name->get<std::string>(), size_of(entry), {}};
    if (const Json* lfs = find(entry, "lfs"); lfs != nullptr && lfs->is_object()) {
      const Json* sha256 = find(*lfs, "sha256");
      if (sha256 == nullptr || !sha256->is_string() || !is_sha256_hex(sha256->get_ref<const std::string&>())) {
        return data_loss("the hub lists " + quote_name(file.name) + " without a SHA-256");
      }
      file.sha256 = sha256->get<std::string>();
      file.bytes = size_of(*lfs);
    }
    if (file.bytes > kMaxDownloadBytes) {
      return data_loss(quote_name(file.name) + " exceeds " + std::to_string(kMaxDownloadBytes) + " bytes");
    }
    // Names that could leave the folder are nothing that could be asked for either.
    if (is_plain_path(file.name)) files.push_back(std::move(file));
  }
  return files;
}

std::vector<std::string> names_ending(const std::vector<HubFile>& files, std::string_view suffix) {
  std::vector<std::string> names;
  for (const HubFile& file : files) {
    if (file.name.ends_with(suffix)) names.push_back(file.name);
  }
  return names;
}

const HubFile* find_file(const std::vector<HubFile>& files, std::string_view name) {
  const auto file = std::find_if(files.begin(), files.end(), [&](const HubFile& f) { return f.name == name; });
  return file == files.end() ? nullptr : &*file;
}

// "model-00001-of-00003.safetensors": a shard in the repository's root.
bool is_shard(std::string_view name) {
  return name.starts_with("model-") && name.find("-of-") != std::string_view::npos && name.ends_with(".safetensors") &&
         name.find('/') == std::string_view::npos;
}

Expected<std::vector<HubFile>> choose_safetensors(const std::vector<HubFile>& files) {
  const HubFile* config = find_file(files, "config.json");
  const HubFile* whole = find_file(files, "model.safetensors");
  const HubFile* index = find_file(files, "model.safetensors.index.json");
  std::vector<HubFile> chosen;
  if (whole != nullptr) {
    chosen.push_back(*whole);
  } else if (index != nullptr) {
    std::copy_if(files.begin(), files.end(), std::back_inserter(chosen),
                 [](const HubFile& f) { return is_shard(f.name); });
    if (!chosen.empty()) chosen.push_back(*index);
  }
  if (chosen.empty() || config == nullptr) {
    return not_found("neither a .gguf nor config.json with model.safetensors; name one file (hf:OWNER/REPO:FILE)");
  }
  for (const std::string_view side : kSideFiles) {
    if (const HubFile* file = find_file(files, side)) chosen.push_back(*file);
  }
  chosen.push_back(*config);
  return chosen;
}

class HubPull {
 public:
  HubPull(const HubName& name, const fs::path& store, const PullOptions& options, const PullProgress& progress)
      : name_(name),
        final_folder_(store / "hf" / name.owner / name.repo),
        staging_(store / ".partial" / "hf" / name.owner / name.repo),
        lock_path_(store / ".partial" / ".locks" / "hf" / name.owner / name.repo),
        endpoint_(options.hub_endpoint.empty() ? from_environment("HF_ENDPOINT", kDefaultEndpoint)
                                               : options.hub_endpoint),
        http_(options.http),
        progress_(progress) {
    while (endpoint_.ends_with('/')) endpoint_.pop_back();
    http_.bearer_token = options.hub_token.empty() ? from_environment("HF_TOKEN", "") : options.hub_token;
  }

  Status run() {
    PARE_ASSIGN_OR_RETURN(const UniqueFd lock, lock_file(lock_path_));

    report("listing files", 0, 0);
    const std::string repository = url_escape(name_.owner) + "/" + url_escape(name_.repo);
    PARE_ASSIGN_OR_RETURN(const std::string listing, http_get(endpoint_ + "/api/models/" + repository + "?blobs=true",
                                                              kMaxHubListingBytes, http_));
    PARE_ASSIGN_OR_RETURN(const std::vector<HubFile> files, choose_hub_files(name_, listing));
    PARE_RETURN_IF_ERROR(make_folders(staging_));
    for (const HubFile& file : files) PARE_RETURN_IF_ERROR(pull(file, repository).with_context(file.name));
    return remove_tree(staging_);
  }

 private:
  void report(const std::string& label, int64_t done, int64_t total) const {
    if (progress_) progress_(label, done, total);
  }

  Expected<std::string> hash(const HubFile& file, const fs::path& path) const {
    const std::string label = "checking " + file.name;
    return sha256_of_file(path, [&](int64_t done) { report(label, done, std::max<int64_t>(file.bytes, 0)); });
  }

  Expected<bool> is_present(const HubFile& file) const {
    const fs::path path = final_folder_ / file.name;
    const int64_t have = file_bytes(path);
    if (have < 0 || have != file.bytes) return false;
    if (file.sha256.empty()) return true;
    PARE_ASSIGN_OR_RETURN(const std::string actual, hash(file, path));
    return actual == file.sha256;
  }

  Status pull(const HubFile& file, const std::string& repository) const {
    PARE_ASSIGN_OR_RETURN(const bool present, is_present(file));
    if (present) return ok_status();
    const fs::path staged = staging_ / file.name;
    PARE_RETURN_IF_ERROR(make_folders(staged.parent_path()));
    PARE_RETURN_IF_ERROR(check_free_space(staging_, file.bytes - std::max<int64_t>(file_bytes(staged), 0)));

    std::string url = endpoint_ + "/" + repository + "/resolve/main";
    for (const fs::path& segment : fs::path(file.name)) url += "/" + url_escape(segment.string());
    PARE_RETURN_IF_ERROR(http_download(url, staged, file.bytes, http_,
                                       [&](int64_t done, int64_t total) { report(file.name, done, total); }));
    if (!file.sha256.empty()) {
      PARE_ASSIGN_OR_RETURN(const std::string actual, hash(file, staged));
      if (actual != file.sha256) {
        PARE_RETURN_IF_ERROR(remove_tree(staged));
        return data_loss("SHA-256 is " + actual + ", expected " + file.sha256);
      }
    }
    return publish_file(staged, final_folder_ / file.name);
  }

  const HubName& name_;
  const fs::path final_folder_, staging_, lock_path_;
  std::string endpoint_;
  HttpOptions http_;
  const PullProgress& progress_;
};

std::string display(const HubName& name) {
  return "hf:" + name.owner + "/" + name.repo + (name.file.empty() ? "" : ":" + name.file);
}

}  // namespace

bool is_hub_name(std::string_view text) { return text.starts_with(kPrefix); }

Expected<HubName> parse_hub_name(std::string_view text) {
  const std::string whole = quote_name(text);
  if (!is_hub_name(text)) return invalid_argument(whole + ": expected hf:OWNER/REPO or hf:OWNER/REPO:FILE");
  text.remove_prefix(kPrefix.size());
  const size_t colon = text.find(':');
  const std::string_view repository = text.substr(0, colon);
  const size_t slash = repository.find('/');
  if (slash == std::string_view::npos) {
    return invalid_argument(whole + ": expected hf:OWNER/REPO or hf:OWNER/REPO:FILE");
  }
  HubName name{std::string(repository.substr(0, slash)), std::string(repository.substr(slash + 1)), {}};
  if (!is_plain_segment(name.owner) || !is_plain_segment(name.repo)) {
    return invalid_argument(whole + ": owner and repository must be plain names");
  }
  if (colon != std::string_view::npos) {
    name.file = text.substr(colon + 1);
    if (!is_plain_path(name.file)) return invalid_argument(whole + ": not a plain relative file name");
  }
  return name;
}

Expected<std::vector<HubFile>> choose_hub_files(const HubName& name, const std::string& listing) {
  const auto files = parse_listing(listing);
  if (!files.ok()) return files.status().with_context(display(name));
  const std::vector<std::string> ggufs = names_ending(*files, ".gguf");
  if (!name.file.empty()) {
    if (const HubFile* file = find_file(*files, name.file)) return std::vector<HubFile>{*file};
    return not_found(display(name) + ": no such file" + (ggufs.empty() ? "" : "; there are " + list_names(ggufs)));
  }
  if (ggufs.size() == 1) return std::vector<HubFile>{*find_file(*files, ggufs[0])};
  if (ggufs.size() > 1) {
    return invalid_argument(display(name) + " has several models; add :FILE with one of " + list_names(ggufs));
  }
  auto chosen = choose_safetensors(*files);
  if (!chosen.ok()) return chosen.status().with_context(display(name));
  return chosen;
}

Expected<fs::path> hub_model_path(const HubName& name, const fs::path& store) {
  const fs::path folder = store / "hf" / name.owner / name.repo;
  const Status absent = not_found(display(name) + " is not pulled: run `pare pull " + display(name) + "`");
  if (!name.file.empty()) {
    if (file_bytes(folder / name.file) < 0) return absent;
    return folder / name.file;
  }
  if (file_bytes(folder / "config.json") >= 0) return folder;
  std::vector<std::string> ggufs;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == ".gguf") ggufs.push_back(fs::relative(entry->path(), folder, error).string());
  }
  if (ggufs.empty()) return absent;
  if (ggufs.size() == 1) return folder / ggufs[0];
  std::sort(ggufs.begin(), ggufs.end());
  return invalid_argument(display(name) + " has several models pulled; add :FILE with one of " + list_names(ggufs));
}

Expected<fs::path> pull_from_hub(const HubName& name, const fs::path& store, const PullOptions& options,
                                 const PullProgress& progress) {
  const Status status = HubPull(name, store, options, progress).run();
  if (!status.ok()) return status.with_context(display(name));
  return hub_model_path(name, store);
}

}  // namespace pare
