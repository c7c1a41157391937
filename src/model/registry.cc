#include <fmt/format.h>

#include <array>

#include "model/architectures.h"
#include "model/decoder.h"
#include "model/encoder.h"

namespace pare {
namespace {

constexpr std::array kArchitectures = {
    Architecture{"llama", "llama", read_llama_config, Decoder::load},
    Architecture{"qwen2", "qwen2", read_qwen2_config, Decoder::load},
    Architecture{"qwen3", "qwen3", read_qwen3_config, Decoder::load},
    Architecture{"gemma3", "gemma3_text", read_gemma3_config, Decoder::load},
    Architecture{"bert", "bert", read_bert_config, Encoder::load},
};

Expected<const Architecture*> find_architecture(const ModelFile& file) {
  const bool gguf = file.container() == ModelFile::Container::kGguf;
  PARE_ASSIGN_OR_RETURN(const std::string_view name,
                        file.metadata().get_string(gguf ? "general.architecture" : "model_type"));
  std::string known;
  for (const Architecture& a : kArchitectures) {
    if (name == (gguf ? a.gguf_name : a.hf_type)) return &a;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", gguf ? a.gguf_name : a.hf_type);
  }
  return unsupported(fmt::format("architecture '{}' (known: {})", name, known));
}

}  // namespace

std::span<const Architecture> architectures() { return kArchitectures; }

Expected<ModelConfig> read_model_config(const ModelFile& file) {
  PARE_ASSIGN_OR_RETURN(const Architecture* arch, find_architecture(file));
  return arch->read_config(file);
}

Expected<std::unique_ptr<Model>> load_model(const ModelFile& file, const WeightPlace& place) {
  PARE_ASSIGN_OR_RETURN(const Architecture* arch, find_architecture(file));
  PARE_ASSIGN_OR_RETURN(ModelConfig config, arch->read_config(file));
  return arch->load(std::move(config), file, place);
}

}  // namespace pare
