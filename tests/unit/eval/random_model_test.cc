// Models of published shapes with random weights: the shapes are what was published, and a tiny one runs.
#include "eval/random_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "eval/model_bench.h"
#include "quant/blocks.h"

namespace pare {
namespace {

ModelShape tiny_shape(std::string_view type) {
  ModelShape s;
  s.name = "tiny";
  s.type = type;
  s.layers = 2;
  s.dim = 256;
  s.heads = 4;
  s.kv_heads = 2;
  s.head_dim = 64;
  s.ffn_dim = 512;
  s.vocab = 300;
  s.context = 128;
  s.rope_base = 10'000.0;
  if (type == "llama") s.rope_factor = 8.0;
  return s;
}

// Parameters as the model cards have them, in units of a million.
TEST(RandomModel, PublishedShapesHaveThePublishedSizes) {
  const std::map<std::string_view, double> millions = {{"llama-3.1-8b", 8030.3}, {"llama-3.2-1b", 1235.8},
                                                       {"qwen2.5-7b", 7615.6},   {"qwen2.5-1.5b", 1543.7},
                                                       {"qwen3-8b", 8190.7},     {"smollm2-135m", 134.5}};
  EXPECT_EQ(published_shapes().size(), millions.size());
  for (const ModelShape& s : published_shapes()) {
    const double hd = s.heads * s.head_dim, kd = s.kv_heads * s.head_dim, e = s.dim;
    const double vectors = 2 * e + (s.type == "qwen2" ? hd + 2 * kd : s.type == "qwen3" ? 2 * s.head_dim : 0);
    const double layer = e * (2 * hd + 2 * kd) + 3 * e * s.ffn_dim + vectors;
    const double all = s.layers * layer + (s.tied ? 1 : 2) * e * s.vocab + e;
    EXPECT_NEAR(all * 1e-6, millions.at(s.name), 0.1) << s.name;
    EXPECT_EQ(find_shape(s.name)->vocab, s.vocab);
  }
  const auto unknown = find_shape("llama-9");
  EXPECT_EQ(unknown.status().code(), StatusCode::kNotFound);
  EXPECT_NE(unknown.status().message().find("qwen3-8b"), std::string::npos);
}

TEST(RandomModel, TensorsAreFiniteAndDiffer) {
  for (const DType dtype : {DType::BF16, DType::Q4_0, DType::Q4_K, DType::Q8_0}) {
    const auto file = random_model(tiny_shape("llama"), dtype);
    ASSERT_TRUE(file.ok()) << file.status().to_string();
    const auto values = [&](const char* name) {
      const TensorEntry* t = file->find(name);
      EXPECT_NE(t, nullptr) << name;
      EXPECT_EQ(t->dtype, dtype);
      std::vector<float> out(static_cast<size_t>(t->shape[0] * t->shape[1]));
      EXPECT_TRUE(dequantize_row(dtype, t->data, out).ok());
      return out;
    };
    const std::vector<float> q = values("model.layers.0.self_attn.q_proj.weight");
    EXPECT_NE(q, values("model.layers.1.self_attn.q_proj.weight"));
    double squares = 0.0;
    for (const float x : q) squares += static_cast<double>(x) * x;
    EXPECT_NEAR(std::sqrt(squares / static_cast<double>(q.size())), 0.02, 0.002) << dtype_name(dtype);
  }
}

TEST(RandomModel, EveryArchitectureRuns) {
  for (const char* type : {"llama", "qwen2", "qwen3"}) {
    for (const DType dtype : {DType::BF16, DType::Q4_K}) {
      const auto file = random_model(tiny_shape(type), dtype);
      ASSERT_TRUE(file.ok()) << file.status().to_string();
      ThreadPool pool(1);
      const auto model = load(*file, "tiny", &pool);
      ASSERT_TRUE(model.ok()) << type << ": " << model.status().to_string();
      EXPECT_EQ((*model)->tokenizer->vocab_size(), 256);
      EXPECT_EQ((*model)->model->config().vocab, 300);
      auto bench = ModelBench::create(*model, {.prompt = 16, .generate = 4, .depth = 8, .parallel = 2, .threads = 1});
      ASSERT_TRUE(bench.ok()) << bench.status().to_string();
      const auto sample = (*bench)->run();
      ASSERT_TRUE(sample.ok()) << type << ": " << sample.status().to_string();
      EXPECT_GT(sample->prefill_tps, 0.0);
      EXPECT_GT(sample->decode_tps, 0.0);
    }
  }
}

TEST(RandomModel, SaysWhatDoesNotFit) {
  const auto blocks = random_model(*find_shape("smollm2-135m"), DType::Q4_K);
  EXPECT_EQ(blocks.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(blocks.status().message().find("576"), std::string::npos) << blocks.status().to_string();
  EXPECT_EQ(random_model(tiny_shape("llama"), DType::IQ4_XS).status().code(), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace pare
