#include "quant/convert.h"

#include <fmt/format.h>

#include <map>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "io/gguf.h"
#include "io/quote_name.h"
#include "io/safetensors.h"
#include "quant/blocks.h"
#include "quant/hf_names.h"
#include "quant/hf_tokenizer.h"
#include "quant/recipe.h"
#include "quant/tensor_job.h"

namespace pare {
namespace {

constexpr std::string_view kRopeDivisors = "rope_freqs.weight";

struct HeadSizes {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
};

// Whether the tensor (GGUF name) holds query or key rows, whose order differs between the containers.
bool is_query(std::string_view name) { return name.ends_with(".attn_q.weight") || name.ends_with(".attn_q.bias"); }
bool is_key(std::string_view name) { return name.ends_with(".attn_k.weight") || name.ends_with(".attn_k.bias"); }

// Sets row order and norm offset of a job that goes from one container to the other.
Status set_conventions(const DecoderNames& names, const HeadSizes& sizes, bool to_gguf, std::string_view gguf_name,
                       TensorJob* job) {
  if (names.interleaved && (is_query(gguf_name) || is_key(gguf_name))) {
    const int64_t rows = (is_query(gguf_name) ? sizes.heads : sizes.kv_heads) * sizes.head_dim;
    if (job->spec.shape[0] != rows || sizes.head_dim % 2 != 0) {
      return data_loss(fmt::format("tensor {} has {} rows, the configuration makes {}", quote_name(job->source->name),
                                   job->spec.shape[0], rows));
    }
    job->move = to_gguf ? RowMove::kInterleave : RowMove::kSplit;
    job->head_dim = sizes.head_dim;
  }
  if (names.norm_plus_one && gguf_name.ends_with("norm.weight")) job->add = to_gguf ? 1.0f : -1.0f;
  return ok_status();
}

// Integer tensors keep their type.
DType target_dtype(const TensorEntry& entry, DType wanted) {
  return can_dequantize(entry.dtype) ? wanted : entry.dtype;
}

void set_format_keys(const Recipe& recipe, Metadata* metadata) {
  metadata->set("general.file_type", uint64_t{recipe.file_type});
  metadata->set("general.quantization_version", uint64_t{2});
}

Status write_jobs_as_gguf(const std::filesystem::path& path, const Metadata& metadata,
                          const std::vector<TensorJob>& jobs, const ConvertOptions& options) {
  std::vector<TensorSpec> specs;
  specs.reserve(jobs.size());
  for (const TensorJob& job : jobs) specs.push_back(job.spec);
  return write_gguf(path, metadata, specs, make_tensor_producer(jobs, options.pool), options.progress);
}

Status requantize_gguf(const ModelFile& in, const std::filesystem::path& out_path, const Recipe& recipe,
                       const ConvertOptions& options) {
  Metadata metadata;
  for (const auto& [key, value] : in.metadata().values()) {
    if (!key.starts_with("split.")) metadata.set(key, value);
  }
  set_format_keys(recipe, &metadata);
  PARE_ASSIGN_OR_RETURN(const std::string_view arch, metadata.get_string("general.architecture"));
  PARE_ASSIGN_OR_RETURN(const int64_t layers,
                        metadata.get_int_or(fmt::format("{}.block_count", arch), 0, 0, kMaxLayers));
  const bool tied = !in.find("output.weight");
  std::vector<TensorJob> jobs;
  for (const TensorEntry& entry : in.tensors()) {
    TensorJob job;
    job.source = &entry;
    job.spec = {entry.name, target_dtype(entry, recipe_dtype(recipe, entry.name, entry.shape, layers, tied)),
                entry.shape};
    jobs.push_back(std::move(job));
  }
  return write_jobs_as_gguf(out_path, metadata, jobs, options);
}

Status convert_hf(const ModelFile& in, const std::filesystem::path& out_path, const Recipe& recipe,
                  const ConvertOptions& options) {
  const Metadata& config = in.metadata();
  PARE_ASSIGN_OR_RETURN(const std::string_view type, config.get_string("model_type"));
  const DecoderNames* const names = find_decoder_names(type);
  if (!names || names->hf_type != type) {
    return unsupported(fmt::format("model_type {} cannot be written to GGUF (known: llama, qwen2, qwen3, gemma3_text)",
                                   quote_name(type)));
  }
  PARE_ASSIGN_OR_RETURN(Metadata metadata, gguf_metadata_of_config(*names, config));
  const std::string arch(names->gguf_arch);
  HeadSizes sizes;
  PARE_ASSIGN_OR_RETURN(sizes.heads, metadata.get_int(arch + ".attention.head_count"));
  PARE_ASSIGN_OR_RETURN(sizes.kv_heads, metadata.get_int(arch + ".attention.head_count_kv"));
  PARE_ASSIGN_OR_RETURN(sizes.head_dim, metadata.get_int(arch + ".attention.key_length"));
  PARE_ASSIGN_OR_RETURN(const int64_t layers, metadata.get_int(arch + ".block_count", 1, kMaxLayers));
  PARE_ASSIGN_OR_RETURN(const int64_t vocab, metadata.get_int(arch + ".vocab_size", 1, kMaxVocab));
  PARE_ASSIGN_OR_RETURN(const bool said_tied, config.get_bool_or("tie_word_embeddings", false));
  const bool tied = said_tied || !in.find("lm_head.weight");
  set_format_keys(recipe, &metadata);
  if (!in.tokenizer_json().empty()) {
    PARE_RETURN_IF_ERROR(add_tokenizer_keys(in.tokenizer_json(), in.tokenizer_config_json(), config,
                                            options.pre_tokenizer, vocab, &metadata));
  }
  if (!in.chat_template().empty()) metadata.set("tokenizer.chat_template", in.chat_template());

  std::vector<TensorJob> jobs;
  PARE_ASSIGN_OR_RETURN(std::vector<float> divisors, llama3_divisors(config));
  if (!divisors.empty()) {
    TensorJob job;
    job.spec = {std::string(kRopeDivisors), DType::F32, {static_cast<int64_t>(divisors.size())}};
    job.values = std::move(divisors);
    jobs.push_back(std::move(job));
  }
  for (const TensorEntry& entry : in.tensors()) {
    // Buffers that the configuration implies, and a head that repeats the embedding.
    if (entry.name.ends_with(".rotary_emb.inv_freq") || (tied && entry.name == "lm_head.weight")) continue;
    const std::string name = to_gguf_name(*names, entry.name);
    if (name.empty())
      return unsupported(fmt::format("tensor {}: GGUF's {} has none like it", quote_name(entry.name), arch));
    TensorJob job;
    job.source = &entry;
    job.spec = {name, target_dtype(entry, recipe_dtype(recipe, name, entry.shape, layers, tied)), entry.shape};
    PARE_RETURN_IF_ERROR(set_conventions(*names, sizes, true, name, &job));
    jobs.push_back(std::move(job));
  }
  return write_jobs_as_gguf(out_path, metadata, jobs, options);
}

}  // namespace

Status convert_to_gguf(const ModelFile& in, const std::filesystem::path& out_path, const ConvertOptions& options) {
  PARE_ASSIGN_OR_RETURN(const Recipe recipe, find_recipe(options.recipe));
  return in.container() == ModelFile::Container::kGguf ? requantize_gguf(in, out_path, recipe, options)
                                                       : convert_hf(in, out_path, recipe, options);
}

Status convert_to_safetensors(const ModelFile& in, const std::filesystem::path& folder, uint64_t max_shard_bytes,
                              const ConvertOptions& options) {
  if (in.container() != ModelFile::Container::kGguf) return invalid_argument("the model is in safetensors already");
  const Metadata& metadata = in.metadata();
  PARE_ASSIGN_OR_RETURN(const std::string_view arch, metadata.get_string("general.architecture"));
  const DecoderNames* const names = find_decoder_names(arch);
  if (!names || names->gguf_arch != arch) {
    return unsupported(fmt::format(
        "architecture {} cannot be written to safetensors (known: llama, qwen2, qwen3, gemma3)", quote_name(arch)));
  }
  const auto key = [&](std::string_view suffix) { return fmt::format("{}.{}", arch, suffix); };
  HeadSizes sizes;
  PARE_ASSIGN_OR_RETURN(sizes.heads, metadata.get_int(key("attention.head_count"), 1, kMaxHeads));
  PARE_ASSIGN_OR_RETURN(sizes.kv_heads,
                        metadata.get_int_or(key("attention.head_count_kv"), sizes.heads, 1, sizes.heads));
  PARE_ASSIGN_OR_RETURN(const int64_t dim, metadata.get_int(key("embedding_length"), 1, kMaxModelDim));
  PARE_ASSIGN_OR_RETURN(sizes.head_dim,
                        metadata.get_int_or(key("attention.key_length"), dim / sizes.heads, 1, kMaxHeadDim));
  std::vector<TensorJob> jobs;
  std::vector<TensorSpec> specs;
  for (const TensorEntry& entry : in.tensors()) {
    if (entry.name == kRopeDivisors) continue;
    const std::string name = to_hf_name(*names, entry.name);
    if (name.empty()) return unsupported(fmt::format("tensor {} has no Hugging Face name", quote_name(entry.name)));
    TensorJob job;
    job.source = &entry;
    job.spec = {name, target_dtype(entry, DType::BF16), entry.shape};
    PARE_RETURN_IF_ERROR(set_conventions(*names, sizes, false, entry.name, &job));
    specs.push_back(job.spec);
    jobs.push_back(std::move(job));
  }
  return write_safetensors_model(folder, {{"format", "pt"}}, specs, max_shard_bytes,
                                 make_tensor_producer(jobs, options.pool), options.progress);
}

}  // namespace pare
