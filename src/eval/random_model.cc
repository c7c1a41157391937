#include "eval/random_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/checked.h"
#include "base/rng.h"
#include "quant/blocks.h"

namespace pare {
namespace {

constexpr std::array kShapes = {
    ModelShape{"llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 500'000.0, 8.0, 1e-5, false},
    ModelShape{"llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 500'000.0, 32.0, 1e-5, true},
    ModelShape{"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 131072, 1'000'000.0, 0.0, 1e-6, false},
    ModelShape{"qwen2.5-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151936, 131072, 1'000'000.0, 0.0, 1e-6, true},
    ModelShape{"qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, 1'000'000.0, 0.0, 1e-6, false},
    ModelShape{"smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, 100'000.0, 0.0, 1e-5, true},
};

// Matrices are a pattern that repeats; each begins at another unit of it, so that no two are the same. The units are
// whole blocks of every format, their number a prime, so that rows differ as well.
constexpr int64_t kUnitItems = 256, kUnits = 4093;
constexpr float kDeviation = 0.02f;

void set_config(const ModelShape& s, Metadata* m) {
  m->set("model_type", std::string(s.type));
  m->set("num_hidden_layers", int64_t{s.layers});
  m->set("hidden_size", int64_t{s.dim});
  m->set("num_attention_heads", int64_t{s.heads});
  m->set("num_key_value_heads", int64_t{s.kv_heads});
  m->set("head_dim", int64_t{s.head_dim});
  m->set("intermediate_size", int64_t{s.ffn_dim});
  m->set("vocab_size", int64_t{s.vocab});
  m->set("max_position_embeddings", int64_t{s.context});
  m->set("rms_norm_eps", s.norm_eps);
  m->set("rope_theta", s.rope_base);
  m->set("tie_word_embeddings", s.tied);
  if (s.rope_factor == 0.0) return;
  m->set("rope_scaling.rope_type", std::string("llama3"));
  m->set("rope_scaling.factor", s.rope_factor);
  m->set("rope_scaling.low_freq_factor", 1.0);
  m->set("rope_scaling.high_freq_factor", 4.0);
  m->set("rope_scaling.original_max_position_embeddings", int64_t{8192});
}

std::string byte_tokenizer_json() {
  nlohmann::ordered_json vocab = nlohmann::ordered_json::object();
  for (int b = 0; b < 256; ++b) vocab[fmt::format("<0x{:02X}>", b)] = b;
  return nlohmann::ordered_json{
      {"model",
       {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", nlohmann::ordered_json::array()}}},
      {"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}
      .dump();
}

// The tensors of a shape, laid into one buffer: the pattern of the matrices, then ones, then small numbers.
class Builder {
 public:
  Builder(const ModelShape& shape, DType dtype) : s_(shape), dtype_(dtype) {}

  Expected<ModelParts> build() {
    const int64_t vector_items = std::max<int64_t>({s_.dim, int64_t{s_.heads} * s_.head_dim, s_.head_dim});
    const int64_t largest = std::max({int64_t{s_.vocab}, int64_t{s_.ffn_dim}, int64_t{s_.heads} * s_.head_dim}) *
                            std::max<int64_t>(s_.dim, int64_t{s_.heads} * s_.head_dim);
    const int64_t units = ceil_div(largest, kUnitItems) + kUnits;
    const size_t matrix_bytes = round_up<size_t>(bytes_of(units * kUnitItems), 64);
    const size_t vector_bytes = round_up<size_t>(static_cast<size_t>(vector_items) * sizeof(float), 64);
    PARE_ASSIGN_OR_RETURN(parts_.memory, AlignedBuffer::allocate(matrix_bytes + 2 * vector_bytes));
    std::byte* base = parts_.memory.data();
    PARE_RETURN_IF_ERROR(fill_matrices({base, matrix_bytes}));
    ones_ = reinterpret_cast<float*>(base + matrix_bytes);
    small_ = reinterpret_cast<float*>(base + matrix_bytes + vector_bytes);
    std::fill_n(ones_, vector_items, 1.0f);
    Philox random(kSeed, 1);
    std::generate_n(small_, vector_items, [&] { return kDeviation * random.normal(); });

    PARE_RETURN_IF_ERROR(add_tensors());
    set_config(s_, &parts_.metadata);
    parts_.tokenizer_json = byte_tokenizer_json();
    return std::move(parts_);
  }

 private:
  static constexpr uint64_t kSeed = 0x70617265;  // "pare"

  size_t bytes_of(int64_t items) const {
    return static_cast<size_t>(*dtype_bytes(dtype_, static_cast<uint64_t>(items)));
  }

  Status fill_matrices(std::span<std::byte> out) {
    std::vector<float> values(kUnits * kUnitItems);
    Philox random(kSeed);
    for (float& v : values) v = kDeviation * random.normal();
    const size_t pattern = std::min(out.size(), bytes_of(kUnits * kUnitItems));
    PARE_RETURN_IF_ERROR(quantize_row(dtype_, values, out.first(pattern)));
    for (size_t have = pattern; have < out.size();) {
      const size_t more = std::min(have, out.size() - have);
      std::memcpy(out.data() + have, out.data(), more);
      have += more;
    }
    return ok_status();
  }

  Status matrix(std::string name, int64_t n, int64_t k) {
    const int64_t block = dtype_info(dtype_).block_items;
    if (k % block != 0) {
      return invalid_argument(fmt::format("{} has rows of {} ({}), no multiple of the {} of a {} block", s_.name, k,
                                          name, block, dtype_name(dtype_)));
    }
    const int64_t unit = static_cast<int64_t>(parts_.tensors.size()) * 571 % kUnits;
    const std::byte* data = parts_.memory.data() + bytes_of(unit * kUnitItems);
    parts_.tensors.push_back({std::move(name), dtype_, {n, k}, {data, bytes_of(n * k)}});
    return ok_status();
  }
  void vector(std::string name, const float* values, int64_t n) {
    parts_.tensors.push_back(
        {std::move(name), DType::F32, {n}, std::as_bytes(std::span(values, static_cast<size_t>(n)))});
  }

  Status add_tensors() {
    const int64_t hd = int64_t{s_.heads} * s_.head_dim, kd = int64_t{s_.kv_heads} * s_.head_dim;
    PARE_RETURN_IF_ERROR(matrix("model.embed_tokens.weight", s_.vocab, s_.dim));
    if (!s_.tied) PARE_RETURN_IF_ERROR(matrix("lm_head.weight", s_.vocab, s_.dim));
    vector("model.norm.weight", ones_, s_.dim);
    for (int32_t l = 0; l < s_.layers; ++l) {
      const auto name = [l](std::string_view part) { return fmt::format("model.layers.{}.{}", l, part); };
      vector(name("input_layernorm.weight"), ones_, s_.dim);
      vector(name("post_attention_layernorm.weight"), ones_, s_.dim);
      PARE_RETURN_IF_ERROR(matrix(name("self_attn.q_proj.weight"), hd, s_.dim));
      PARE_RETURN_IF_ERROR(matrix(name("self_attn.k_proj.weight"), kd, s_.dim));
      PARE_RETURN_IF_ERROR(matrix(name("self_attn.v_proj.weight"), kd, s_.dim));
      PARE_RETURN_IF_ERROR(matrix(name("self_attn.o_proj.weight"), s_.dim, hd));
      PARE_RETURN_IF_ERROR(matrix(name("mlp.gate_proj.weight"), s_.ffn_dim, s_.dim));
      PARE_RETURN_IF_ERROR(matrix(name("mlp.up_proj.weight"), s_.ffn_dim, s_.dim));
      PARE_RETURN_IF_ERROR(matrix(name("mlp.down_proj.weight"), s_.dim, s_.ffn_dim));
      if (s_.type == "qwen2") {
        vector(name("self_attn.q_proj.bias"), small_, hd);
        vector(name("self_attn.k_proj.bias"), small_, kd);
        vector(name("self_attn.v_proj.bias"), small_, kd);
      }
      if (s_.type == "qwen3") {
        vector(name("self_attn.q_norm.weight"), ones_, s_.head_dim);
        vector(name("self_attn.k_norm.weight"), ones_, s_.head_dim);
      }
    }
    return ok_status();
  }

  const ModelShape& s_;
  DType dtype_;
  ModelParts parts_;
  float *ones_ = nullptr, *small_ = nullptr;
};

}  // namespace

std::span<const ModelShape> published_shapes() { return kShapes; }

Expected<ModelShape> find_shape(std::string_view name) {
  std::string known;
  for (const ModelShape& s : kShapes) {
    if (s.name == name) return s;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", s.name);
  }
  return not_found(fmt::format("no shape '{}' (known: {})", name, known));
}

Expected<ModelFile> random_model(const ModelShape& shape, DType dtype) {
  if (!can_quantize(dtype)) return unsupported(fmt::format("there is no encoder for {}", dtype_name(dtype)));
  PARE_ASSIGN_OR_RETURN(ModelParts parts, Builder(shape, dtype).build());
  return ModelFile::from_parts(std::move(parts));
}

}  // namespace pare
