// Channel masks by magnitude: scores against sums over pairs written out, budgets by hand, heavy channels planted in a
// model's weights.
#include "eval/tune_leank.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>

#include "../../scratch_folder.h"
#include "../../tiny_models.h"
#include "base/rng.h"
#include "io/gguf.h"
#include "io/mask_file.h"
#include "plan/mask_statistics.h"
#include "tensor/tensor.h"

namespace pare {
namespace {

using test::tiny_model;

// A tiny model of which some rows of a tensor are `factor` times as large.
std::shared_ptr<const LoadedModel> planted(const std::string& name, const std::string& tensor,
                                           const std::vector<int64_t>& rows, float factor) {
  std::ifstream in(test::tiny_model_path(name), std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(in), {});
  const auto file = read_gguf(std::as_bytes(std::span(bytes)));
  EXPECT_TRUE(file.ok()) << file.status().to_string();
  bool found = false;
  for (const TensorEntry& entry : file->tensors) {
    if (entry.name != tensor) continue;
    found = true;
    EXPECT_EQ(entry.dtype, DType::F32);
    const int64_t width = entry.shape.size() > 1 ? entry.shape[1] : 1;
    char* const data = bytes.data() + (reinterpret_cast<const char*>(entry.data.data()) - bytes.data());
    for (const int64_t row : rows) {
      for (int64_t i = 0; i < width; ++i) {
        float value;
        char* const at = data + (row * width + i) * static_cast<int64_t>(sizeof(float));
        std::memcpy(&value, at, sizeof(value));
        value *= factor;
        std::memcpy(at, &value, sizeof(value));
      }
    }
  }
  EXPECT_TRUE(found) << tensor;
  const test::ScratchFolder folder;
  std::ofstream(folder / "planted.gguf", std::ios::binary) << bytes;
  return test::load_model_file(folder / "planted.gguf");
}

std::vector<TokenId> some_ids(int32_t n, int32_t salt = 0) {
  std::vector<TokenId> ids(n);
  for (int32_t i = 0; i < n; ++i) ids[i] = (i * 37 + i * i * 11 + 5 + salt * 71) % 250;
  return ids;
}

ChannelScores calibrated(const std::shared_ptr<const LoadedModel>& model, int32_t threads,
                         const std::vector<std::vector<TokenId>>& prompts) {
  auto scores = calibrate_channels(model, prompts, threads);
  EXPECT_TRUE(scores.ok()) << scores.status().to_string();
  return *scores;
}

const double* head_scores(const ChannelScores& s, int32_t layer, int32_t head) {
  return s.values.data() + (static_cast<size_t>(layer) * s.n_kv_heads + head) * s.head_dim;
}

TEST(CalibrateChannels, IsTheMeanOverAllPairs) {
  const auto model = tiny_model("llama");
  const std::vector<std::vector<TokenId>> prompts = {some_ids(40)};
  const ChannelScores scores = calibrated(model, 1, prompts);
  EXPECT_EQ(scores.rows, 40 - kCalibrationSinkRows);
  EXPECT_EQ(scores.windowed, (std::vector<uint8_t>{0, 0}));

  // The same rows once more, and every pair of them.
  struct Rows {
    std::vector<std::vector<float>> q, k;
  };
  std::vector<Rows> layers(2);
  EngineOptions o;
  o.threads = 1;
  o.max_context = 64;
  o.on_attention = [&](int32_t layer, const StepPlans&, const Tensor& q, const Tensor& k) {
    for (int64_t t = 0; t < q.rows(); ++t) {
      layers[layer].q.emplace_back(q.as<float>() + t * q.row_items(), q.as<float>() + (t + 1) * q.row_items());
      layers[layer].k.emplace_back(k.as<float>() + t * k.row_items(), k.as<float>() + (t + 1) * k.row_items());
    }
  };
  auto engine = Engine::create(model, o);
  ASSERT_TRUE(engine.ok()) << engine.status().to_string();
  Request request;
  request.tokens = prompts[0];
  request.max_tokens = 1;
  ASSERT_TRUE((*engine)->submit(request, {}).ok());
  ASSERT_TRUE((*engine)->run().ok());

  constexpr int32_t kDim = 16, kGroup = 2;
  for (int32_t l = 0; l < 2; ++l) {
    ASSERT_EQ(layers[l].q.size(), 40u);
    for (int32_t h = 0; h < 2; ++h) {
      for (int32_t c = 0; c < kDim; ++c) {
        double sum = 0.0;
        int64_t pairs = 0;
        for (size_t t = kCalibrationSinkRows; t < 40; ++t) {
          for (size_t j = kCalibrationSinkRows; j < 40; ++j) {
            for (int32_t r = 0; r < kGroup; ++r) {
              const double q = layers[l].q[t][(h * kGroup + r) * kDim + c];
              sum += std::abs(q * layers[l].k[j][h * kDim + c]);
              ++pairs;
            }
          }
        }
        const double mean = sum / static_cast<double>(pairs);
        EXPECT_NEAR(head_scores(scores, l, h)[c], mean, 1e-12 * (1.0 + mean)) << l << " " << h << " " << c;
      }
    }
  }
}

TEST(CalibrateChannels, DoesNotDependOnThreads) {
  for (const char* name : {"llama", "qwen2", "gemma3"}) {
    const auto model = tiny_model(name);
    const std::vector<std::vector<TokenId>> prompts = {some_ids(100), some_ids(50, 1)};
    const ChannelScores one = calibrated(model, 1, prompts);
    for (const int32_t threads : {2, 3}) EXPECT_EQ(calibrated(model, threads, prompts).values, one.values) << name;
    EXPECT_EQ(one.rows, 150 - 2 * kCalibrationSinkRows);
    const auto mask = make_channel_mask(one, {});
    ASSERT_TRUE(mask.ok()) << mask.status().to_string();
    EXPECT_TRUE(check_channel_mask(*mask).ok());
  }
}

TEST(CalibrateChannels, FindsChannelsPlantedInInterleavedRows) {
  // A GGUF llama stores RoPE pairs as neighbours: rows 2c and 2c + 1 are channels c and c + 8.
  const auto model = planted("llama", "blk.1.attn_q.weight", {2 * 3, 2 * 3 + 1, 2 * 6, 2 * 6 + 1}, 1000.0f);
  const ChannelScores scores = calibrated(model, 1, {some_ids(60)});
  const double* s = head_scores(scores, 1, 0);
  for (int32_t c = 0; c < 16; ++c) {
    const bool heavy = c % 8 == 3 || c % 8 == 6;
    for (int32_t other = 0; other < 16 && heavy; ++other) {
      if (other % 8 != 3 && other % 8 != 6) {
        EXPECT_GT(s[c], 10.0 * s[other]) << c << " " << other;
      }
    }
  }
}

TEST(CalibrateChannels, MagnitudeKeepsPlantedChannels) {
  // Head dimension 32: the one global layer keeps half, which are eight planted pairs.
  std::vector<int64_t> heavy;
  for (const int64_t f : {1, 2, 5, 7, 8, 11, 13, 14}) {
    heavy.push_back(f);
    heavy.push_back(f + 16);
  }
  std::sort(heavy.begin(), heavy.end());
  const auto model = planted("gemma3", "blk.5.attn_k_norm.weight", heavy, 100.0f);
  const ChannelScores scores = calibrated(model, 1, {some_ids(60)});
  EXPECT_EQ(scores.windowed, (std::vector<uint8_t>{1, 1, 1, 1, 1, 0}));
  const auto mask = make_channel_mask(scores, {});
  ASSERT_TRUE(mask.ok()) << mask.status().to_string();
  for (int32_t l = 0; l < 5; ++l) EXPECT_EQ(mask->head(l, 0).size(), 32u) << "a layer with a window keeps everything";
  std::vector<int64_t> kept;
  for (const Channel& c : mask->head(5, 0)) kept.push_back(c.id);
  EXPECT_EQ(kept, heavy);
}

TEST(CalibrateChannels, SaysWhatIsWrongAndStopsWhenTold) {
  const auto model = tiny_model("llama");
  const std::vector<std::vector<TokenId>> none, brief = {some_ids(kCalibrationSinkRows)}, good = {some_ids(60)};
  EXPECT_EQ(calibrate_channels(model, none, 1).status().message(),
            "the longest prompt has 0 tokens; the first 16 of each do not count");
  EXPECT_EQ(calibrate_channels(model, brief, 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(calibrate_channels(model, good, 1, [](int64_t, int64_t) { return false; }).status().code(),
            StatusCode::kCancelled);
  int64_t last = 0;
  EXPECT_TRUE(calibrate_channels(model, good, 1, [&](int64_t done, int64_t total) {
                EXPECT_EQ(total, 60);
                last = done;
                return true;
              }).ok());
  EXPECT_EQ(last, 60);
}

ChannelScores scores_of(int32_t layers, int32_t heads, int32_t dim) {
  ChannelScores s;
  s.n_layers = layers;
  s.n_kv_heads = heads;
  s.head_dim = dim;
  s.values.assign(static_cast<size_t>(layers) * heads * dim, 1.0);
  s.windowed.assign(layers, 0);
  return s;
}

TEST(PooledBudgets, ByHand) {
  // 47 of 128 scores are heavy. The 0.625 quantile lies at index 79.375, between 1 and 1: the threshold is 1 there, and
  // everything passes; with 48 heavy ones it is 1 + 0.375 * 9.
  ChannelScores s = scores_of(1, 2, 64);
  for (int c = 0; c < 40; ++c) s.values[c] = 10.0;
  for (int c = 0; c < 7; ++c) s.values[64 + c] = 10.0;
  EXPECT_EQ(*pooled_budgets(s, 0.375, 16), (std::vector<int32_t>{64, 64}));
  s.values[64 + 7] = 10.0;
  EXPECT_EQ(*pooled_budgets(s, 0.375, 16), (std::vector<int32_t>{48, 16})) << "halves round up: 40 -> 48, 8 -> 16";
  EXPECT_EQ(*pooled_budgets(s, 0.375, 32), (std::vector<int32_t>{32, 0})) << "8 of 32 rounds to an empty head";
  s.values[64 + 7] = 1.0;
  s.values[40] = 10.0;
  EXPECT_EQ(*pooled_budgets(s, 0.375, 16), (std::vector<int32_t>{48, 0})) << "41 and 7";
  EXPECT_EQ(*pooled_budgets(s, 1.0, 16), (std::vector<int32_t>{64, 64}));
}

TEST(PooledBudgets, LayersWithWindowsStayOutOfThePool) {
  ChannelScores s = scores_of(2, 1, 32);
  for (int c = 0; c < 32; ++c) s.values[c] = 1e6;  // would take every place above the threshold
  for (int c = 0; c < 16; ++c) s.values[32 + c] = 2.0;
  EXPECT_EQ(*pooled_budgets(s, 0.5, 16), (std::vector<int32_t>{32, 0}));
  s.windowed[0] = 1;
  EXPECT_EQ(*pooled_budgets(s, 0.5, 16), (std::vector<int32_t>{32, 16}));
  s.windowed[1] = 1;
  EXPECT_EQ(pooled_budgets(s, 0.5, 16).status().message(), "every layer slides a window: there is nothing to prune");
}

TEST(PooledBudgets, RefusesRatiosAndScores) {
  ChannelScores s = scores_of(1, 1, 32);
  for (const double keep : {0.0, -0.5, 1.0001, std::numeric_limits<double>::quiet_NaN()}) {
    const auto budgets = pooled_budgets(s, keep, 16);
    ASSERT_FALSE(budgets.ok()) << keep;
    EXPECT_EQ(budgets.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(budgets.status().message().find("is not in (0, 1]"), std::string_view::npos);
    EXPECT_FALSE(make_channel_mask(s, {.keep = keep}).ok());
  }
  s.values[3] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(pooled_budgets(s, 0.5, 16).status().message(), "layer 0, KV head 0, channel 3: a score of nan");
}

ChannelScores random_scores(uint64_t seed) {
  ChannelScores s = scores_of(6, 3, 64);
  Philox rng(seed);
  // Heads of unlike weight, so that budgets differ.
  for (size_t i = 0; i < s.values.size(); ++i) s.values[i] = (1.0 + static_cast<double>(i / 64 % 5)) * rng.uniform();
  return s;
}

std::vector<size_t> widths(const ChannelMask& mask) {
  std::vector<size_t> out;
  for (const auto& head : mask.heads) out.push_back(head.size());
  return out;
}

std::vector<std::vector<int>> ids(const ChannelMask& mask) {
  std::vector<std::vector<int>> out;
  for (const auto& head : mask.heads) {
    out.emplace_back();
    for (const Channel& c : head) out.back().push_back(c.id);
  }
  return out;
}

TEST(MakeChannelMask, MagnitudeTakesTheLargest) {
  const ChannelScores s = random_scores(1);
  const ChannelMask mask = *make_channel_mask(s, {.keep = 0.5});
  ASSERT_TRUE(check_channel_mask(mask).ok());
  for (size_t h = 0; h < mask.heads.size(); ++h) {
    std::vector<uint8_t> kept(64, 0);
    double least = std::numeric_limits<double>::infinity();
    for (const Channel& c : mask.heads[h]) {
      kept[c.id] = 1;
      least = std::min(least, s.values[h * 64 + c.id]);
      EXPECT_EQ(c.alpha, 1.0f);
    }
    for (int c = 0; c < 64; ++c) {
      if (kept[c] == 0) {
        EXPECT_LE(s.values[h * 64 + c], least);
      }
    }
  }
  // Of equal scores the lowest channels.
  ChannelScores equal = scores_of(1, 1, 64);
  equal.values[60] = 2.0;
  const std::vector<int32_t> budgets = *pooled_budgets(equal, 0.01, 16);
  EXPECT_EQ(budgets, (std::vector<int32_t>{0}));
  for (int c = 40; c < 64; ++c) equal.values[c] = 2.0;
  const ChannelMask ties = *make_channel_mask(equal, {.keep = 24.0 / 64.0});
  ASSERT_EQ(ties.heads[0].size(), 32u);
  EXPECT_EQ(ties.heads[0][7].id, 7);
  EXPECT_EQ(ties.heads[0][8].id, 40);
}

TEST(MakeChannelMask, ControlsKeepAsMuch) {
  for (const double keep : {0.7, 0.5, 0.3}) {
    const ChannelScores s = random_scores(2);
    const ChannelMask magnitude = *make_channel_mask(s, {.keep = keep});
    TuneLeankOptions o{.keep = keep, .channels = MaskChannels::kRandom, .seed = 7};
    const ChannelMask random = *make_channel_mask(s, o);
    EXPECT_EQ(widths(random), widths(magnitude));
    EXPECT_NE(ids(random), ids(magnitude));
    EXPECT_EQ(ids(*make_channel_mask(s, o)), ids(random));
    o.seed = 8;
    EXPECT_NE(ids(*make_channel_mask(s, o)), ids(random));

    o.budgets = MaskBudgets::kUniform;
    const ChannelMask uniform = *make_channel_mask(s, o);
    ASSERT_TRUE(check_channel_mask(uniform).ok());
    EXPECT_EQ(mask_statistics(uniform).kept, mask_statistics(magnitude).kept);
    const std::vector<size_t> w = widths(uniform);
    EXPECT_LE(*std::max_element(w.begin(), w.end()) - *std::min_element(w.begin(), w.end()), 16u);
    EXPECT_NE(w, widths(magnitude));
  }
}

TEST(MakeChannelMask, RandomChannelsAreEvenlySpread) {
  // 18 heads of 300 seeds: each channel is kept as often as the next, within five standard deviations.
  const ChannelScores s = random_scores(3);
  std::vector<double> times(64, 0.0);
  double expected = 0.0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const ChannelMask mask = *make_channel_mask(s, {.channels = MaskChannels::kRandom, .seed = seed});
    for (const auto& head : mask.heads) {
      expected += static_cast<double>(head.size()) / 64.0;
      for (const Channel& c : head) ++times[c.id];
    }
  }
  for (int c = 0; c < 64; ++c) EXPECT_NEAR(times[c], expected, 5.0 * std::sqrt(expected)) << c;
}

TEST(MakeChannelMask, KeepOneIsEverything) {
  const ChannelMask mask = *make_channel_mask(random_scores(4), {.keep = 1.0});
  EXPECT_EQ(mask_statistics(mask).kept_fraction(), 1.0);
  const ChannelMask random = *make_channel_mask(random_scores(4), {.keep = 1.0, .channels = MaskChannels::kRandom});
  EXPECT_EQ(ids(random), ids(mask));
}

TEST(CalibrationText, IsTheSameForTheSameSeed) {
  EXPECT_EQ(calibration_text(1, 5'000), calibration_text(1, 5'000));
  EXPECT_NE(calibration_text(1, 5'000), calibration_text(2, 5'000));
  EXPECT_GE(calibration_text(1, 5'000).size(), 5'000u);
}

}  // namespace
}  // namespace pare
