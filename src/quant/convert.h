// Converting models between containers and formats: `pare convert`, `pare quantize`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/thread_pool.h"
#include "io/model_file.h"
#include "io/tensor_stream.h"
#include "pare/status.h"

namespace pare {

struct ConvertOptions {
  std::string recipe = "Q4_K_M";  // quant/recipe.h
  // GGUF's name of the pre-tokenizer ("qwen2"), for models with a tokenizer.json: Tokenizer::pre_tokenizer().
  std::string pre_tokenizer;
  ThreadPool* pool = nullptr;  // null: this thread does all the work
  WriteProgress progress;
};

// Writes `in` as one GGUF file, atomically. A GGUF keeps its metadata (split.* excepted) and names; tensors that
// already have their format are copied. A Hugging Face llama, qwen2, qwen3 or gemma3 is renamed, its Q and K
// rows and norms are brought to GGUF's conventions, and its byte-level BPE tokenizer and chat template are
// written along. Errors name the tensor or key: kUnsupported for other architectures and tensors that GGUF's
// have no name for. Memory: a few MiB beside the mapped input.
Status convert_to_gguf(const ModelFile& in, const std::filesystem::path& out_path, const ConvertOptions& options);

// Writes the tensors of a GGUF llama, qwen2, qwen3 or gemma3 as BF16 safetensors under Hugging Face names into
// `folder`, which must exist, in shards of at most `max_shard_bytes`; Q and K rows and norms get Hugging Face's
// conventions. Configuration and tokenizer files are not written. RoPE divisor tensors are left out, since
// config.json states them.
Status convert_to_safetensors(const ModelFile& in, const std::filesystem::path& folder, uint64_t max_shard_bytes,
                              const ConvertOptions& options);

}  // namespace pare
