// Row-wise ops against plain loops in double, and against themselves on other numbers of threads, bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "ops_rig.h"

namespace pare::test {
namespace {

constexpr double kUlp = 0x1p-23;
constexpr int64_t kDim = 67;

// Runs `op` on 1, 2 and 3 threads for every number of rows; it returns its result, which threads must not change, after
// comparing it with plain loops. The arena must be as full afterwards as `kept` says.
using RowOp = std::function<std::vector<float>(OpsRig&, int64_t rows)>;
void on_all_threads(const RowOp& op) {
  for (const int64_t rows : kRowCounts) {
    std::vector<float> alone;
    for (const int threads : {1, 2, 3}) {
      OpsRig rig(threads);
      const std::vector<float> result = op(rig, rows);
      if (threads == 1) alone = result;
      ASSERT_EQ(result, alone) << rows << " rows on " << threads << " threads";
    }
  }
}

void expect_near(const std::vector<float>& actual, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], tolerance * (1.0 + std::fabs(expected[i]))) << i;
  }
}

std::vector<double> rms_norm_of(const std::vector<float>& x, const std::vector<float>& weight, double eps) {
  const size_t n = weight.size();
  std::vector<double> out(x.size());
  for (size_t t = 0; t < x.size() / n; ++t) {
    double squares = 0;
    for (size_t i = 0; i < n; ++i) squares += double{x[t * n + i]} * x[t * n + i];
    const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (size_t i = 0; i < n; ++i) out[t * n + i] = x[t * n + i] * inverse * weight[i];
  }
  return out;
}

TEST(RowOps, EmbedTakesRowsAndScalesThem) {
  on_all_threads([](OpsRig& rig, int64_t rows) {
    Philox rng(1);
    const FloatWeight table(rng, 37, kDim);
    std::vector<int32_t> ids(static_cast<size_t>(rows));
    for (int32_t& id : ids) id = static_cast<int32_t>(rng.below(37));
    Tensor out = ops::make_f32(rig.ctx, {rows, kDim});
    ops::embed(rig.ctx, table.packed, ints(ids), 3.0f, out);
    const std::vector<float> result = values_of(out);
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t i = 0; i < kDim; ++i) EXPECT_EQ(result[t * kDim + i], 3.0f * table.rows[ids[t] * kDim + i]);
    }
    return result;
  });
}

TEST(RowOps, RmsNormAndItsQuantizedForm) {
  constexpr int64_t dim = 96;  // whole activation blocks
  on_all_threads([](OpsRig& rig, int64_t rows) {
    Philox rng(2);
    std::vector<float> x = random_floats(rng, rows * dim, 5.0f), weight = random_floats(rng, dim);
    ops::LinearInput out = ops::make_linear_input(rig.ctx, rows, dim, true);
    const size_t used = rig.ctx.arena.used();
    ops::rms_norm(rig.ctx, floats(x, {rows, dim}), weight.data(), 1e-5f, out);
    EXPECT_EQ(rig.ctx.arena.used(), used);
    const std::vector<float> result = values_of(out.values);
    expect_near(result, rms_norm_of(x, weight, 1e-5), 16 * kUlp);
    // What stands beside the values is what quantizing them gives.
    AlignedBuffer buffer = AlignedBuffer::allocate(act_rows_bytes(rows, dim)).value();
    ActRows expected = out.rows;
    place_act_rows(buffer.data(), rows, dim, &expected);
    expected.f32 = result.data();
    quantize_rows(linear_kernels(CpuLevel::kScalar), expected, 0, rows);
    for (int64_t b = 0; b < rows * dim / kActBlock; ++b) {
      EXPECT_EQ(out.rows.blocks[b].scale, expected.blocks[b].scale);
      EXPECT_EQ(std::memcmp(out.rows.blocks[b].q, expected.blocks[b].q, kActBlock), 0) << b;
    }
    return result;
  });
}

TEST(RowOps, RmsNormAddAddsToTheResidual) {
  on_all_threads([](OpsRig& rig, int64_t rows) {
    Philox rng(3);
    std::vector<float> x = random_floats(rng, rows * kDim), weight = random_floats(rng, kDim);
    std::vector<float> residual = random_floats(rng, rows * kDim);
    std::vector<double> expected = rms_norm_of(x, weight, 1e-6);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += residual[i];
    Tensor in = floats(x, {rows, kDim}), out = floats(residual, {rows, kDim});
    ops::rms_norm_add(rig.ctx, in, weight.data(), 1e-6f, out);
    expect_near(residual, expected, 16 * kUlp);
    return residual;
  });
}

TEST(RowOps, LayerNorm) {
  on_all_threads([](OpsRig& rig, int64_t rows) {
    Philox rng(4);
    std::vector<float> x = random_floats(rng, rows * kDim), weight = random_floats(rng, kDim);
    const std::vector<float> bias = random_floats(rng, kDim);
    std::vector<double> expected(x.size());
    for (int64_t t = 0; t < rows; ++t) {
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < kDim; ++i) mean += x[t * kDim + i] / double{kDim};
      for (int64_t i = 0; i < kDim; ++i) variance += std::pow(x[t * kDim + i] - mean, 2) / double{kDim};
      for (int64_t i = 0; i < kDim; ++i) {
        expected[t * kDim + i] = (x[t * kDim + i] - mean) / std::sqrt(variance + 1e-5) * weight[i] + bias[i];
      }
    }
    ops::LinearInput out = ops::make_linear_input(rig.ctx, rows, kDim, false);
    ops::layer_norm(rig.ctx, floats(x, {rows, kDim}), weight.data(), bias.data(), 1e-5f, out);
    const std::vector<float> result = values_of(out.values);
    expect_near(result, expected, 32 * kUlp);
    return result;
  });
}

TEST(RowOps, RopeTableIsExactAtFarPositions) {
  on_all_threads([](OpsRig& rig, int64_t rows) {
    const double inv_freq[] = {1.0, 0.31, 0.001};
    std::vector<int32_t> positions(static_cast<size_t>(rows));
    for (int64_t t = 0; t < rows; ++t) positions[t] = static_cast<int32_t>(t * 130'003);
    const ops::RopeTable table = ops::make_rope_table(rig.ctx, ints(positions), inv_freq, 1.5f);
    EXPECT_EQ(table.rot, 6);
    std::vector<float> result = values_of(table.cos);
    const std::vector<float> sines = values_of(table.sin);
    for (size_t i = 0; i < result.size(); ++i) {
      const double angle = positions[i / 3] * inv_freq[i % 3];
      EXPECT_NEAR(result[i], 1.5 * std::cos(angle), 2 * kUlp);
      EXPECT_NEAR(sines[i], 1.5 * std::sin(angle), 2 * kUlp);
    }
    result.insert(result.end(), sines.begin(), sines.end());
    return result;
  });
}

TEST(RowOps, HeadNormRopeTurnsHalvesOfEachHead) {
  constexpr int64_t heads = 3, dim = 22, half = 4;  // the last 14 channels are not rotated
  for (const bool with_norm : {false, true}) {
    on_all_threads([with_norm](OpsRig& rig, int64_t rows) {
      Philox rng(5);
      std::vector<float> x = random_floats(rng, rows * heads * dim);
      const std::vector<float> weight = random_floats(rng, dim);
      const std::vector<double> inv_freq = {1.0, 0.5, 0.1, 0.01};
      std::vector<int32_t> positions(static_cast<size_t>(rows));
      for (int64_t t = 0; t < rows; ++t) positions[t] = static_cast<int32_t>(7 * t);
      std::vector<double> expected(x.begin(), x.end());
      if (with_norm) expected = rms_norm_of(x, weight, 1e-6);
      for (int64_t h = 0; h < rows * heads; ++h) {
        for (int64_t i = 0; i < half; ++i) {
          double& a = expected[h * dim + i];
          double& b = expected[h * dim + i + half];
          const double angle = positions[h / heads] * inv_freq[i], c = std::cos(angle), s = std::sin(angle);
          const double turned = a * c - b * s;
          b = b * c + a * s;
          a = turned;
        }
      }
      const ops::RopeTable table = ops::make_rope_table(rig.ctx, ints(positions), inv_freq, 1.0f);
      Tensor heads_tensor = floats(x, {rows, heads, dim});
      ops::head_norm_rope(rig.ctx, heads_tensor, with_norm ? weight.data() : nullptr, 1e-6f, table);
      expect_near(x, expected, 16 * kUlp);
      return x;
    });
  }
}

TEST(RowOps, GatherTakesRowsInAnyOrder) {
  on_all_threads([](OpsRig& rig, int64_t rows) {
    Philox rng(6);
    std::vector<float> x = random_floats(rng, 41 * kDim);
    std::vector<int32_t> from(static_cast<size_t>(rows));
    for (int32_t& row : from) row = static_cast<int32_t>(rng.below(41));
    Tensor out = ops::make_f32(rig.ctx, {rows, kDim});
    ops::gather_rows(rig.ctx, floats(x, {41, kDim}), ints(from), out);
    const std::vector<float> result = values_of(out);
    for (size_t i = 0; i < result.size(); ++i) EXPECT_EQ(result[i], x[from[i / kDim] * kDim + i % kDim]);
    return result;
  });
}

TEST(RowOps, AddCopyScaleSoftcap) {
  on_all_threads([](OpsRig& rig, int64_t rows) {
    Philox rng(7);
    std::vector<float> x = random_floats(rng, rows * kDim), y = random_floats(rng, rows * kDim);
    const std::vector<float> row = random_floats(rng, kDim), before = y;
    Tensor in = floats(x, {rows, kDim}), out = floats(y, {rows, kDim});
    ops::add(rig.ctx, in, out);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], before[i] + x[i]);
    ops::copy(rig.ctx, in, out);
    EXPECT_EQ(y, x);
    ops::add_row(rig.ctx, row.data(), out);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], x[i] + row[i % kDim]);
    ops::copy(rig.ctx, in, out);
    ops::scale(rig.ctx, 1.7f, out);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], 1.7f * x[i]);
    ops::softcap(rig.ctx, 1.5f, out);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], 1.5 * std::tanh(1.7f * x[i] / 1.5), 8 * kUlp);
    return y;
  });
}

TEST(RowOps, MeanPoolAveragesGroupsOfUnequalLength) {
  for (const bool normalize : {false, true}) {
    on_all_threads([normalize](OpsRig& rig, int64_t groups) {
      Philox rng(8);
      std::vector<int32_t> begin = {0};
      for (int64_t s = 0; s < groups; ++s) begin.push_back(begin.back() + static_cast<int32_t>(s * 5 % 7));
      std::vector<float> x = random_floats(rng, std::max(1, begin.back()) * kDim);
      std::vector<double> expected(static_cast<size_t>(groups * kDim), 0.0);
      for (int64_t s = 0; s < groups; ++s) {
        double squares = 0;
        for (int64_t i = 0; i < kDim; ++i) {
          double& mean = expected[s * kDim + i];
          for (int32_t t = begin[s]; t < begin[s + 1]; ++t) mean += x[t * kDim + i];
          mean /= std::max(1, begin[s + 1] - begin[s]);
          squares += mean * mean;
        }
        for (int64_t i = 0; i < kDim && normalize && squares > 0; ++i) expected[s * kDim + i] /= std::sqrt(squares);
      }
      Tensor out = ops::make_f32(rig.ctx, {groups, kDim});
      ops::mean_pool(rig.ctx, floats(x, {static_cast<int64_t>(x.size()) / kDim, kDim}), ints(begin), normalize, out);
      const std::vector<float> result = values_of(out);
      expect_near(result, expected, 16 * kUlp);
      return result;
    });
  }
}

TEST(RowOps, ArenaHoldsWhatIsMadeAndNothingElse) {
  OpsRig rig(1, 8192);
  EXPECT_EQ(ops::make_f32(rig.ctx, {0, 5}).items(), 0);
  const Tensor a = ops::make_f32(rig.ctx, {3, 7});
  const size_t used = rig.ctx.arena.used();
  const ops::LinearInput in = ops::make_linear_input(rig.ctx, 3, 64, true);
  EXPECT_GE(rig.ctx.arena.used() - used, 3 * 64 * sizeof(float) + act_rows_bytes(3, 64));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(in.rows.blocks) % 64, 0u);
  EXPECT_EQ(in.rows.f32, in.values.as<float>());
  EXPECT_NE(a.as<float>(), in.values.as<float>());
}

}  // namespace
}  // namespace pare::test
