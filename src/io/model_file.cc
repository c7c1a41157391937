#include "io/model_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "base/limits.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/quote_name.h"
#include "io/safetensors.h"

namespace pare {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexSuffix = ".safetensors.index.json";
constexpr int64_t kMaxGgufParts = 99'999;  // five digits in the name

bool is_present(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// A whole text file, or "" when there is none.
Expected<std::string> read_text_file(const fs::path& path, int64_t max_bytes) {
  if (!is_present(path)) return std::string();
  PARE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  const auto bytes = file.bytes();
  if (static_cast<int64_t>(bytes.size()) > max_bytes) {
    return limit_exceeded(fmt::format("{}: {} bytes, limit {}", path.string(), bytes.size(), max_bytes));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// NAME-00002-of-00005.gguf taken apart; count is 1 for any other name.
struct SplitName {
  std::string stem;
  int64_t number = 1, count = 1;
};

SplitName parse_split_name(const std::string& name) {
  constexpr std::string_view kPattern = "-#####-of-#####.gguf";
  SplitName split;
  if (name.size() <= kPattern.size()) return split;
  const std::string_view tail = std::string_view(name).substr(name.size() - kPattern.size());
  for (size_t i = 0; i < kPattern.size(); ++i) {
    if (kPattern[i] == '#' ? tail[i] < '0' || tail[i] > '9' : tail[i] != kPattern[i]) return split;
  }
  const auto digits = [&](size_t at) {
    int64_t value = 0;
    for (size_t i = at; i < at + 5; ++i) value = value * 10 + (tail[i] - '0');
    return value;
  };
  const int64_t number = digits(1), count = digits(10);
  if (number < 1 || number > count) return split;
  return {name.substr(0, name.size() - kPattern.size()), number, count};
}

Status check_split_part(const Metadata& metadata, int64_t number, int64_t count) {
  PARE_ASSIGN_OR_RETURN(const int64_t said_count, metadata.get_int_or("split.count", 1, 0, kMaxGgufParts));
  PARE_ASSIGN_OR_RETURN(const int64_t said_number, metadata.get_int_or("split.no", number - 1, 0, kMaxGgufParts));
  if (std::max<int64_t>(said_count, 1) != count) {
    return data_loss(fmt::format("split.count is {}, the file name says {}", said_count, count));
  }
  if (said_number != number - 1) {
    return data_loss(fmt::format("split.no is {}, the file name says part {} of {}", said_number, number, count));
  }
  return ok_status();
}

// The chat template inside tokenizer_config.json, "" when it has none.
Expected<std::string> template_of_config(std::string_view config_json) {
  PARE_ASSIGN_OR_RETURN(const auto config, parse_json(config_json));
  if (!config.is_object()) return data_loss("not a JSON object");
  const auto entry = config.find("chat_template");
  if (entry == config.end() || entry->is_null()) return std::string();
  if (entry->is_string()) return entry->get<std::string>();
  if (!entry->is_array()) return data_loss("'chat_template' is neither a string nor a list");
  std::string first;
  for (const auto& item : *entry) {
    const auto text = item.is_object() ? item.find("template") : item.end();
    if (!item.is_object() || text == item.end() || !text->is_string()) {
      return data_loss("'chat_template' has an item without a 'template' string");
    }
    const auto name = item.find("name");
    if (name != item.end() && name->is_string() && name->get_ref<const std::string&>() == "default") {
      return text->get<std::string>();
    }
    if (first.empty()) first = text->get<std::string>();
  }
  return first;
}

class Hasher {
 public:
  void add(uint64_t value) {
    state_ = (state_ ^ value) * 0x9E3779B97F4A7C15u;
    state_ ^= state_ >> 29;
  }
  void add(std::span<const std::byte> bytes) {
    add(bytes.size());
    while (!bytes.empty()) {
      uint64_t word = 0;
      const size_t n = std::min(bytes.size(), sizeof(word));
      std::memcpy(&word, bytes.data(), n);
      add(word);
      bytes = bytes.subspan(n);
    }
  }
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0x70617265;  // "pare"
};

}  // namespace

Expected<ModelFile> ModelFile::open(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return not_found(path.string() + ": no such file or folder");
  ModelFile model;
  const std::string name = path.filename().string();
  if (fs::is_directory(status)) {
    const fs::path single = path / "model.safetensors", index = path / "model.safetensors.index.json";
    if (!is_present(path / "config.json")) {
      return not_found(path.string() + ": a model folder has a config.json, this one has none");
    }
    if (!is_present(single) && !is_present(index)) {
      return not_found(path.string() + ": neither model.safetensors nor model.safetensors.index.json is there");
    }
    PARE_RETURN_IF_ERROR(model.open_safetensors(path, is_present(single) ? single : index));
  } else if (name.ends_with(".safetensors") || name.ends_with(kIndexSuffix)) {
    PARE_RETURN_IF_ERROR(model.open_safetensors(path.parent_path(), path));
  } else {
    PARE_RETURN_IF_ERROR(model.open_gguf(path));
  }
  PARE_RETURN_IF_ERROR(model.index_tensors().with_context(path.string()));
  return model;
}

Expected<ModelFile> ModelFile::from_parts(ModelParts parts) {
  const std::byte *begin = parts.memory.data(), *end = begin + parts.memory.size();
  for (const TensorEntry& t : parts.tensors) {
    PARE_ASSIGN_OR_RETURN(const uint64_t bytes, tensor_bytes(t.dtype, t.shape));
    if (bytes != t.data.size() || t.data.data() < begin || t.data.data() + bytes > end) {
      return data_loss(
          fmt::format("tensor {}: {} bytes, not all of them in the model's memory", quote_name(t.name), bytes));
    }
  }
  ModelFile model;
  model.container_ = Container::kSafetensors;
  model.metadata_ = std::move(parts.metadata);
  model.tensors_ = std::move(parts.tensors);
  model.memory_ = std::move(parts.memory);
  model.tokenizer_json_ = std::move(parts.tokenizer_json);
  PARE_RETURN_IF_ERROR(model.index_tensors());
  return model;
}

Status ModelFile::open_gguf(const fs::path& path) {
  container_ = Container::kGguf;
  const SplitName split = parse_split_name(path.filename().string());
  for (int64_t number = 1; number <= split.count; ++number) {
    const fs::path part_path =
        split.count == 1 ? path
                         : path.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", split.stem, number, split.count);
    PARE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(part_path));
    auto contents = read_gguf(file.bytes());
    if (!contents.ok()) return contents.status().with_context(part_path.string());
    PARE_RETURN_IF_ERROR(check_split_part(contents->metadata, number, split.count).with_context(part_path.string()));
    if (number == 1) metadata_ = std::move(contents->metadata);
    std::move(contents->tensors.begin(), contents->tensors.end(), std::back_inserter(tensors_));
    parts_.push_back({std::move(file), contents->data_offset});
  }
  auto total = metadata_.get_int_or("split.tensors.count", static_cast<int64_t>(tensors_.size()));
  if (!total.ok()) return total.status().with_context(path.string());
  if (split.count > 1 && *total != static_cast<int64_t>(tensors_.size())) {
    return data_loss(
        fmt::format("{}: split.tensors.count is {}, the parts have {}", path.string(), *total, tensors_.size()));
  }
  if (metadata_.has("tokenizer.chat_template")) {
    const auto text = metadata_.get_string("tokenizer.chat_template");
    if (!text.ok()) return text.status().with_context(path.string());
    chat_template_ = *text;
  }
  return ok_status();
}

Status ModelFile::open_safetensors(const fs::path& folder, const fs::path& weights) {
  container_ = Container::kSafetensors;
  PARE_RETURN_IF_ERROR(read_side_files(folder));
  if (weights.filename().string().ends_with(kIndexSuffix)) return open_index(weights);
  return open_shard(weights, &tensors_);
}

Status ModelFile::open_shard(const fs::path& path, std::vector<TensorEntry>* tensors) {
  PARE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  auto contents = read_safetensors(file.bytes());
  if (!contents.ok()) return contents.status().with_context(path.string());
  std::move(contents->tensors.begin(), contents->tensors.end(), std::back_inserter(*tensors));
  parts_.push_back({std::move(file), contents->data_offset});
  return ok_status();
}

Status ModelFile::open_index(const fs::path& index) {
  PARE_ASSIGN_OR_RETURN(const std::string json, read_text_file(index, kMaxJsonBytes));
  auto map = read_safetensors_index(json);
  if (!map.ok()) return map.status().with_context(index.string());
  std::set<std::string> files;
  for (const auto& [tensor, file] : *map) files.insert(file);
  if (files.size() > static_cast<size_t>(kMaxSafetensorsShards)) {
    return limit_exceeded(fmt::format("{}: {} shards, limit {}", index.string(), files.size(), kMaxSafetensorsShards));
  }
  for (const std::string& file : files) {
    const fs::path path = index.parent_path() / file;
    std::vector<TensorEntry> tensors;
    PARE_RETURN_IF_ERROR(open_shard(path, &tensors));
    for (TensorEntry& tensor : tensors) {
      const auto it = map->find(tensor.name);
      if (it == map->end() || it->second != file) {
        return data_loss(fmt::format("{}: tensor {} is here, the index says {}", path.string(), quote_name(tensor.name),
                                     it == map->end() ? "nothing of it" : quote_name(it->second)));
      }
      map->erase(it);
      tensors_.push_back(std::move(tensor));
    }
  }
  if (!map->empty()) {
    const auto& [tensor, file] = *map->begin();
    return data_loss(fmt::format("{}: tensor {} is not in {} ({} missing in all)", index.string(), quote_name(tensor),
                                 quote_name(file), map->size()));
  }
  return ok_status();
}

Status ModelFile::read_side_files(const fs::path& folder) {
  const fs::path config = folder / "config.json", tokenizer_config = folder / "tokenizer_config.json";
  if (!is_present(config)) return not_found(config.string() + ": missing beside the weights");
  PARE_ASSIGN_OR_RETURN(config_json_, read_text_file(config, kMaxJsonBytes));
  auto parsed = parse_json(config_json_);
  if (!parsed.ok()) return parsed.status().with_context(config.string());
  auto metadata = flatten_json(*parsed);
  if (!metadata.ok()) return metadata.status().with_context(config.string());
  metadata_ = std::move(*metadata);
  PARE_ASSIGN_OR_RETURN(tokenizer_json_, read_text_file(folder / "tokenizer.json", kMaxJsonBytes));
  PARE_ASSIGN_OR_RETURN(tokenizer_config_json_, read_text_file(tokenizer_config, kMaxJsonBytes));
  if (tokenizer_json_.empty()) {
    PARE_ASSIGN_OR_RETURN(vocab_txt_, read_text_file(folder / "vocab.txt", kMaxJsonBytes));
  }
  PARE_ASSIGN_OR_RETURN(chat_template_, read_text_file(folder / "chat_template.jinja", kMaxTemplateBytes));
  if (chat_template_.empty() && !tokenizer_config_json_.empty()) {
    auto text = template_of_config(tokenizer_config_json_);
    if (!text.ok()) return text.status().with_context(tokenizer_config.string());
    chat_template_ = std::move(*text);
  }
  return ok_status();
}

Status ModelFile::index_tensors() {
  if (tensors_.size() > static_cast<size_t>(kMaxTensors)) {
    return limit_exceeded(fmt::format("{} tensors in all parts, limit {}", tensors_.size(), kMaxTensors));
  }
  by_name_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!by_name_.emplace(tensors_[i].name, i).second) {
      return data_loss(fmt::format("tensor {} is in two parts", quote_name(tensors_[i].name)));
    }
  }
  return ok_status();
}

const TensorEntry* ModelFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

void ModelFile::drop_resident(std::span<const std::byte> data) const {
  for (const Part& part : parts_) {
    const auto bytes = part.file.bytes();
    if (data.data() >= bytes.data() && data.data() < bytes.data() + bytes.size()) {
      part.file.drop_resident(data);
      return;
    }
  }
}

uint64_t ModelFile::content_hash() const {
  constexpr size_t kEnd = 64;
  Hasher hasher;
  for (const Part& part : parts_) {
    hasher.add(part.file.bytes().size());
    hasher.add(part.file.bytes().first(part.header_bytes));
  }
  hasher.add(std::as_bytes(std::span(config_json_)));
  for (const TensorEntry& entry : tensors_) {
    const size_t n = std::min(kEnd, entry.data.size());
    hasher.add(entry.data.first(n));
    hasher.add(entry.data.last(n));
  }
  return hasher.value();
}

}  // namespace pare
