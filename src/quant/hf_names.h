// Hugging Face's and GGUF's names for the same decoder, and what differs in the numbers.
#pragma once

#include <string>
#include <string_view>

#include "io/metadata.h"
#include "pare/status.h"
#include "quant/tensor_job.h"

namespace pare {

struct DecoderNames {
  std::string_view hf_type;    // config.json's model_type
  std::string_view gguf_arch;  // general.architecture
  bool interleaved;            // GGUF holds Q and K rows interleaved
  bool norm_plus_one;          // Hugging Face holds RMS weights minus one
  bool four_norms;             // norms before and after both halves of a layer
};

// llama, qwen2, qwen3, gemma3; null for others.
const DecoderNames* find_decoder_names(std::string_view hf_type_or_gguf_arch);

// The other container's spelling of a tensor name; empty when the architecture has no such tensor.
std::string to_gguf_name(const DecoderNames& names, std::string_view hf_name);
std::string to_hf_name(const DecoderNames& names, std::string_view gguf_name);

// GGUF metadata of a config.json (flattened): sizes, RoPE and norms. Tokenizer and general.* but the
// architecture are not part of it.
Expected<Metadata> gguf_metadata_of_config(const DecoderNames& names, const Metadata& config);

// Channel pairs' frequency divisors when the configuration has llama-3 scaling (GGUF's rope_freqs.weight), else
// empty.
Expected<std::vector<float>> llama3_divisors(const Metadata& config);

}  // namespace pare
