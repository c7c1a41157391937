// What the tests of prompt attention on a card share: sequences' rows in a paged store there, inputs rounded as the
// card sees them, and how far results may be off.
#pragma once

#include "../unit/kernels/attention_trials.h"
#include "cuda_test.h"
#include "kernels/cuda/attention.h"

namespace pare::cuda {

using test::BlockPlanData;
using test::World;
using test::WorldShape;

// Some sequences' positions [pos, pos + n) run together. `used` [rows][K]: stored rows that the test may read; empty:
// all.
struct Part {
  World* w;
  BlockPlanData* plan;
  int pos, n;
  std::vector<bool> used;
};

inline uint16_t narrow(float x, Codec codec) { return codec == Codec::Bf16 ? float_to_bfloat(x) : float_to_half(x); }
inline float widen(uint16_t x, Codec codec) { return codec == Codec::Bf16 ? bfloat_to_float(x) : half_to_float(x); }

inline const AttentionKernels& fastest_fp32() {
  const auto levels = testable_cpu_levels();
  return attention_kernels(std::min(levels.back(), CpuLevel::kAvx512));
}

// The parts' pages as the engine's store lays them out: per layer [page][KV head][K, V][row][D].
class DeviceStore {
 public:
  static constexpr int kLayers = 2, kLayer = 1;

  DeviceStore(const std::vector<Part>& parts, Codec codec) {
    const WorldShape& s = parts[0].w->shape;
    int pages = 3;
    for (const Part& p : parts) pages += (p.w->shape.rows + kPageRows - 1) / kPageRows;
    const int64_t plane = int64_t{kPageRows} * s.d, page = 2 * plane * s.kv_heads;
    std::vector<uint16_t> pool(kLayers * pages * page, 0xffff);
    std::vector<int32_t> order(pages);
    for (int i = 0; i < pages; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937(pages));
    for (const Part& p : parts) {
      page0.push_back(static_cast<int>(ids_.size()));
      for (int j = 0; j < p.w->shape.rows; ++j) {
        if (j % kPageRows == 0) {
          ids_.push_back(order.back());
          order.pop_back();
        }
        for (int g = 0; g < s.kv_heads; ++g) {
          if (!p.used.empty() && !p.used[static_cast<size_t>(j) * s.kv_heads + g]) continue;
          uint16_t* k = pool.data() + (int64_t{kLayer} * pages + ids_.back()) * page + 2 * g * plane +
                        static_cast<int64_t>(j % kPageRows) * s.d;
          for (int c = 0; c < s.d; ++c) k[c] = narrow(p.w->key(j, g)[c], codec);
          for (int c = 0; c < s.d; ++c) k[plane + c] = narrow(p.w->value(j, g)[c], codec);
        }
      }
    }
    formats_.resize(static_cast<size_t>(kLayers) * s.kv_heads);
    for (int l = 0; l < kLayers; ++l) {
      for (int g = 0; g < s.kv_heads; ++g) {
        RowFormat& f = formats_[static_cast<size_t>(l) * s.kv_heads + g];
        f.k = 2 * (l * pages * page + 2 * g * plane);
        f.v = f.k + 2 * plane;
        f.page_bytes = static_cast<uint32_t>(2 * page);
        f.k_width = f.v_width = static_cast<uint16_t>(s.d);
        f.k_codec = f.v_codec = codec;
        f.order = Order::Rows;
      }
    }
    pool_ = to_device(pool);
    ids_device_ = to_device(ids_);
    formats_device_ = to_device(formats_);
    zones_device_ = to_device(std::vector<Zone>{Zone{.page_rows = kPageRows, .span = kSpanRows}});
  }

  AttentionLayer layer(const World& w) const {
    AttentionLayer out;
    out.kv.pools[0] = pool_.data();
    out.kv.formats = formats_device_.as<RowFormat>();
    out.kv.zones = zones_device_.as<Zone>();
    out.kv.page_ids = ids_device_.as<int32_t>();
    out.kv.n_kv_layers = kLayers;
    out.kv.n_kv_heads = w.shape.kv_heads;
    out.kv.head_dim = w.shape.d;
    out.host_formats = formats_.data() + static_cast<size_t>(kLayer) * w.shape.kv_heads;
    out.kv_layer = kLayer;
    out.n_heads = w.shape.heads;
    out.head_dim = w.shape.d;
    out.qa = w.shape.tiled_heads ? 1 : w.shape.heads / w.shape.kv_heads;
    out.qb = w.shape.tiled_heads ? w.shape.kv_heads : 1;
    out.scale = w.scale;
    out.softcap = w.softcap;
    return out;
  }
  const DeviceBuffer& pool() const { return pool_; }

  std::vector<int> page0;  // of each part

 private:
  std::vector<int32_t> ids_;
  std::vector<RowFormat> formats_;
  DeviceBuffer pool_, ids_device_, formats_device_, zones_device_;
};

inline World make_world(int heads, int kv_heads, int d, int rows, uint32_t seed = 1) {
  return World({.heads = heads, .kv_heads = kv_heads, .d = d, .rows = rows, .codec = Codec::F32}, seed);
}

// Rounds all inputs to the device's type, so that both sides compute from the same numbers.
inline void round_inputs(World& w, Codec codec) {
  for (auto* x : {&w.k, &w.v, &w.q}) {
    for (float& e : *x) e = test::rounded(e, codec);
  }
}

// Error budget: weights and results are rounded to the type, half an ulp u each, so a result may be off by
// 2 u max|v| (weights sum to 1); fp32 logits add 2 max|v| times their error (chains of D products, and the scaled
// difference to the maximum). Over many results rounding errors must average out: their rms stays below u times the
// results' own.
inline void expect_near(const World& w, const std::vector<float>& got, const std::vector<float>& expected, Codec codec,
                        double logit_error = 0) {
  const double u = codec == Codec::Bf16 ? 0x1p-8 : 0x1p-11;
  double v_max = 0, errors = 0, squares = 0;
  for (float v : w.v) v_max = std::max(v_max, std::abs(static_cast<double>(v)));
  const double tolerance = v_max * (2 * u + 2 * logit_error + 0x1p-13);
  ASSERT_EQ(got.size(), expected.size());
  const size_t row = static_cast<size_t>(w.shape.heads) * w.shape.d;
  int shown = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i])) {  // not to be written
      EXPECT_TRUE(std::isnan(got[i])) << "row " << i / row;
      continue;
    }
    const double error = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (!(error <= tolerance) && shown++ < 3) {
      ADD_FAILURE() << "row " << i / row << " head " << i % row / w.shape.d << " channel " << i % w.shape.d << ": "
                    << got[i] << ", expected " << expected[i] << " +- " << tolerance;
    }
    errors += error * error;
    squares += static_cast<double>(expected[i]) * expected[i];
  }
  EXPECT_EQ(shown > 3 ? shown : 0, 0) << "results are off";
  EXPECT_LE(std::sqrt(errors), 1.5 * (u + logit_error) * std::sqrt(squares) + 1e-6);
}

}  // namespace pare::cuda
