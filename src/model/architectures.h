// Configuration readers of the registered architectures, one file each; registry.cc lists them.
#pragma once

#include "model/config.h"

namespace pare {

Expected<ModelConfig> read_llama_config(const ModelFile& file);
Expected<ModelConfig> read_qwen2_config(const ModelFile& file);
Expected<ModelConfig> read_qwen3_config(const ModelFile& file);
Expected<ModelConfig> read_gemma3_config(const ModelFile& file);
Expected<ModelConfig> read_bert_config(const ModelFile& file);

}  // namespace pare
