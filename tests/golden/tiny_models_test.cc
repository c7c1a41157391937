// Random-weight models of every architecture against logits that an independent implementation computed in float32
// (docs/references.md), from both containers.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "pare/engine.h"
#include "runtime/embedder.h"
#include "runtime/loaded_model.h"

namespace pare {
namespace {

namespace fs = std::filesystem;

const fs::path kTiny = fs::path(PARE_SOURCE_DIR) / "tests/data/tiny";

struct Reference {
  nlohmann::json meta;
  std::vector<float> values;
};

Reference read_reference(const fs::path& folder) {
  Reference r;
  std::ifstream(folder / "reference.json") >> r.meta;
  std::ifstream in(folder / r.meta["file"].get<std::string>(), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  r.values.resize(bytes.size() / sizeof(float));
  std::memcpy(r.values.data(), bytes.data(), r.values.size() * sizeof(float));
  return r;
}

// The folder's weights from either file; the tokenizer always from the GGUF, where it is whole.
std::shared_ptr<const LoadedModel> load_tiny(const fs::path& folder, bool gguf) {
  ThreadPool pool(2);
  auto whole = load(folder / "model.gguf", &pool);
  EXPECT_TRUE(whole.ok()) << whole.status().to_string();
  if (gguf || !whole.ok()) return whole.ok() ? *whole : nullptr;
  auto file = ModelFile::open(folder);
  EXPECT_TRUE(file.ok()) << file.status().to_string();
  auto model = load_model(*file, {&pool, nullptr});
  EXPECT_TRUE(model.ok()) << model.status().to_string();
  auto gguf_file = ModelFile::open(folder / "model.gguf");
  auto loaded = std::make_shared<LoadedModel>();
  loaded->model = std::move(*model);
  loaded->tokenizer = std::move(*make_tokenizer_from_gguf(gguf_file->metadata()));
  return loaded;
}

// All logits of a prompt, in chunks of `step_rows`.
std::vector<float> run_logits(const std::shared_ptr<const LoadedModel>& model, const std::vector<int32_t>& ids,
                              int step_rows) {
  EngineOptions options;
  options.threads = 2;
  options.step_rows = step_rows;
  options.kv_f32 = true;
  options.max_context = static_cast<int32_t>(ids.size());
  auto engine = Engine::create(model, options);
  EXPECT_TRUE(engine.ok()) << engine.status().to_string();
  const int32_t vocab = model->model->config().vocab;
  std::vector<float> logits(ids.size() * vocab);
  Request request;
  request.tokens = ids;
  request.max_tokens = 1;
  request.observe_prompt = true;
  request.on_logits = [&](int32_t, int32_t position, std::span<const float> row) {
    std::copy(row.begin(), row.end(), logits.begin() + static_cast<int64_t>(position) * vocab);
  };
  EXPECT_TRUE((*engine)->submit(std::move(request), {}).ok());
  EXPECT_TRUE((*engine)->run().ok());
  return logits;
}

// Logits of the prompt's last row alone: all chunks before the last want none.
std::vector<float> last_logits(const std::shared_ptr<const LoadedModel>& model, const std::vector<int32_t>& ids,
                               int step_rows) {
  EngineOptions options;
  options.threads = 2;
  options.step_rows = step_rows;
  options.kv_f32 = true;
  auto engine = Engine::create(model, options);
  EXPECT_TRUE(engine.ok()) << engine.status().to_string();
  std::vector<float> logits;
  Request request;
  request.tokens = ids;
  request.max_tokens = 1;
  request.on_logits = [&](int32_t, int32_t, std::span<const float> row) { logits.assign(row.begin(), row.end()); };
  EXPECT_TRUE((*engine)->submit(std::move(request), {}).ok());
  EXPECT_TRUE((*engine)->run().ok());
  return logits;
}

class TinyDecoder : public testing::TestWithParam<std::tuple<const char*, bool>> {};

TEST_P(TinyDecoder, LogitsMatch) {
  const auto& [name, gguf] = GetParam();
  const Reference reference = read_reference(kTiny / name);
  const auto model = load_tiny(kTiny / name, gguf);
  ASSERT_NE(model, nullptr);
  const auto ids = reference.meta["ids"].get<std::vector<int32_t>>();
  const std::vector<float> logits = run_logits(model, ids, 512);
  ASSERT_EQ(logits.size(), reference.values.size());
  // Everything is fp32 on both sides. A logit is a dot product of E terms over activations that went through L layers
  // of such products; each contributes rounding of about sqrt(terms) * eps of its magnitude.
  const ModelConfig& c = model->model->config();
  float largest = 0.0f;
  for (float x : reference.values) largest = std::max(largest, std::fabs(x));
  const double terms = c.ffn_dim + c.dim + c.head_dim + static_cast<double>(ids.size());
  const double bound = 8.0 * (c.n_layers + 1) * std::sqrt(terms) * 0x1p-23 * largest;
  double worst = 0.0;
  for (size_t i = 0; i < logits.size(); ++i)
    worst = std::max(worst, std::fabs(double{logits[i]} - reference.values[i]));
  EXPECT_LE(worst, bound);
  RecordProperty("worst", std::to_string(worst) + " of " + std::to_string(bound));
  // Chunks change nothing, to the bit.
  EXPECT_EQ(run_logits(model, ids, 7), logits);
  EXPECT_EQ(last_logits(model, ids, 7), std::vector<float>(logits.end() - c.vocab, logits.end()));
}

INSTANTIATE_TEST_SUITE_P(All, TinyDecoder,
                         testing::Combine(testing::Values("llama", "llama_rope_linear", "llama_rope_llama3",
                                                          "llama_rope_yarn", "qwen2", "qwen3", "gemma3"),
                                          testing::Bool()),
                         [](const auto& p) {
                           return std::string(std::get<0>(p.param)) + (std::get<1>(p.param) ? "_gguf" : "_safetensors");
                         });

TEST(TinyEncoder, EmbeddingsMatch) {
  const Reference reference = read_reference(kTiny / "bert");
  for (bool gguf : {true, false}) {
    const auto model = load_tiny(kTiny / "bert", gguf);
    ASSERT_NE(model, nullptr);
    auto embedder = Embedder::create(model, 2);
    ASSERT_TRUE(embedder.ok()) << embedder.status().to_string();
    const auto ids = reference.meta["ids"].get<std::vector<std::vector<int32_t>>>();
    const auto vectors = (*embedder)->embed(ids);
    ASSERT_TRUE(vectors.ok()) << vectors.status().to_string();
    const int dim = (*embedder)->dim();
    for (size_t s = 0; s < ids.size(); ++s) {
      for (int i = 0; i < dim; ++i) {
        // Unit vectors; two layers of products over at most 96 terms.
        EXPECT_NEAR((*vectors)[s][i], reference.values[s * dim + i], 8.0 * 3 * std::sqrt(96.0) * 0x1p-23)
            << s << ", " << i;
      }
      // A text alone has the vector that it has among others.
      const auto alone = (*embedder)->embed(std::span(&ids[s], 1));
      EXPECT_EQ((*alone)[0], (*vectors)[s]);
    }
  }
}

}  // namespace
}  // namespace pare
