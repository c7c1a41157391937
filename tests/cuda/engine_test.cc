// Whole models on the card against the same models on the CPU: prompts, decoding in a batch, forks, captured steps.
#include "pare/engine.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "../scratch_folder.h"
#include "base/rng.h"
#include "cuda_test.h"
#include "io/mask_file.h"
#include "kernels/cuda/cudnn_library.h"
#include "runtime/embedder.h"
#include "runtime/loaded_model.h"

namespace pare {
namespace {

using cuda::is_ok;
using cuda::value_of;

constexpr const char* kDecoders[] = {"llama", "llama_rope_llama3", "qwen2", "qwen3", "gemma3"};

std::shared_ptr<const LoadedModel> load_tiny(const std::string& name, bool on_card) {
  ThreadPool pool(2);
  std::shared_ptr<ops::Accelerator> card;
  if (on_card) card = value_of(ops::accelerator_by_name("cuda"));
  return value_of(load(std::filesystem::path(PARE_SOURCE_DIR) / "tests/data/tiny" / name / "model.gguf", &pool, card));
}

std::vector<int32_t> random_ids(Philox& rng, int32_t n, int32_t vocab) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.below(static_cast<uint32_t>(vocab)));
  return ids;
}

struct Record {
  std::vector<std::vector<float>> rows;  // logits by position, of branch 0
  std::vector<std::vector<int32_t>> tokens;
};

// One request alone: every logit of its prompt and answer.
Record run_alone(const std::shared_ptr<const LoadedModel>& model, const std::vector<int32_t>& ids, int32_t answer,
                 EngineOptions options) {
  options.threads = 2;
  options.max_context = static_cast<int32_t>(ids.size()) + answer + 1;
  auto engine = Engine::create(model, options);
  EXPECT_TRUE(engine.ok()) << engine.status().to_string();
  Record run;
  run.rows.resize(ids.size() + answer);
  run.tokens.resize(1);
  Request request;
  request.tokens = ids;
  request.max_tokens = answer;
  request.ignore_eos = true;
  request.observe_prompt = true;
  request.on_logits = [&](int32_t, int32_t position, std::span<const float> row) {
    run.rows[position].assign(row.begin(), row.end());
  };
  const auto id = (*engine)->submit(std::move(request), [&](const TokenEvent& event) {
    if (event.token >= 0) run.tokens[0].push_back(event.token);
  });
  EXPECT_TRUE(id.ok()) << id.status().to_string();
  const Status status = (*engine)->run();
  EXPECT_TRUE(status.ok()) << status.to_string();
  return run;
}

// Root mean square of the difference over that of the reference.
double relative_rms(const std::vector<float>& reference, const std::vector<float>& x) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double d = double{x[i]} - reference[i];
    error += d * d;
    size += double{reference[i]} * reference[i];
  }
  return std::sqrt(error / size);
}

// bf16 activations are good to 2^-9, the CPU's int8 blocks to about as much; eight of them a layer add up like
// independent errors. The median row must stay within twice that; a row where attention tips between near ties may be
// off by a few times more.
void expect_rounding_only(std::vector<double> errors, int32_t n_layers) {
  const double bound = 2.0 * 0x1p-9 * std::sqrt(8.0 * (n_layers + 1));
  std::sort(errors.begin(), errors.end());
  EXPECT_LE(errors[errors.size() / 2], bound);
  EXPECT_LE(errors.back(), 4.0 * bound);
}

class CudaEngine : public cuda::CudaTest {};

TEST_F(CudaEngine, LogitsMatchTheCpuAlongOneSequence) {
  Philox rng(5);
  for (const char* name : kDecoders) {
    SCOPED_TRACE(name);
    const auto on_cpu = load_tiny(name, false), on_card = load_tiny(name, true);
    const std::vector<int32_t> ids = random_ids(rng, 120, on_cpu->model->config().vocab);
    for (const int32_t step_rows : {512, 64}) {
      EngineOptions options;
      options.step_rows = step_rows;
      options.logit_rows = step_rows;
      const Record expected = run_alone(on_cpu, ids, 1, options), got = run_alone(on_card, ids, 1, options);
      std::vector<double> errors;
      for (size_t p = 0; p < ids.size(); ++p) {
        ASSERT_EQ(got.rows[p].size(), expected.rows[p].size()) << "position " << p;
        errors.push_back(relative_rms(expected.rows[p], got.rows[p]));
      }
      expect_rounding_only(errors, on_cpu->model->config().n_layers);
    }
  }
}

// Decode steps under `options` against the dense prompt pass over the same tokens.
void expect_decoding_matches_prompt_pass(const std::shared_ptr<const LoadedModel>& model,
                                         const std::vector<int32_t>& ids, int32_t answer, EngineOptions options) {
  options.logit_rows = 512;
  const Record decoded = run_alone(model, ids, answer, options);
  std::vector<int32_t> all = ids;
  all.insert(all.end(), decoded.tokens[0].begin(), decoded.tokens[0].end());
  options.kv = "dense";
  const Record whole = run_alone(model, all, 1, options);
  std::vector<double> errors;
  for (size_t p = ids.size() - 1; p + 1 < all.size(); ++p) {
    ASSERT_FALSE(decoded.rows[p].empty()) << "position " << p;
    errors.push_back(relative_rms(whole.rows[p], decoded.rows[p]));
  }
  expect_rounding_only(errors, model->model->config().n_layers);
}

// The card's decode steps against its own prompt pass over the same tokens: different kernels, the same function.
TEST_F(CudaEngine, DecodedRowsMatchThePromptPass) {
  Philox rng(6);
  for (const char* name : kDecoders) {
    SCOPED_TRACE(name);
    const auto model = load_tiny(name, true);
    const std::vector<int32_t> ids = random_ids(rng, 70, model->model->config().vocab);
    for (const bool graphs : {true, false}) {
      EngineOptions options;
      options.graphs = graphs;
      expect_decoding_matches_prompt_pass(model, ids, 40, options);
    }
  }
}

// Rows that move to another form, by a mask that keeps every channel: the same function, in other pages.
TEST_F(CudaEngine, MovedRowsMatchThePromptPass) {
  Philox rng(8);
  for (const char* name : kDecoders) {
    SCOPED_TRACE(name);
    const auto model = load_tiny(name, true);
    const std::vector<int32_t> ids = random_ids(rng, 60, model->model->config().vocab);
    EngineOptions options;
    options.kv = "leank(sink=4,recent=16,flush=64)";
    expect_decoding_matches_prompt_pass(model, ids, 60, options);
  }
}

// A mask file in which every other head is empty; goes with its owner.
class MaskFile {
 public:
  explicit MaskFile(const ModelConfig& c) : path_(folder_ / "mask.json") {
    ChannelMask mask{.n_layers = c.n_layers, .n_kv_heads = c.n_kv_heads, .head_dim = c.head_dim};
    for (int32_t i = 0; i < c.n_layers * c.n_kv_heads; ++i) {
      mask.heads.emplace_back();
      for (int32_t k = 0; (i / c.n_kv_heads + i % c.n_kv_heads) % 2 == 0 && k < 16; ++k) {
        mask.heads.back().push_back({static_cast<uint16_t>(k), 1.0f});
      }
    }
    EXPECT_TRUE(write_channel_mask(path_, mask).ok());
  }
  std::string spec(const char* rest) const { return "leank(mask=\"" + path_.string() + "\"," + rest + ")"; }

 private:
  test::ScratchFolder folder_;
  std::filesystem::path path_;
};

// Decode steps over estimated rows of empty heads against the CPU's, as long as both draw the same tokens; captured or
// not, the same bits.
TEST_F(CudaEngine, MeansOfEmptyHeadsMatchTheCpu) {
  Philox rng(10);
  size_t compared = 0;
  for (const char* name : kDecoders) {
    SCOPED_TRACE(name);
    const auto on_cpu = load_tiny(name, false), on_card = load_tiny(name, true);
    const std::vector<int32_t> ids = random_ids(rng, 90, on_cpu->model->config().vocab);
    const MaskFile mask(on_cpu->model->config());
    EngineOptions options;
    options.logit_rows = 512;
    options.kv = mask.spec("sink=6,recent=16,flush=64,empty=mean");
    const Record expected = run_alone(on_cpu, ids, 30, options), got = run_alone(on_card, ids, 30, options);
    std::vector<double> errors;
    for (size_t i = 0; i + 1 < expected.tokens[0].size() && expected.tokens[0][i] == got.tokens[0][i]; ++i) {
      errors.push_back(relative_rms(expected.rows[ids.size() + i], got.rows[ids.size() + i]));
    }
    compared += errors.size();
    if (!errors.empty()) expect_rounding_only(errors, on_cpu->model->config().n_layers);
    options.graphs = false;
    const Record plain = run_alone(on_card, ids, 30, options);
    EXPECT_EQ(plain.tokens, got.tokens);
    EXPECT_EQ(plain.rows, got.rows);
  }
  EXPECT_GE(compared, std::size(kDecoders));
}

// A replayed step shows its own logits also when it takes more of the arena than the step before: rows that begin to
// move give three partial results where there was one.
TEST_F(CudaEngine, ReplayedStepsShowTheirOwnLogits) {
  Philox rng(9);
  const auto model = load_tiny("llama", true);
  const std::vector<int32_t> ids = random_ids(rng, 100, model->model->config().vocab);
  for (const char* kv : {"leank(sink=4,recent=64,flush=64)", "quant(k=4,v=4,recent=64,flush=64)"}) {
    EngineOptions options;
    options.logit_rows = 512;
    options.kv = kv;
    options.graphs = false;
    const Record plain = run_alone(model, ids, 120, options);
    options.graphs = true;
    const Record replayed = run_alone(model, ids, 120, options);
    ASSERT_EQ(plain.tokens, replayed.tokens) << kv;
    for (size_t p = ids.size(); p + 1 < plain.rows.size(); ++p) {
      ASSERT_EQ(plain.rows[p], replayed.rows[p]) << kv << ", position " << p;
    }
  }
}

// Decode rows of a batch, of which nine and more have a product kernel of their own, against the prompt pass over the
// same tokens.
TEST_F(CudaEngine, RowsOfABatchMatchThePromptPass) {
  Philox rng(14);
  constexpr int32_t kPrompt = 20, kAnswer = 30;
  for (const char* name : {"llama", "qwen2"}) {
    const auto model = load_tiny(name, true);
    for (const int requests : {8, 12, 33}) {
      SCOPED_TRACE(std::string(name) + ", " + std::to_string(requests) + " requests");
      EngineOptions options;
      options.threads = 2;
      options.max_context = 64;
      options.kv_rows = 4096;
      options.max_sequences = requests;
      options.logit_rows = 512;
      auto engine = value_of(Engine::create(model, options));
      std::vector<Record> runs(static_cast<size_t>(requests));
      std::vector<std::vector<int32_t>> ids;
      for (Record& run : runs) {
        ids.push_back(random_ids(rng, kPrompt, model->model->config().vocab));
        run.rows.resize(kPrompt + kAnswer);
        run.tokens.resize(1);
        Request request;
        request.tokens = ids.back();
        request.max_tokens = kAnswer;
        request.ignore_eos = true;
        request.on_logits = [&run](int32_t, int32_t position, std::span<const float> row) {
          run.rows[position].assign(row.begin(), row.end());
        };
        const auto id = engine->submit(std::move(request), [&run](const TokenEvent& event) {
          if (event.token >= 0) run.tokens[0].push_back(event.token);
        });
        ASSERT_TRUE(is_ok(id));
      }
      ASSERT_TRUE(is_ok(engine->run()));
      std::vector<double> errors;
      for (size_t r = 0; r < runs.size(); r += 3) {
        ids[r].insert(ids[r].end(), runs[r].tokens[0].begin(), runs[r].tokens[0].end());
        EngineOptions whole;
        whole.logit_rows = 512;
        const Record expected = run_alone(model, ids[r], 1, whole);
        for (size_t p = kPrompt; p + 1 < ids[r].size(); ++p) {
          ASSERT_FALSE(runs[r].rows[p].empty()) << "position " << p;
          errors.push_back(relative_rms(expected.rows[p], runs[r].rows[p]));
        }
      }
      expect_rounding_only(errors, model->model->config().n_layers);
    }
  }
}

// A batch that grows and shrinks, with samples that fork from a shared prompt, draws the tokens that each request draws
// alone: up to the first near tie. Eight sequences at a time, so that one kernel multiplies any number of rows.
void expect_batches_draw_alone(const char* attn) {
  Philox rng(7);
  const auto model = load_tiny("llama", true);
  const int32_t vocab = model->model->config().vocab;
  constexpr int kRequests = 6;
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < kRequests; ++i) prompts.push_back(random_ids(rng, 20 + 35 * i, vocab));
  const auto answers = [&](bool together) {
    std::vector<std::vector<std::vector<int32_t>>> out(kRequests);
    EngineOptions options;
    options.threads = 2;
    options.max_context = 256;
    options.kv_rows = 4096;
    options.max_sequences = together ? 8 : 3;
    options.attn = attn;
    auto engine = value_of(Engine::create(model, options));
    for (int i = 0; i < kRequests; ++i) {
      Request request;
      request.tokens = prompts[i];
      request.max_tokens = 24;
      request.samples = i % 2 == 0 ? 1 : 3;
      request.ignore_eos = true;
      request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
      request.sampling.seed = 100 + i;
      out[i].resize(request.samples);
      const auto id = engine->submit(std::move(request), [&, i](const TokenEvent& event) {
        EXPECT_EQ(event.error, nullptr) << event.error->to_string();
        if (event.token >= 0) out[i][event.branch].push_back(event.token);
      });
      EXPECT_TRUE(is_ok(id));
      if (!together) {
        EXPECT_TRUE(is_ok(engine->run()));
      }
    }
    EXPECT_TRUE(is_ok(engine->run()));
    return out;
  };
  const auto alone = answers(false), together = answers(true);
  int equal = 0, total = 0;
  for (int i = 0; i < kRequests; ++i) {
    for (size_t b = 0; b < alone[i].size(); ++b) {
      ASSERT_EQ(alone[i][b].size(), 24u);
      ASSERT_EQ(together[i][b].size(), 24u);
      ++total;
      equal += alone[i][b] == together[i][b];
    }
  }
  // Random weights give flat logits: a batch may take other kernels and tip a near tie, seldom.
  EXPECT_GE(equal, total - 3);
}
TEST_F(CudaEngine, BatchesAndForksDrawWhatRequestsDrawAlone) { expect_batches_draw_alone("dense"); }

// Prompts read by cuDNN: in one step and in chunks, the logits of the engine's own kernels but for rounding; and in a
// batch, among rows that decode.
TEST_F(CudaEngine, CudnnReadsPromptsAsOurKernelsDo) {
  if (const Status loaded = cuda::load_cudnn(); !loaded.ok()) GTEST_SKIP() << loaded.message();
  Philox rng(12);
  for (const char* name : kDecoders) {
    SCOPED_TRACE(name);
    const auto model = load_tiny(name, true);
    const ModelConfig& config = model->model->config();
    const std::vector<int32_t> ids = random_ids(rng, 110, config.vocab);
    bool windows = false;
    for (int32_t l = 0; l < config.n_layers; ++l) windows |= config.is_sliding(l);
    for (const int32_t step_rows : {512, 64}) {
      EngineOptions options;
      options.step_rows = step_rows;
      options.logit_rows = step_rows;
      const Record own = run_alone(model, ids, 8, options);
      options.attn = "dense(impl=cudnn)";
      if (windows) {
        const Status refused = Engine::create(model, options).status();
        EXPECT_NE(refused.message().find("impl=cudnn: its model attends the last"), std::string_view::npos)
            << refused.to_string();
        continue;
      }
      const Record got = run_alone(model, ids, 8, options);
      std::vector<double> errors;
      for (size_t p = 0; p < ids.size(); ++p) {
        ASSERT_EQ(got.rows[p].size(), own.rows[p].size()) << "position " << p;
        errors.push_back(relative_rms(own.rows[p], got.rows[p]));
      }
      expect_rounding_only(errors, config.n_layers);
      options.strict = true;
      EXPECT_NE(Engine::create(model, options).status().message().find("strict mode"), std::string_view::npos);
    }
  }
  expect_batches_draw_alone("dense(impl=cudnn)");
}

// Without the library an engine says what was looked for; nothing else is refused.
TEST_F(CudaEngine, CudnnThatIsNotThereIsNamed) {
  const Status loaded = cuda::load_cudnn();
  if (loaded.ok()) GTEST_SKIP() << "cuDNN is there";
  EngineOptions options;
  options.attn = "dense(impl=cudnn)";
  options.max_context = 64;
  const Status refused = Engine::create(load_tiny("llama", true), options).status();
  EXPECT_EQ(refused.code(), StatusCode::kUnsupported);
  EXPECT_NE(refused.message().find(loaded.message()), std::string_view::npos) << refused.to_string();
  EXPECT_NE(refused.message().find("attn=dense(impl=cudnn)"), std::string_view::npos) << refused.to_string();
}

// In strict mode every row of logits is the same to the bit, alone, among 8 or 33 requests, with few pages (so that
// some are pre-empted and replayed), and without captured steps.
TEST_F(CudaEngine, StrictRowsDependOnTheirSequenceAlone) {
  for (const char* name : {"llama", "gemma3"}) {
    SCOPED_TRACE(name);
    const auto model = load_tiny(name, true);
    const int32_t vocab = model->model->config().vocab;
    constexpr int kRequests = 33, kAnswer = 40;
    std::vector<std::vector<int32_t>> prompts;
    Philox rng(11);
    for (int i = 0; i < kRequests; ++i) prompts.push_back(random_ids(rng, 5 + 25 * (i % 9), vocab));
    using Rows = std::map<std::pair<int, int32_t>, std::string>;  // bytes by request and position
    uint64_t preemptions = 0;
    const auto run = [&](int batch, int64_t kv_rows, bool graphs) {
      Rows rows;
      EngineOptions options;
      options.threads = 2;
      options.strict = true;
      options.graphs = graphs;
      options.max_context = 256;
      options.max_sequences = batch;
      options.kv_rows = kv_rows;
      auto engine = value_of(Engine::create(model, options));
      for (int i = 0; i < kRequests; ++i) {
        Request request;
        request.tokens = prompts[i];
        request.max_tokens = kAnswer;
        request.ignore_eos = true;
        request.on_logits = [&rows, i](int32_t, int32_t position, std::span<const float> row) {
          rows[{i, position}].assign(reinterpret_cast<const char*>(row.data()), row.size_bytes());
        };
        EXPECT_TRUE(is_ok(engine->submit(std::move(request), {})));
        if (batch == 1) {
          EXPECT_TRUE(is_ok(engine->run()));
        }
      }
      EXPECT_TRUE(is_ok(engine->run()));
      preemptions = engine->stats().preemptions;
      return rows;
    };
    const Rows alone = run(1, 256, true);
    ASSERT_EQ(alone.size(), static_cast<size_t>(kRequests * kAnswer));
    EXPECT_TRUE(run(8, 8 * 256, true) == alone) << "in a batch of 8";
    EXPECT_TRUE(run(33, 33 * 256, true) == alone) << "in a batch of 33";
    EXPECT_TRUE(run(33, 33 * 256, false) == alone) << "without graphs";
    EXPECT_TRUE(run(8, 320, true) == alone) << "pre-empted";
    EXPECT_GT(preemptions, 0u);
  }
}

TEST_F(CudaEngine, EmbeddingsMatchTheCpu) {
  Philox rng(8);
  std::vector<std::vector<int32_t>> texts;
  for (const int32_t n : {1, 5, 40}) texts.push_back(random_ids(rng, n, 264));
  std::vector<std::vector<std::vector<float>>> vectors;
  for (const bool on_card : {false, true}) {
    auto embedder = Embedder::create(load_tiny("bert", on_card), 2);
    ASSERT_TRUE(embedder.ok()) << embedder.status().to_string();
    auto out = (*embedder)->embed(texts);
    ASSERT_TRUE(out.ok()) << out.status().to_string();
    vectors.push_back(std::move(*out));
  }
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_LE(relative_rms(vectors[0][i], vectors[1][i]), 0.03) << i;
}

TEST_F(CudaEngine, TooMuchMemoryIsRefusedAndTheNextEngineRuns) {
  const auto model = load_tiny("llama", true);
  EngineOptions options;
  options.threads = 1;
  options.max_context = 256;
  options.max_sequences = 4096;
  options.step_rows = 65'536;
  options.logit_rows = 65'536;
  const auto before = model->accelerator->memory().bytes;
  for (int64_t rows = int64_t{1} << 24; rows <= int64_t{1} << 36; rows <<= 4) {
    options.kv_rows = rows;
    const auto engine = Engine::create(model, options);
    if (engine.ok()) continue;
    EXPECT_NE(engine.status().code(), StatusCode::kInternal) << engine.status().to_string();
    break;
  }
  EXPECT_EQ(model->accelerator->memory().bytes, before);
  Philox rng(9);
  EXPECT_FALSE(run_alone(model, random_ids(rng, 10, 264), 2, {}).tokens[0].empty());
}

}  // namespace
}  // namespace pare
