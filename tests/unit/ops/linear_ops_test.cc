// Matrix products: how they are cut over threads never shows, and the sums are those of plain loops.
#include <gtest/gtest.h>

#include <cmath>

#include "../kernels/linear_fixture.h"
#include "ops_rig.h"

namespace pare::test {
namespace {

// x [rows, k] times w [n, k] in double, with a bound on the error of an fp32 chain.
struct Product {
  std::vector<double> y, tolerance;
};
Product multiply(const std::vector<float>& x, const std::vector<float>& w, int64_t k) {
  const int64_t rows = static_cast<int64_t>(x.size()) / k, n = static_cast<int64_t>(w.size()) / k;
  Product p;
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double term = double{x[t * k + i]} * w[j * k + i];
        sum += term;
        magnitude += std::fabs(term);
      }
      p.y.push_back(sum);
      p.tolerance.push_back((static_cast<double>(k) + 4) * 0x1p-24 * (magnitude + 1));
    }
  }
  return p;
}

double silu(double x) { return x / (1.0 + std::exp(-x)); }

ops::LinearInput input(OpsRig& rig, const std::vector<float>& x, int64_t k, bool quantized) {
  ops::LinearInput in = ops::make_linear_input(rig.ctx, static_cast<int64_t>(x.size()) / k, k, quantized);
  std::copy(x.begin(), x.end(), in.values.as<float>());
  ops::quantize(rig.ctx, in);
  return in;
}

TEST(LinearOps, SeveralOutputsOfOneInput) {
  constexpr int64_t k = 45;
  Philox rng(11);
  const FloatWeight a(rng, 51, k), b(rng, 16, k), c(rng, 1, k);
  const std::vector<float> bias = random_floats(rng, 16);
  for (const int64_t rows : kRowCounts) {
    const std::vector<float> x = random_floats(rng, rows * k);
    const std::vector<float> residual = random_floats(rng, rows * 51);
    const Product pa = multiply(x, a.rows, k), pb = multiply(x, b.rows, k), pc = multiply(x, c.rows, k);
    std::vector<float> alone;
    for (const int threads : {1, 2, 3}) {
      OpsRig rig(threads);
      const ops::LinearInput in = input(rig, x, k, false);
      Tensor ya = ops::make_f32(rig.ctx, {rows, 51}), yb = ops::make_f32(rig.ctx, {rows, 16}),
             yc = ops::make_f32(rig.ctx, {rows, 1});
      std::copy(residual.begin(), residual.end(), ya.as<float>());
      const ops::LinearOutput outputs[] = {
          {&a.packed, nullptr, &ya, true}, {&b.packed, bias.data(), &yb, false}, {&c.packed, nullptr, &yc, false}};
      const size_t used = rig.ctx.arena.used();
      ops::linear(rig.ctx, in, outputs);
      EXPECT_EQ(rig.ctx.arena.used(), used);
      EXPECT_EQ(rig.ctx.counters.macs, static_cast<uint64_t>(rows * k * (51 + 16 + 1)));
      for (size_t i = 0; i < pa.y.size(); ++i) {
        ASSERT_NEAR(ya.as<float>()[i], residual[i] + pa.y[i], pa.tolerance[i] + std::fabs(residual[i]) * 0x1p-22);
      }
      for (size_t i = 0; i < pb.y.size(); ++i) {
        ASSERT_NEAR(yb.as<float>()[i], pb.y[i] + bias[i % 16], pb.tolerance[i] + 0x1p-21);
      }
      for (size_t i = 0; i < pc.y.size(); ++i) ASSERT_NEAR(yc.as<float>()[i], pc.y[i], pc.tolerance[i]);
      std::vector<float> all = values_of(ya);
      for (const Tensor& t : {yb, yc}) {
        const std::vector<float> more = values_of(t);
        all.insert(all.end(), more.begin(), more.end());
      }
      if (threads == 1) alone = all;
      ASSERT_EQ(all, alone) << rows << " rows on " << threads << " threads";
    }
  }
}

TEST(LinearOps, BlockFormatsHaveTheOraclesBits) {
  constexpr int64_t k = 256;
  for (const DType type : {DType::Q8_0, DType::Q4_K, DType::F16}) {
    Philox rng(12);
    const int64_t n = 77;
    const TestWeight weight(type, n, k, random_weight(type, n, k, rng));
    const bool quantized = wants_quantized_input(type);
    for (const int64_t rows : kRowCounts) {
      const std::vector<float> x = random_floats(rng, rows * k);
      for (const int threads : {1, 3}) {
        OpsRig rig(threads);
        const ops::LinearInput in = input(rig, x, k, quantized);
        Tensor y = ops::make_f32(rig.ctx, {rows, n});
        const ops::LinearOutput output{&weight.packed, nullptr, &y, false};
        ops::linear(rig.ctx, in, std::span(&output, 1));
        std::vector<float> expected(static_cast<size_t>(rows * n));
        if (quantized) quantize_rows(linear_kernels(CpuLevel::kScalar), in.rows, 0, rows);
        ref::linear(weight.packed, in.rows, 0, rows, 0, (n + kRowTile - 1) / kRowTile, {}, expected.data(), n);
        ASSERT_EQ(values_of(y), expected) << dtype_info(type).name << ", " << rows << " rows";
      }
    }
  }
}

TEST(LinearOps, GluMultipliesTheActivatedGate) {
  constexpr int64_t k = 35, n = 43;
  Philox rng(13);
  const FloatWeight gate(rng, n, k), up(rng, n, k);
  for (const int64_t rows : kRowCounts) {
    const std::vector<float> x = random_floats(rng, rows * k, 0.3f);
    const Product pg = multiply(x, gate.rows, k), pu = multiply(x, up.rows, k);
    std::vector<float> alone;
    for (const int threads : {1, 2, 3}) {
      OpsRig rig(threads);
      const ops::LinearInput in = input(rig, x, k, false);
      ops::LinearInput out = ops::make_linear_input(rig.ctx, rows, n, false);
      const size_t used = rig.ctx.arena.used();
      ops::glu_linear(rig.ctx, in, gate.packed, up.packed, Activation::kSilu, out);
      EXPECT_EQ(rig.ctx.arena.used(), used);
      const std::vector<float> y = values_of(out.values);
      for (size_t i = 0; i < y.size(); ++i) {
        // |silu'| <= 1.1; the activation itself is good to a few ulp.
        const double tolerance = 1.1 * pg.tolerance[i] * std::fabs(pu.y[i]) +
                                 std::fabs(silu(pg.y[i])) * (pu.tolerance[i] + 0x1p-19 * (1 + std::fabs(pu.y[i])));
        ASSERT_NEAR(y[i], silu(pg.y[i]) * pu.y[i], tolerance + 1e-6) << i;
      }
      if (threads == 1) alone = y;
      ASSERT_EQ(y, alone);
    }
  }
}

TEST(LinearOps, ActivatedProductWithBias) {
  constexpr int64_t k = 35, n = 43;
  Philox rng(14);
  const FloatWeight w(rng, n, k);
  const std::vector<float> bias = random_floats(rng, n);
  for (const int64_t rows : kRowCounts) {
    const std::vector<float> x = random_floats(rng, rows * k, 0.3f);
    const Product p = multiply(x, w.rows, k);
    OpsRig rig(2);
    const ops::LinearInput in = input(rig, x, k, false);
    ops::LinearInput out = ops::make_linear_input(rig.ctx, rows, n, false);
    ops::linear_activate(rig.ctx, in, w.packed, bias.data(), Activation::kGeluErf, out);
    const std::vector<float> y = values_of(out.values);
    for (size_t i = 0; i < y.size(); ++i) {
      const double z = p.y[i] + bias[i % n];
      ASSERT_NEAR(y[i], 0.5 * z * (1.0 + std::erf(z / std::sqrt(2.0))), 1.2 * p.tolerance[i] + 2e-6) << i;
    }
  }
}

TEST(LinearOps, NoRowsIsNoWork) {
  Philox rng(15);
  const FloatWeight w(rng, 5, 7);
  OpsRig rig(2);
  const ops::LinearInput in = ops::make_linear_input(rig.ctx, 0, 7, false);
  Tensor y = ops::make_f32(rig.ctx, {0, 5});
  const ops::LinearOutput output{&w.packed, nullptr, &y, false};
  ops::linear(rig.ctx, in, std::span(&output, 1));
  EXPECT_EQ(rig.ctx.counters.macs, 0u);
}

}  // namespace
}  // namespace pare::test
