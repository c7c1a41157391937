// A model on disk, whatever its container: configuration, tensors and the texts that come with them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/arena.h"
#include "io/mapped_file.h"
#include "io/metadata.h"
#include "io/tensor_entry.h"
#include "pare/status.h"

namespace pare {

// A model that is in no file: configuration and names as in a Hugging Face folder. Tensors lie in `memory`, where they
// may overlap.
struct ModelParts {
  Metadata metadata;
  std::vector<TensorEntry> tensors;
  AlignedBuffer memory;
  std::string tokenizer_json;
};

// Tensors stay in the mapped files; opening reads headers and side files only. Immutable afterwards, so that
// every method may be called from any thread. Moving keeps all references good.
class ModelFile {
 public:
  enum class Container : uint8_t { kGguf, kSafetensors };

  // Opens a .gguf file (any part of a split one: NAME-00001-of-00003.gguf), a .safetensors file or a
  // "*.safetensors.index.json" beside its config.json, or a folder with these. Errors begin with the path of
  // the file at fault.
  static Expected<ModelFile> open(const std::filesystem::path& path);
  // kDataLoss: a name is there twice, or a tensor's bytes are not those of its type and shape or lie outside `memory`.
  static Expected<ModelFile> from_parts(ModelParts parts);

  Container container() const { return container_; }
  // GGUF: its own keys. Hugging Face: config.json, flattened (io/json.h).
  const Metadata& metadata() const { return metadata_; }
  std::span<const TensorEntry> tensors() const { return tensors_; }
  const TensorEntry* find(std::string_view name) const;  // null when there is none

  // Side files of a Hugging Face folder, empty when absent and for GGUF.
  const std::string& tokenizer_json() const { return tokenizer_json_; }
  const std::string& tokenizer_config_json() const { return tokenizer_config_json_; }
  const std::string& vocab_txt() const { return vocab_txt_; }  // read when there is no tokenizer.json
  // Jinja source: GGUF's tokenizer.chat_template, chat_template.jinja, or tokenizer_config.json's
  // "chat_template" (of a list, the one named "default", else the first). Empty when there is none.
  const std::string& chat_template() const { return chat_template_; }

  // Lets the system forget the pages of tensor data, whole or in part, once it has been packed elsewhere.
  void drop_resident(std::span<const std::byte> data) const;

  // Tells model files apart cheaply: file sizes, headers and configuration, and both ends of every tensor. Not
  // cryptographic, and blind to changes inside a tensor. Touches two pages a tensor.
  uint64_t content_hash() const;

 private:
  ModelFile() = default;
  Status open_gguf(const std::filesystem::path& path);
  Status open_safetensors(const std::filesystem::path& folder, const std::filesystem::path& weights);
  Status open_shard(const std::filesystem::path& path, std::vector<TensorEntry>* tensors);
  Status open_index(const std::filesystem::path& index);
  Status read_side_files(const std::filesystem::path& folder);
  Status index_tensors();

  struct Part {
    MappedFile file;
    uint64_t header_bytes = 0;
  };

  Container container_ = Container::kGguf;
  Metadata metadata_;
  std::vector<Part> parts_;
  AlignedBuffer memory_;  // of a model that is in no file
  std::vector<TensorEntry> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;  // names live in tensors_
  std::string config_json_, tokenizer_json_, tokenizer_config_json_, vocab_txt_, chat_template_;
};

}  // namespace pare
