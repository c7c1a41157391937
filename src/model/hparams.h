// Reads a model's hyper-parameters from either container by a table of two names: GGUF ("{arch}.block_count") and
// Hugging Face ("num_hidden_layers").
#pragma once

#include <string>
#include <string_view>

#include "io/model_file.h"
#include "model/config.h"

namespace pare {

class Hparams {
 public:
  Hparams(const ModelFile& file, std::string arch)
      : meta_(file.metadata()), gguf_(file.container() == ModelFile::Container::kGguf), arch_(std::move(arch)) {}

  bool gguf() const { return gguf_; }
  const Metadata& metadata() const { return meta_; }
  // The key in force: "{arch}." + gguf_suffix, or hf_key. An empty name means that this container has no such key.
  std::string key(std::string_view gguf_suffix, std::string_view hf_key) const;
  bool has(std::string_view gguf_suffix, std::string_view hf_key) const;

  Expected<int32_t> size(std::string_view gguf_suffix, std::string_view hf_key) const;  // required, 0..2^31-1
  Expected<int32_t> size_or(std::string_view gguf_suffix, std::string_view hf_key, int32_t fallback) const;
  Expected<double> number_or(std::string_view gguf_suffix, std::string_view hf_key, double fallback) const;

  // Fields that every decoder shares: sizes, epsilon, vocabulary, RoPE with its scaling. `default_base` as the
  // architecture's files assume when they say nothing.
  Status read_decoder(ModelConfig* config, double default_base) const;

 private:
  Status read_rope(ModelConfig* config, double default_base) const;

  const Metadata& meta_;
  bool gguf_;
  std::string arch_;
};

}  // namespace pare
