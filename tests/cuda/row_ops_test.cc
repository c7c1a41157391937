// Row-wise CUDA kernels against the CPU's scalar kernels, on odd widths and numbers of rows.
#include "kernels/cuda/row_ops.h"

#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "cuda_test.h"

namespace pare::cuda {
namespace {

using RowOpsTest = CudaTest;

constexpr int64_t kWidths[] = {576, 640, 896, 1091, 4096};
constexpr int64_t kRowCounts[] = {1, 2, 63, 129};
// Sums of a few thousand products in another order than the CPU's, and one rounding to 8 bits.
constexpr float kFp32 = 1e-5f, kBf16 = 0x1p-8f, kHalf = 0x1p-11f;

const ElementwiseKernels& cpu() { return elementwise_kernels(CpuLevel::kScalar); }

std::vector<float> random_floats(Philox& rng, int64_t n, float spread = 1.0f) {
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = spread * rng.normal();
  return x;
}

// The values as the device reads them, and their bytes in that type.
struct Typed {
  std::vector<float> values;
  DeviceBuffer device;
};
Typed as_type(std::vector<float> x, DType type) {
  if (type == DType::F32) return {x, to_device(x)};
  const std::vector<uint16_t> bits = to_bf16(x);
  return {from_bf16(bits), to_device(bits)};
}

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected, float tolerance,
                 float floor = 1e-6f) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_LE(std::fabs(actual[i] - expected[i]), tolerance * std::fabs(expected[i]) + floor)
        << i << ": " << actual[i] << ", expected " << expected[i];
  }
}

std::vector<float> read_bf16(const DeviceBuffer& buffer, size_t count) {
  return from_bf16(to_host<uint16_t>(buffer, count));
}

// --- norms ---

enum class Form { kNorm, kAdd, kAddNorm, kPostNorm, kPostNormNorm };

TEST_F(RowOpsTest, RmsNormInEveryForm) {
  Philox rng(1);
  for (const int64_t dim : kWidths) {
    for (const int64_t rows : kRowCounts) {
      for (const Form form : {Form::kNorm, Form::kAdd, Form::kAddNorm, Form::kPostNorm, Form::kPostNormNorm}) {
        const DType type = rng.below(2) ? DType::F32 : DType::BF16;
        SCOPED_TRACE(testing::Message() << dim << " columns, " << rows << " rows, form " << static_cast<int>(form));
        std::vector<float> x = random_floats(rng, rows * dim, 3.0f);
        const std::vector<float> weight = random_floats(rng, dim), post = random_floats(rng, dim);
        Typed delta = as_type(random_floats(rng, rows * dim), type);
        const DeviceBuffer x_device = to_device(x), weight_device = to_device(weight), post_device = to_device(post);
        const DeviceBuffer out = poisoned<uint16_t>(rows * dim + 8);
        RmsNormArgs args;
        args.x = x_device.as<float>();
        args.eps = 1e-5f;
        args.rows = rows;
        args.dim = dim;
        const bool adds = form != Form::kNorm, post_norm = form == Form::kPostNorm || form == Form::kPostNormNorm;
        const bool norms = form != Form::kAdd && form != Form::kPostNorm;
        if (adds) args.delta = delta.device.data();
        args.delta_type = type;
        if (post_norm) args.delta_weight = post_device.as<float>();
        if (norms) args.weight = weight_device.as<float>();
        args.out = out.data();
        ASSERT_TRUE(is_ok(rms_norm(args, nullptr, false)));
        sync();

        std::vector<float> expected(x.size());
        for (int64_t t = 0; t < rows; ++t) {
          float *row = x.data() + t * dim, *d = delta.values.data() + t * dim;
          if (post_norm) cpu().rms_norm(d, post.data(), args.eps, dim, d);
          if (adds) cpu().add(d, dim, row);
          cpu().rms_norm(row, weight.data(), args.eps, dim, expected.data() + t * dim);
        }
        expect_near(to_host<float>(x_device, x.size()), x, kFp32, 1e-5f);
        if (norms) expect_near(read_bf16(out, x.size()), expected, kBf16, 1e-5f);
        EXPECT_EQ(to_host<uint16_t>(out, 8, norms ? x.size() : 0), std::vector<uint16_t>(8, 0xffff));
      }
    }
  }
}

TEST_F(RowOpsTest, ARowOfANormDoesNotDependOnTheOthers) {
  Philox rng(2);
  for (const int64_t dim : {96L, 576L, 1091L, 4096L, 20480L}) {
    constexpr int64_t rows = 300;  // enough for several in a block
    const DeviceBuffer x = to_device(random_floats(rng, rows * dim)), weight = to_device(random_floats(rng, dim));
    const DeviceBuffer together = poisoned<uint16_t>(rows * dim), alone = poisoned<uint16_t>(dim);
    RmsNormArgs args;
    args.x = x.as<float>();
    args.weight = weight.as<float>();
    args.out = together.data();
    args.eps = 1e-6f;
    args.rows = rows;
    args.dim = dim;
    ASSERT_TRUE(is_ok(rms_norm(args, nullptr, false)));
    const int64_t t = 263;
    args.x += t * dim;
    args.out = alone.data();
    args.rows = 1;
    ASSERT_TRUE(is_ok(rms_norm(args, nullptr, false)));
    sync();
    EXPECT_EQ(to_host<uint16_t>(alone, dim), to_host<uint16_t>(together, dim, t * dim)) << dim;
  }
}

TEST_F(RowOpsTest, LayerNorm) {
  Philox rng(3);
  for (const int64_t dim : {384L, 576L, 1091L, 4096L, 20480L}) {
    for (const int64_t rows : kRowCounts) {
      for (const bool adds : {false, true}) {
        const DType type = rng.below(2) ? DType::F32 : DType::BF16;
        SCOPED_TRACE(testing::Message() << dim << " columns, " << rows << " rows");
        std::vector<float> x = random_floats(rng, rows * dim, 3.0f);
        for (float& v : x) v += 5.0f;  // a mean that the variance must not see
        const std::vector<float> weight = random_floats(rng, dim), bias = random_floats(rng, dim);
        const Typed delta = as_type(random_floats(rng, rows * dim), type);
        const DeviceBuffer x_device = to_device(x), weight_device = to_device(weight), bias_device = to_device(bias);
        const DeviceBuffer out = poisoned<uint16_t>(rows * dim);
        LayerNormArgs args;
        args.x = x_device.as<float>();
        args.delta = adds ? delta.device.data() : nullptr;
        args.delta_type = type;
        args.weight = weight_device.as<float>();
        args.bias = bias_device.as<float>();
        args.out_f32 = x_device.as<float>();
        args.out_bf16 = out.data();
        args.eps = 1e-12f;
        args.rows = rows;
        args.dim = dim;
        ASSERT_TRUE(is_ok(layer_norm(args, nullptr, false)));
        sync();
        for (int64_t t = 0; t < rows; ++t) {
          float* row = x.data() + t * dim;
          if (adds) cpu().add(delta.values.data() + t * dim, dim, row);
          cpu().layer_norm(row, weight.data(), bias.data(), args.eps, dim, row);
        }
        expect_near(to_host<float>(x_device, x.size()), x, kFp32, 1e-5f);
        expect_near(read_bf16(out, x.size()), x, kBf16, 1e-5f);
      }
    }
  }
}

TEST_F(RowOpsTest, ANormTooWideIsRefused) {
  RmsNormArgs args;
  args.rows = 1;
  args.dim = 40000;
  EXPECT_EQ(rms_norm(args, nullptr, false).code(), StatusCode::kUnsupported);
}

// --- heads ---

TEST_F(RowOpsTest, AnglesAreExactAtAnyPosition) {
  const std::vector<int32_t> positions = {0, 1, 17, 4095, 131071, 524287, (1 << 20) - 1};
  for (const int64_t half : {8, 48, 64}) {
    std::vector<double> inv_freq;
    for (int64_t i = 0; i < half; ++i) inv_freq.push_back(std::pow(10000.0, -static_cast<double>(i) / half));
    const DeviceBuffer at = to_device(positions), freq = to_device(inv_freq);
    const size_t items = positions.size() * half;
    const DeviceBuffer cos = poisoned<float>(items), sin = poisoned<float>(items);
    RopeTableArgs args{at.as<int32_t>(), freq.as<double>(), 1.25f, cos.as<float>(), sin.as<float>(), 0, half};
    args.rows = static_cast<int64_t>(positions.size());
    ASSERT_TRUE(is_ok(rope_table(args, nullptr, false)));
    sync();
    std::vector<float> expected_cos, expected_sin;
    for (const int32_t position : positions) {
      for (const double f : inv_freq) {
        expected_cos.push_back(1.25f * static_cast<float>(std::cos(position * f)));
        expected_sin.push_back(1.25f * static_cast<float>(std::sin(position * f)));
      }
    }
    expect_near(to_host<float>(cos, items), expected_cos, 0x1p-23f, 1e-12f);
    expect_near(to_host<float>(sin, items), expected_sin, 0x1p-23f, 1e-12f);
  }
}

struct HeadsCase {
  int32_t rows, heads, kv_heads, dim, rot;
  bool norms, stored;
  DType type, q_type;
  Codec codec;
};

void check_heads(Philox& rng, const HeadsCase& c) {
  SCOPED_TRACE(testing::Message() << c.rows << " rows, " << c.heads << " and " << c.kv_heads << " heads of " << c.dim
                                  << ", rot " << c.rot << ", norms " << c.norms << ", type " << dtype_name(c.type));
  const int64_t pitch = int64_t{c.heads + 2 * c.kv_heads} * c.dim + 8;
  Typed qkv = as_type(random_floats(rng, c.rows * pitch), c.type);
  const size_t item = c.type == DType::F32 ? 4 : 2;
  const std::vector<float> q_norm = random_floats(rng, c.dim), k_norm = random_floats(rng, c.dim);
  const std::vector<float> cos = random_floats(rng, c.rows * c.rot / 2), sin = random_floats(rng, c.rows * c.rot / 2);
  // Pages lie in reverse order; every third row is not stored.
  const int32_t pages = c.rows / kPageRows + 2;
  std::vector<int32_t> dst;
  for (int32_t t = 0; t < c.rows; ++t) {
    const int32_t row = t + 5;
    dst.push_back(t % 3 == 1 ? -1 : (pages - 1 - row / kPageRows) * kPageRows + row % kPageRows);
  }
  const size_t plane = size_t{kPageRows} * c.dim * 2;
  std::vector<RowFormat> formats(c.kv_heads);
  for (int32_t g = 0; g < c.kv_heads; ++g) {
    RowFormat& f = formats[g];
    f.k = 256 + 2 * g * plane;
    f.v = f.k + plane;
    f.page_bytes = static_cast<uint32_t>(2 * c.kv_heads * plane);
    f.k_width = f.v_width = static_cast<uint16_t>(c.dim);
    f.k_codec = f.v_codec = c.codec;
    f.order = Order::Rows;
    f.pool = 2;
  }
  const size_t pool_items = 128 + pages * 2 * c.kv_heads * plane / 2;
  const DeviceBuffer pool = poisoned<uint16_t>(pool_items);
  const DeviceBuffer q_norm_device = to_device(q_norm), k_norm_device = to_device(k_norm), cos_device = to_device(cos),
                     sin_device = to_device(sin), dst_device = to_device(dst), formats_device = to_device(formats);
  const size_t q_items = size_t(c.rows) * c.heads * c.dim;
  const DeviceBuffer q_out = poisoned<uint16_t>(q_items + 8);

  HeadsArgs args;
  args.q = qkv.device.data();
  args.k = qkv.device.data() + c.heads * c.dim * item;
  args.v = qkv.device.data() + (c.heads + c.kv_heads) * c.dim * item;
  args.type = c.type;
  args.q_pitch = args.k_pitch = args.v_pitch = pitch;
  if (c.norms) args.q_norm = q_norm_device.as<float>();
  if (c.norms) args.k_norm = k_norm_device.as<float>();
  args.eps = 1e-6f;
  args.cos = cos_device.as<float>();
  args.sin = sin_device.as<float>();
  args.rot = c.rot;
  args.q_out = q_out.data();
  args.q_type = c.q_type;
  args.pools[2] = pool.data();
  args.formats = formats_device.as<RowFormat>();
  args.dst = c.stored ? dst_device.as<int32_t>() : nullptr;
  args.rows = c.rows;
  args.n_heads = c.heads;
  args.n_kv_heads = c.kv_heads;
  args.head_dim = c.dim;
  ASSERT_TRUE(is_ok(heads(args, nullptr, false)));
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  const auto value_of = [](uint16_t bits, bool half) { return half ? half_to_float(bits) : bfloat_to_float(bits); };
  const std::vector<uint16_t> q_bits = to_host<uint16_t>(q_out, q_items + 8),
                              store = to_host<uint16_t>(pool, pool_items);
  std::vector<uint8_t> written(pool_items);
  for (int32_t t = 0; t < c.rows; ++t) {
    for (int32_t h = 0; h < c.heads + 2 * c.kv_heads; ++h) {
      float* head = qkv.values.data() + t * pitch + h * c.dim;
      const bool query = h < c.heads, value = h >= c.heads + c.kv_heads;
      if (c.norms && !value) cpu().rms_norm(head, (query ? q_norm : k_norm).data(), args.eps, c.dim, head);
      if (!value) cpu().rope(head, cos.data() + t * c.rot / 2, sin.data() + t * c.rot / 2, c.rot);
      const bool half = query ? c.q_type == DType::F16 : c.codec == Codec::F16;
      if (!query && (!c.stored || dst[t] < 0)) continue;
      size_t at = (size_t(t) * c.heads + h) * c.dim;
      if (!query) {
        const RowFormat& f = formats[(h - c.heads) % c.kv_heads];
        at = ((value ? f.v : f.k) + size_t(dst[t] / kPageRows) * f.page_bytes) / 2 + dst[t] % kPageRows * c.dim;
      }
      std::vector<float> actual;
      for (int32_t i = 0; i < c.dim; ++i) {
        actual.push_back(value_of(query ? q_bits[at + i] : store[at + i], half));
        if (!query) written[at + i] = 1;
      }
      expect_near(actual, {head, head + c.dim}, half ? kHalf : kBf16, 4e-6f);
    }
  }
  for (size_t i = 0; i < pool_items; ++i) {
    ASSERT_TRUE(written[i] || store[i] == 0xffff) << "a row that nobody names was written: " << i;
  }
  for (size_t i = q_items; i < q_items + 8; ++i) ASSERT_EQ(q_bits[i], 0xffff);
}

TEST_F(RowOpsTest, HeadsAreNormedRotatedAndStored) {
  Philox rng(4);
  for (const int32_t dim : {16, 64, 80, 96, 128, 256, 512, 1024}) {
    for (const int32_t rows : {1, 2, 63, 129}) {
      const bool once = dim % 64 != 0 || dim > 256;  // odd heads: one case of each
      for (const bool norms : {false, true}) {
        if (once && norms != (rows % 2 == 0)) continue;
        HeadsCase c{rows, 9, 3, dim, dim, norms, true, DType::F32, DType::BF16, Codec::Bf16};
        check_heads(rng, c);
        c.type = DType::BF16;
        c.heads = 4;
        c.kv_heads = 1;
        c.q_type = DType::F16;
        c.codec = Codec::F16;
        check_heads(rng, c);
        c.rot = dim / 32 * 16;  // a part of the head
        check_heads(rng, c);
        c.rot = 0;
        c.stored = false;
        check_heads(rng, c);
      }
    }
  }
}

TEST_F(RowOpsTest, ARowsHeadsDoNotDependOnTheOthers) {
  Philox rng(5);
  constexpr int32_t rows = 200, n_heads = 6, dim = 128;
  const DeviceBuffer q = to_device(random_floats(rng, rows * n_heads * dim)), norm = to_device(random_floats(rng, dim));
  const DeviceBuffer angles = to_device(random_floats(rng, rows * dim / 2));
  const DeviceBuffer together = poisoned<uint16_t>(rows * n_heads * dim), alone = poisoned<uint16_t>(n_heads * dim);
  HeadsArgs args;
  args.q = q.data();
  args.q_pitch = n_heads * dim;
  args.q_norm = norm.as<float>();
  args.cos = args.sin = angles.as<float>();
  args.rot = dim;
  args.q_out = together.data();
  args.rows = rows;
  args.n_heads = n_heads;
  args.head_dim = dim;
  ASSERT_TRUE(is_ok(heads(args, nullptr, false)));
  const int64_t t = 131;
  args.q = q.as<float>() + t * n_heads * dim;
  args.cos = args.sin = angles.as<float>() + t * dim / 2;
  args.q_out = alone.data();
  args.rows = 1;
  ASSERT_TRUE(is_ok(heads(args, nullptr, false)));
  sync();
  EXPECT_EQ(to_host<uint16_t>(alone, n_heads * dim), to_host<uint16_t>(together, n_heads * dim, t * n_heads * dim));
}

// --- plain rows ---

TEST_F(RowOpsTest, ElementwiseOps) {
  Philox rng(6);
  for (const int64_t dim : {1L, 7L, 576L, 1091L}) {
    for (const int64_t rows : {1L, 3L, 129L}) {
      const int64_t items = rows * dim;
      const std::vector<float> x = random_floats(rng, items, 4.0f), y = random_floats(rng, items),
                               row = random_floats(rng, dim);
      const DeviceBuffer x_device = to_device(x), row_device = to_device(row);
      const DeviceBuffer sum = to_device(y), shifted = to_device(y), scaled = to_device(x), capped = to_device(x);
      ASSERT_TRUE(is_ok(add(x_device.as<float>(), sum.as<float>(), items, nullptr, false)));
      ASSERT_TRUE(is_ok(add_row(row_device.as<float>(), shifted.as<float>(), rows, dim, nullptr, false)));
      ASSERT_TRUE(is_ok(scale(0.7f, scaled.as<float>(), items, nullptr, false)));
      ASSERT_TRUE(is_ok(softcap(3.0f, capped.as<float>(), items, nullptr, false)));
      sync();
      std::vector<float> want_sum(y), want_shifted(y), want_scaled(x), want_capped(x);
      for (int64_t i = 0; i < items; ++i) {
        want_sum[i] += x[i];
        want_shifted[i] += row[i % dim];
        want_scaled[i] *= 0.7f;
        want_capped[i] = 3.0f * std::tanh(x[i] / 3.0f);
      }
      EXPECT_EQ(to_host<float>(sum, items), want_sum);
      EXPECT_EQ(to_host<float>(shifted, items), want_shifted);
      EXPECT_EQ(to_host<float>(scaled, items), want_scaled);
      expect_near(to_host<float>(capped, items), want_capped, 4 * 0x1p-23f);
    }
  }
}

TEST_F(RowOpsTest, GluAndActivations) {
  Philox rng(7);
  for (const int64_t dim : {8L, 1091L, 1536L}) {
    for (const int64_t rows : kRowCounts) {
      for (const Activation act : {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf}) {
        for (const bool gated : {true, false}) {
          const DType type = rng.below(2) ? DType::F32 : DType::BF16;
          const int64_t pitch = gated ? 2 * dim : dim;
          std::vector<float> in = random_floats(rng, rows * pitch, 4.0f);
          in[0] = -200.0f;  // the tails must be 0 and the identity, not NaN
          in[1] = 200.0f;
          Typed x = as_type(in, type);
          const DeviceBuffer out = poisoned<uint16_t>(rows * dim + 1);
          GluArgs args;
          args.activation = act;
          args.gate = x.device.data();
          args.up = gated ? x.device.data() + dim * (type == DType::F32 ? 4 : 2) : nullptr;
          args.type = type;
          args.pitch = pitch;
          args.out = out.data();
          args.rows = rows;
          args.dim = dim;
          ASSERT_TRUE(is_ok(glu(args, nullptr, false)));
          sync();
          std::vector<float> expected;
          for (int64_t t = 0; t < rows; ++t) {
            float* row = x.values.data() + t * pitch;
            if (gated) {
              cpu().glu(act, row, row + dim, dim, row);
            } else {
              cpu().activate(act, row, dim);
            }
            expected.insert(expected.end(), row, row + dim);
          }
          // The CPU's gelu has an absolute error of 1.5e-7 times x.
          expect_near(read_bf16(out, rows * dim), expected, kBf16, 2e-5f);
          EXPECT_EQ(to_host<uint16_t>(out, 1, rows * dim)[0], 0xffff);
        }
      }
    }
  }
}

TEST_F(RowOpsTest, GatherTakesRowsOfAnyWidth) {
  Philox rng(8);
  for (const int64_t dim : {1L, 6L, 1091L, 2048L}) {  // of 16 bits: every word size
    std::vector<uint16_t> x(37 * dim);
    for (uint16_t& v : x) v = static_cast<uint16_t>(rng());
    const std::vector<int32_t> rows = {36, 0, 5, 5, 17};
    const DeviceBuffer x_device = to_device(x), rows_device = to_device(rows);
    const DeviceBuffer picked = poisoned<uint16_t>(5 * dim), copied = poisoned<uint16_t>(37 * dim);
    ASSERT_TRUE(
        is_ok(gather_rows({x_device.data(), rows_device.as<int32_t>(), picked.data(), 5, 2 * dim}, nullptr, false)));
    ASSERT_TRUE(is_ok(gather_rows({x_device.data(), nullptr, copied.data(), 37, 2 * dim}, nullptr, false)));
    sync();
    std::vector<uint16_t> expected;
    for (const int32_t row : rows) expected.insert(expected.end(), &x[row * dim], &x[row * dim] + dim);
    EXPECT_EQ(to_host<uint16_t>(picked, 5 * dim), expected);
    EXPECT_EQ(to_host<uint16_t>(copied, 37 * dim), x);
  }
}

TEST_F(RowOpsTest, MeanPool) {
  Philox rng(9);
  for (const int64_t dim : {31L, 384L, 1024L, 1091L}) {
    const std::vector<int32_t> begin = {0, 1, 1, 40, 170};  // the second group is empty
    const std::vector<float> x = random_floats(rng, 170 * dim);
    const DeviceBuffer x_device = to_device(x), begin_device = to_device(begin);
    for (const bool normalize : {false, true}) {
      const DeviceBuffer out = poisoned<float>(4 * dim);
      ASSERT_TRUE(is_ok(mean_pool(
          {x_device.as<float>(), begin_device.as<int32_t>(), out.as<float>(), 4, dim, normalize}, nullptr, false)));
      sync();
      std::vector<float> expected;
      for (int s = 0; s < 4; ++s) {
        std::vector<double> mean(dim);
        double norm = 0;
        for (int64_t i = 0; i < dim; ++i) {
          for (int32_t t = begin[s]; t < begin[s + 1]; ++t) mean[i] += x[t * dim + i];
          if (begin[s + 1] > begin[s]) mean[i] /= begin[s + 1] - begin[s];
          norm += mean[i] * mean[i];
        }
        const double factor = normalize ? 1.0 / std::sqrt(std::max(norm, 1e-24)) : 1.0;
        for (const double m : mean) expected.push_back(static_cast<float>(m * factor));
      }
      expect_near(to_host<float>(out, 4 * dim), expected, kFp32);
    }
  }
}

// --- the step ---

TEST_F(RowOpsTest, CopiesOfPagesTakeEveryPlaneOfTheirClass) {
  constexpr int32_t kv_heads = 2, layers = 3, pages = 5, dim = 96;
  constexpr size_t plane = size_t{kPageRows} * dim * 2, layer_page = 2 * kv_heads * plane;
  // Layers 0 and 2 are of class 0, layer 1 of class 1.
  const int pool_of[] = {0, 1, 0}, index_in_pool[] = {0, 0, 1};
  std::vector<RowFormat> formats;
  for (int l = 0; l < layers; ++l) {
    for (int g = 0; g < kv_heads; ++g) {
      RowFormat f;
      f.k = index_in_pool[l] * pages * layer_page + 2 * g * plane;
      f.v = f.k + plane;
      f.page_bytes = layer_page;
      f.k_width = f.v_width = dim;
      f.pool = static_cast<uint8_t>(pool_of[l]);
      formats.push_back(f);
    }
  }
  Philox rng(10);
  std::vector<std::vector<uint32_t>> host = {std::vector<uint32_t>(2 * pages * layer_page / 4),
                                             std::vector<uint32_t>(pages * layer_page / 4)};
  for (auto& pool : host) {
    for (uint32_t& v : pool) v = rng();
  }
  const std::vector<PageCopy> copies = {{0, 1, 4}, {1, 0, 2}, {0, 3, 0}};
  const DeviceBuffer pool0 = to_device(host[0]), pool1 = to_device(host[1]), formats_device = to_device(formats),
                     copies_device = to_device(copies);
  CopyPagesArgs args;
  args.copies = copies_device.as<PageCopy>();
  args.n_copies = 3;
  args.pools[0] = pool0.data();
  args.pools[1] = pool1.data();
  args.formats = formats_device.as<RowFormat>();
  args.n_formats = static_cast<int32_t>(formats.size());
  ASSERT_TRUE(is_ok(copy_pages(args, nullptr, false)));
  sync();
  for (const PageCopy& copy : copies) {
    for (const int layer : {0, 1}) {
      if (copy.cls == 1 && layer == 1) continue;
      const size_t base = layer * pages * layer_page / 4, words = layer_page / 4;
      std::memcpy(&host[copy.cls][base + copy.dst * words], &host[copy.cls][base + copy.src * words], layer_page);
    }
  }
  EXPECT_EQ(to_host<uint32_t>(pool0, host[0].size()), host[0]);
  EXPECT_EQ(to_host<uint32_t>(pool1, host[1].size()), host[1]);
}

TEST_F(RowOpsTest, StepTokensComeFromTheHostOrTheLastDraw) {
  const DeviceBuffer ids = to_device(std::vector<int32_t>{41, 42, -1}), last = to_device(std::vector<int32_t>(4, 7));
  const DeviceBuffer rows = to_device(std::vector<int32_t>{1, 2, 0, 0}),
                     slots = to_device(std::vector<int32_t>{2, 0, 1, -1});
  ASSERT_TRUE(is_ok(store_tokens({ids.as<int32_t>(), rows.as<int32_t>(), slots.as<int32_t>(), last.as<int32_t>(), 4},
                                 nullptr, false)));
  const DeviceBuffer known = to_device(std::vector<int32_t>{5, -1, 6, -1, -1}),
                     from = to_device(std::vector<int32_t>{-1, 2, -1, 1, 0}), out = poisoned<int32_t>(5);
  ASSERT_TRUE(is_ok(select_tokens({known.as<int32_t>(), from.as<int32_t>(), last.as<int32_t>(), out.as<int32_t>(), 5},
                                  nullptr, false)));
  sync();
  EXPECT_EQ(to_host<int32_t>(last, 4), (std::vector<int32_t>{0, 41, 42, 7})) << "a failed draw becomes no index";
  EXPECT_EQ(to_host<int32_t>(out, 5), (std::vector<int32_t>{5, 42, 6, 41, 0}));
}

// A chain in which each kernel reads what the one before wrote, many times over: dependent launch must change nothing.
TEST_F(RowOpsTest, DependentLaunchesInAGraphGiveTheSameBits) {
  constexpr int64_t rows = 5, dim = 2048, items = rows * dim;
  Philox rng(11);
  const std::vector<float> x = random_floats(rng, items);
  const DeviceBuffer weight = to_device(random_floats(rng, dim)), normed = poisoned<uint16_t>(items);
  const DeviceBuffer eager = to_device(x), captured = to_device(x);
  const auto chain = [&](const DeviceBuffer& buffer, cudaStream_t stream, bool pdl) {
    for (int i = 0; i < 40; ++i) {
      RmsNormArgs norm;
      norm.x = buffer.as<float>();
      norm.weight = weight.as<float>();
      norm.out = normed.data();
      norm.eps = 1e-6f;
      norm.rows = rows;
      norm.dim = dim;
      ASSERT_TRUE(is_ok(rms_norm(norm, stream, pdl)));
      GluArgs act;
      act.gate = normed.data();
      act.type = DType::BF16;
      act.pitch = dim;
      act.out = normed.data();
      act.rows = rows;
      act.dim = dim;
      ASSERT_TRUE(is_ok(glu(act, stream, pdl)));
      norm.delta = normed.data();
      norm.delta_type = DType::BF16;
      norm.weight = nullptr;
      ASSERT_TRUE(is_ok(rms_norm(norm, stream, pdl)));
      ASSERT_TRUE(is_ok(scale(0.5f, buffer.as<float>(), items, stream, pdl)));
    }
  };
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  chain(eager, stream, false);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  chain(captured, stream, true);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  sync();
  EXPECT_EQ(to_host<float>(captured, items), to_host<float>(eager, items));
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace pare::cuda
