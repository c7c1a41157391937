// Matrix products on CUDA against fp64, and what makes a row's bits independent of its batch.
#include <cmath>

#include "kernels/cuda/batch_linear.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/small_linear.h"
#include "random_weight.h"

namespace pare::cuda {
namespace {

struct Reference {
  std::vector<double> y, bound;  // [T][N]; bound: of the error
};

// Every term of a sum passes at most K/16 + 64 roundings of 2^-23 (tensor cores truncate) on its way. In formats with a
// minimum the two parts of a weight are larger than the weight: up to the largest of its group each, twice over.
Reference multiply(const RandomWeight& w, std::span<const float> x, int64_t t_rows) {
  Reference out{std::vector<double>(t_rows * w.n), std::vector<double>(t_rows * w.n)};
  const double step = (static_cast<double>(w.k) / 16 + 64) * 0x1p-23;
  std::vector<double> size(w.k);
  for (int64_t r = 0; r < w.n; ++r) {
    for (int64_t g = 0; g < w.k; g += 32) {
      const int64_t end = std::min(w.k, g + 32);
      double most = 0;
      for (int64_t c = g; c < end; ++c) most = std::max<double>(most, std::abs(w.values[r * w.k + c]));
      for (int64_t c = g; c < end; ++c) size[c] = is_quantized(w.dtype) ? 4 * most : std::abs(w.values[r * w.k + c]);
    }
    for (int64_t t = 0; t < t_rows; ++t) {
      double sum = 0, sizes = 0;
      for (int64_t c = 0; c < w.k; ++c) {
        sum += static_cast<double>(w.values[r * w.k + c]) * x[t * w.k + c];
        sizes += size[c] * std::abs(x[t * w.k + c]);
      }
      out.y[t * w.n + r] = sum;
      out.bound[t * w.n + r] = step * sizes + 1e-30;
    }
  }
  return out;
}

// Rows of bf16 with `ld` a multiple of 8; what lies beyond K is NaN and must not be read into a product.
struct Rows {
  std::vector<float> values;  // [T][K], as bf16 has them
  int64_t ld = 0;
  DeviceBuffer device;
};
Rows random_rows(int64_t t, int64_t k, uint32_t seed) {
  Rows rows;
  rows.values = from_bf16(to_bf16(random_floats(t * k, seed)));
  rows.ld = (k + 7) / 8 * 8;
  std::vector<uint16_t> padded(t * rows.ld, 0xffff);
  for (int64_t i = 0; i < t * k; ++i) padded[i / k * rows.ld + i % k] = float_to_bfloat(rows.values[i]);
  rows.device = to_device(padded);
  return rows;
}
SmallLinearInput input_of(const Rows& rows, int64_t t, int64_t k) {
  SmallLinearInput in;
  in.t = t;
  in.k = k;
  in.x = rows.device.as<uint16_t>();
  in.ld = rows.ld;
  return in;
}

DeviceBuffer workspace_for(std::vector<DeviceWeight> weights) {
  auto buffer = DeviceBuffer::allocate(small_linear_workspace_bytes(weights, kMaxSmallTokens));
  EXPECT_TRUE(is_ok(buffer));
  EXPECT_TRUE(is_ok(buffer->fill(0)));
  return std::move(*buffer);
}

// The kernel for a few rows, and the one for a batch.
enum class Kernel { kSmall, kBatch };
Status multiply_on_card(Kernel kernel, const SmallLinearInput& x, std::span<const SmallLinearOutput> outputs,
                        const DeviceBuffer& workspace, bool pdl) {
  return kernel == Kernel::kBatch ? batch_linear(x, outputs, nullptr, pdl)
                                  : small_linear(x, outputs, workspace.data(), nullptr, pdl);
}

class PackedLinearTest : public CudaTest, public ::testing::WithParamInterface<std::tuple<DType, Kernel>> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped() && kernel() == Kernel::kBatch && !batch_linear_takes(dtype(), 256)) {
      GTEST_SKIP() << "this card does not run the batch kernel";
    }
  }
  static DType dtype() { return std::get<0>(GetParam()); }
  static Kernel kernel() { return std::get<1>(GetParam()); }
};

struct Shape {
  int64_t n, k;
};
std::vector<Shape> shapes(DType t, Kernel kernel) {
  std::vector<Shape> s;
  // So many rows that each block of a cluster finishes several tiles.
  if (kernel == Kernel::kBatch) s.push_back({9000, 512});
  if (dtype_info(t).block_items == 256) {
    s.insert(s.end(), {{1, 256}, {16, 2304}, {17, 8960}, {576, 768}, {1091, 1536}});
    return s;
  }
  s.insert(s.end(), {{1, 32}, {16, 576}, {17, 8960}, {576, 576}, {1091, 1536}, {192, 96}});
  if (!is_quantized(t)) s.insert(s.end(), {{33, 33}, {40, 1}, {16, 1001}});
  return s;
}

TEST_P(PackedLinearTest, MatchesFp64AndRowsKeepTheirBitsInAnyBatch) {
  for (const auto [n, k] : shapes(dtype(), kernel())) {
    SCOPED_TRACE(std::string(dtype_name(dtype())) + " [" + std::to_string(n) + ", " + std::to_string(k) + "]");
    const RandomWeight w = random_weight(dtype(), n, k, static_cast<uint32_t>(3 * n + k));
    const Rows x = random_rows(32, k, static_cast<uint32_t>(n + 5 * k));
    const Reference want = multiply(w, x.values, 32);
    const DeviceBuffer workspace = workspace_for({w.device()});
    std::vector<float> whole;
    for (const int64_t t : {32, 1, 2, 7, 8, 9, 16, 17, 31}) {
      const int64_t ld = n + 3;
      const DeviceBuffer y = poisoned<float>(t * ld);
      const SmallLinearOutput out{w.device(), y.data(), ld, nullptr, false, false};
      // Twice: the first launch must leave the workspace as it found it.
      for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(is_ok(multiply_on_card(kernel(), input_of(x, t, k), {&out, 1}, workspace, i == 1)));
      }
      sync();
      const auto got = to_host<float>(y, t * ld);
      if (t == 32) whole = got;
      for (int64_t i = 0; i < t * n; ++i) {
        const float value = got[i / n * ld + i % n];
        ASSERT_LE(std::abs(value - want.y[i]), want.bound[i])
            << "T " << t << " row " << i / n << " output " << i % n << ": " << value << ", wanted " << want.y[i];
        ASSERT_EQ(value, whole[i / n * ld + i % n]) << "T " << t << " row " << i / n << " output " << i % n;
      }
      for (int64_t row = 0; row < t; ++row) ASSERT_TRUE(std::isnan(got[row * ld + n])) << "written beyond N";
    }
    // Each row alone.
    for (const int64_t row : {5, 31}) {
      const DeviceBuffer y = poisoned<float>(n);
      const SmallLinearOutput out{w.device(), y.data(), n, nullptr, false, false};
      SmallLinearInput in = input_of(x, 1, k);
      in.x += row * in.ld;
      ASSERT_TRUE(is_ok(multiply_on_card(kernel(), in, {&out, 1}, workspace, false)));
      sync();
      const auto got = to_host<float>(y, n);
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(got[i], whole[row * (n + 3) + i]) << "row " << row << " alone";
    }
  }
}

double activation(Activation a, double x) {
  if (a == Activation::kSilu) return x / (1 + std::exp(-x));
  if (a == Activation::kGeluErf) return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

TEST_P(PackedLinearTest, GluMatchesFp64) {
  const bool wide = dtype_info(dtype()).block_items == 256;
  for (const auto [n, k] : {Shape{40, wide ? 768 : 288}, Shape{1536, 256}}) {
    const RandomWeight gate = random_weight(dtype(), n, k, 21), up = random_weight(dtype(), n, k, 22);
    const Rows x = random_rows(32, k, 23);
    const Reference g = multiply(gate, x.values, 32), u = multiply(up, x.values, 32);
    const DeviceBuffer workspace = workspace_for({gate.device(), up.device()});
    std::vector<uint16_t> whole;
    for (const Activation act : {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf}) {
      for (const int64_t t : {32, 16, 3, 1}) {
        const DeviceBuffer y = poisoned<uint16_t>(t * n);
        const SmallLinearInput in = input_of(x, t, k);
        ASSERT_TRUE(is_ok(kernel() == Kernel::kBatch
                              ? batch_glu(in, gate.device(), up.device(), act, y.as<uint16_t>(), n, nullptr, false)
                              : small_glu(in, gate.device(), up.device(), act, y.as<uint16_t>(), n, workspace.data(),
                                          nullptr, false)));
        sync();
        const auto got = to_host<uint16_t>(y, t * n);
        if (t == 32) whole = got;
        for (int64_t i = 0; i < t * n; ++i) {
          const double a = activation(act, g.y[i]), want = a * u.y[i];
          // Slopes stay below 1.13; the fast exponential and division are good to 1e-5; then bf16.
          const double bound =
              1.13 * g.bound[i] * std::abs(u.y[i]) + u.bound[i] * std::abs(a) + (0x1p-8 + 1e-5) * std::abs(want) + 1e-6;
          ASSERT_LE(std::abs(bfloat_to_float(got[i]) - want), bound)
              << dtype_name(dtype()) << " [" << n << ", " << k << "] T " << t << " item " << i;
          ASSERT_EQ(got[i], whole[i]) << "T " << t << " item " << i;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, PackedLinearTest,
                         ::testing::Combine(::testing::ValuesIn(kDeviceTypes),
                                            ::testing::Values(Kernel::kSmall, Kernel::kBatch)),
                         [](const auto& test) {
                           return std::string(dtype_name(std::get<0>(test.param))) +
                                  (std::get<1>(test.param) == Kernel::kBatch ? "_batch" : "_small");
                         });

using LinearTest = CudaTest;

TEST_F(LinearTest, SeveralOutputsWithBiasBf16AndResidual) {
  const int64_t k = 768;
  const RandomWeight q = random_weight(DType::Q4_K, 576, k, 1), key = random_weight(DType::Q4_K, 17, k, 2),
                     v = random_weight(DType::Q6_K, 192, k, 3), o = random_weight(DType::Q4_K, 100, k, 4);
  const Rows x = random_rows(32, k, 5);
  const auto bias = random_floats(576, 6);
  const DeviceBuffer device_bias = to_device(bias);
  const DeviceBuffer workspace = workspace_for({q.device(), key.device(), v.device(), o.device()});
  const Reference want_q = multiply(q, x.values, 32), want_k = multiply(key, x.values, 32),
                  want_v = multiply(v, x.values, 32), want_o = multiply(o, x.values, 32);
  for (const auto& [t, kernel] : {std::pair<int64_t, Kernel>{1, Kernel::kSmall},
                                  {5, Kernel::kSmall},
                                  {16, Kernel::kSmall},
                                  {30, Kernel::kSmall},
                                  {9, Kernel::kBatch},
                                  {30, Kernel::kBatch}}) {
    if (kernel == Kernel::kBatch && !batch_linear_takes(DType::Q4_K, k)) continue;
    const auto residual = random_floats(t * 100, 7);
    const DeviceBuffer y_q = poisoned<float>(t * 576), y_k = poisoned<uint16_t>(t * 24), y_v = poisoned<float>(t * 192),
                       y_o = to_device(residual);
    const SmallLinearOutput outputs[] = {{q.device(), y_q.data(), 576, device_bias.as<float>(), false, false},
                                         {key.device(), y_k.data(), 24, nullptr, true, false},
                                         {v.device(), y_v.data(), 192, nullptr, false, false},
                                         {o.device(), y_o.data(), 100, device_bias.as<float>(), false, true}};
    ASSERT_TRUE(is_ok(multiply_on_card(kernel, input_of(x, t, k), outputs, workspace, false)));
    sync();
    const auto got_q = to_host<float>(y_q, t * 576), got_v = to_host<float>(y_v, t * 192),
               got_o = to_host<float>(y_o, t * 100);
    const auto got_k = to_host<uint16_t>(y_k, t * 24);
    for (int64_t i = 0; i < t * 576; ++i) {
      const double want = want_q.y[i] + bias[i % 576];
      ASSERT_LE(std::abs(got_q[i] - want), want_q.bound[i] + 0x1p-23 * std::abs(want)) << "q " << i;
    }
    for (int64_t i = 0; i < t * 192; ++i) ASSERT_LE(std::abs(got_v[i] - want_v.y[i]), want_v.bound[i]) << "v " << i;
    for (int64_t i = 0; i < t * 17; ++i) {
      ASSERT_LE(std::abs(bfloat_to_float(got_k[i / 17 * 24 + i % 17]) - want_k.y[i]),
                want_k.bound[i] + 0x1p-8 * std::abs(want_k.y[i]))
          << "k " << i;
    }
    for (int64_t i = 0; i < t * 100; ++i) {
      const double want = want_o.y[i] + bias[i % 100] + residual[i];
      ASSERT_LE(std::abs(got_o[i] - want), want_o.bound[i] + 0x1p-21 * (std::abs(want) + std::abs(residual[i])))
          << "o " << i;
    }
  }
}

// Tiles and chunks so many that rings wrap often and blocks of a cluster send each other many tiles. Rows repeat, so
// that two of them stand for all.
TEST_F(LinearTest, BatchesOverManyTilesMatchFp64) {
  for (const auto& [dtype, n, k] : {std::tuple{DType::Q4_0, 16000, 1024},
                                    {DType::Q4_0, 4096, 14336},
                                    {DType::BF16, 4096, 14336},
                                    {DType::Q6_K, 9000, 4096},
                                    {DType::BF16, 20000, 4096},
                                    {DType::Q8_0, 20000, 512}}) {
    if (!batch_linear_takes(dtype, k)) continue;
    SCOPED_TRACE(std::string(dtype_name(dtype)) + " [" + std::to_string(n) + ", " + std::to_string(k) + "]");
    const RandomWeight w = random_weight(dtype, n, k, 71);
    const auto two = random_floats(2 * k, 72);
    const auto values = from_bf16(to_bf16(two));
    std::vector<uint16_t> rows;
    for (int t = 0; t < 32; ++t) {
      for (int64_t c = 0; c < k; ++c) rows.push_back(float_to_bfloat(values[t % 2 * k + c]));
    }
    const DeviceBuffer x = to_device(rows);
    const Reference want = multiply(w, values, 2);
    SmallLinearInput in;
    in.t = 32;
    in.k = in.ld = k;
    in.x = x.as<uint16_t>();
    DeviceBuffer y = poisoned<float>(32 * n);
    const SmallLinearOutput out{w.device(), y.data(), n, nullptr, false, false};
    for (const bool pdl : {false, true}) {
      ASSERT_TRUE(is_ok(y.fill(0xff)));
      for (int i = 0; i < (pdl ? 20 : 1); ++i) ASSERT_TRUE(is_ok(batch_linear(in, {&out, 1}, nullptr, pdl)));
      sync();
      const auto got = to_host<float>(y, 32 * n);
      for (int64_t i = 0; i < 2 * n; ++i) ASSERT_LE(std::abs(got[i] - want.y[i]), want.bound[i]) << "item " << i;
      for (int64_t i = 2 * n; i < 32 * n; ++i) ASSERT_EQ(got[i], got[i % (2 * n)]) << "item " << i;
    }
  }
}

TEST_F(LinearTest, FusedNormGivesTheBitsOfANormBefore) {
  for (const int64_t k : {32, 576, 1536, 4096, 8960}) {
    const RandomWeight w = random_weight(DType::Q4_0, 200, k, 31);
    const auto residual = random_floats(8 * k, 32, 3.0f), norm = random_floats(k, 33);
    const DeviceBuffer x = to_device(residual), weight = to_device(norm), normed = poisoned<uint16_t>(8 * k);
    const DeviceBuffer workspace = workspace_for({w.device()});
    RmsNormArgs args;
    args.x = x.as<float>();
    args.weight = weight.as<float>();
    args.out = normed.data();
    args.eps = 1e-5f;
    args.rows = 8;
    args.dim = k;
    ASSERT_TRUE(is_ok(rms_norm(args, nullptr, false)));
    SmallLinearInput plain;
    plain.k = k;
    plain.x = normed.as<uint16_t>();
    plain.ld = k;
    SmallLinearInput fused;
    fused.k = k;
    fused.residual = x.as<float>();
    fused.norm_weight = weight.as<float>();
    fused.eps = args.eps;
    fused.ld = k;
    for (const int64_t t : {1, 2, 8}) {
      const DeviceBuffer a = poisoned<float>(t * 200), b = poisoned<float>(t * 200);
      plain.t = fused.t = t;
      const SmallLinearOutput to_a{w.device(), a.data(), 200, nullptr, false, false},
          to_b{w.device(), b.data(), 200, nullptr, false, false};
      ASSERT_TRUE(is_ok(small_linear(plain, {&to_a, 1}, workspace.data(), nullptr, false)));
      ASSERT_TRUE(is_ok(small_linear(fused, {&to_b, 1}, workspace.data(), nullptr, true)));
      sync();
      ASSERT_EQ(to_host<float>(a, t * 200), to_host<float>(b, t * 200)) << "K " << k << " T " << t;
    }
  }
}

// A chain of launches in a graph, each of which reads what the one before has written: launch(x, y, stream) queues one.
// The rows of `start` go in; those of the same buffer come out after an even number of them.
template <typename Launch>
std::vector<uint16_t> run_chain(const std::vector<uint16_t>& start, int links, Launch launch) {
  const DeviceBuffer a = to_device(start), b = poisoned<uint16_t>(start.size());
  cudaStream_t stream;
  EXPECT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  for (int i = 0; i < links; ++i) {
    launch((i % 2 == 0 ? a : b).as<uint16_t>(), (i % 2 == 0 ? b : a).as<uint16_t>(), stream);
  }
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  sync();
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return to_host<uint16_t>(a, start.size());
}

// A chain in a graph, each launch a dependent of the one before, reading what that wrote.
TEST_F(LinearTest, DependentLaunchesInAGraphSeeEachOther) {
  for (const Kernel kernel : {Kernel::kSmall, Kernel::kBatch}) {
    if (kernel == Kernel::kBatch && !batch_linear_takes(DType::Q4_0, 2304)) continue;
    const int64_t t = kernel == Kernel::kBatch ? 32 : 8;
    const int64_t k = 2304, n = 2304;
    const RandomWeight w = random_weight(DType::Q4_0, n, k, 41);
    const DeviceBuffer workspace = workspace_for({w.device()});
    const auto start = to_bf16(random_floats(t * k, 42));
    const auto run = [&](bool pdl) {
      return run_chain(start, 20, [&](const uint16_t* x, uint16_t* y, cudaStream_t stream) {
        SmallLinearInput in;
        in.t = t;
        in.k = in.ld = k;
        in.x = x;
        const SmallLinearOutput out{w.device(), y, n, nullptr, true, false};
        EXPECT_TRUE(is_ok(kernel == Kernel::kBatch ? batch_linear(in, {&out, 1}, stream, pdl)
                                                   : small_linear(in, {&out, 1}, workspace.data(), stream, pdl)));
      });
    };
    const auto plain = run(false);
    for (int i = 0; i < 3; ++i) ASSERT_EQ(run(true), plain);
  }
}

// Kernels that a call of small_linear launches.
size_t launches_of(const SmallLinearInput& x, std::span<const SmallLinearOutput> outputs,
                   const DeviceBuffer& workspace) {
  cudaStream_t stream;
  cudaGraph_t graph;
  size_t count = 0;
  EXPECT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_TRUE(is_ok(small_linear(x, outputs, workspace.data(), stream, false)));
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &count), cudaSuccess);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return count;
}

using TypePair = std::pair<DType, DType>;
constexpr TypePair kSharingTypes[] = {
    {DType::Q4_K, DType::Q6_K}, {DType::Q5_K, DType::Q6_K}, {DType::Q4_K, DType::Q5_K}, {DType::Q5_0, DType::Q8_0},
    {DType::Q5_1, DType::Q8_0}, {DType::Q6_K, DType::Q4_K}, {DType::Q8_0, DType::Q5_0}};

TEST_F(LinearTest, TypesThatShareALaunchKeepTheBitsOfEachAlone) {
  struct Sizes {
    int64_t q, key, v, k;
  };
  for (const auto& [type, v_type] : kSharingTypes) {
    // A K that is divided among blocks for neither type, for one of the two (most pairs of types), for both, and for
    // both with more blocks than run at once.
    const int64_t one_divided = dtype_info(type).block_items == 256 ? 1792 : 2048;
    for (const auto& [n_q, n_key, n_v, k] :
         {Sizes{200, 17, 33, 768}, {640, 17, 200, one_divided}, {200, 17, 200, 8960}, {1536, 1000, 1530, 8960}}) {
      SCOPED_TRACE(std::string(dtype_name(type)) + " and " + std::string(dtype_name(v_type)) + ", " +
                   std::to_string(n_q) + " and " + std::to_string(n_v) + " of " + std::to_string(k));
      const RandomWeight q = random_weight(type, n_q, k, 81), key = random_weight(type, n_key, k, 82),
                         v = random_weight(v_type, n_v, k, 83);
      const DeviceBuffer workspace = workspace_for({q.device(), key.device(), v.device()});
      const Rows x = random_rows(16, k, 84);
      const DeviceBuffer residual = to_device(random_floats(8 * k, 85, 3.0f)), norm = to_device(random_floats(k, 86)),
                         bias_q = to_device(random_floats(n_q, 87)), bias_v = to_device(random_floats(n_v, 88));
      for (const int64_t t : {1, 2, 8}) {
        for (const bool fused : {false, true}) {
          SmallLinearInput in = input_of(x, t, k);
          if (fused) {
            in.x = nullptr;
            in.residual = residual.as<float>();
            in.norm_weight = norm.as<float>();
            in.eps = 1e-5f;
            in.ld = k;
          }
          const auto run = [&](bool together) {
            const DeviceBuffer y_q = poisoned<float>(t * n_q), y_key = poisoned<uint16_t>(t * n_key),
                               y_v = poisoned<float>(t * n_v);
            const SmallLinearOutput outputs[] = {{q.device(), y_q.data(), n_q, bias_q.as<float>(), false, false},
                                                 {key.device(), y_key.data(), n_key, nullptr, true, false},
                                                 {v.device(), y_v.data(), n_v, bias_v.as<float>(), false, false}};
            const auto all = std::span(outputs);
            // Twice: the first launch must leave the workspace as it found it.
            for (int i = 0; i < 2; ++i) {
              if (together) {
                EXPECT_TRUE(is_ok(small_linear(in, all, workspace.data(), nullptr, i == 1)));
              } else {
                EXPECT_TRUE(is_ok(small_linear(in, all.first(2), workspace.data(), nullptr, false)));
                EXPECT_TRUE(is_ok(small_linear(in, all.last(1), workspace.data(), nullptr, false)));
              }
            }
            EXPECT_EQ(launches_of(in, all, workspace), size_t{1});
            sync();
            return std::tuple(to_host<uint32_t>(y_q, t * n_q), to_host<uint16_t>(y_key, t * n_key),
                              to_host<uint32_t>(y_v, t * n_v));
          };
          ASSERT_EQ(run(true), run(false)) << "T " << t << (fused ? " normed" : "");
        }
      }
      const DeviceBuffer y_q = poisoned<float>(9 * n_q), y_v = poisoned<float>(9 * n_v);
      const SmallLinearOutput two[] = {{q.device(), y_q.data(), n_q, nullptr, false, false},
                                       {v.device(), y_v.data(), n_v, nullptr, false, false}};
      EXPECT_EQ(launches_of(input_of(x, 9, k), two, workspace), size_t{2}) << "nine tokens have a launch a type";
    }
  }
}

// A chain of launches of two types in a graph: each writes the first columns of the next one's rows with one, the
// others with the other.
TEST_F(LinearTest, LaunchesOfTwoTypesInAGraphSeeEachOther) {
  const int64_t t = 8, k = 2304, n_v = 260, n_q = k - n_v;
  const RandomWeight q = random_weight(DType::Q4_K, n_q, k, 91), v = random_weight(DType::Q6_K, n_v, k, 92);
  const DeviceBuffer workspace = workspace_for({q.device(), v.device()});
  const auto start = to_bf16(random_floats(t * k, 93));
  const auto run = [&](bool together, bool pdl) {
    return run_chain(start, 12, [&](const uint16_t* x, uint16_t* y, cudaStream_t stream) {
      SmallLinearInput in;
      in.t = t;
      in.k = in.ld = k;
      in.x = x;
      const SmallLinearOutput outputs[] = {{q.device(), y, k, nullptr, true, false},
                                           {v.device(), y + n_q, k, nullptr, true, false}};
      const auto all = std::span(outputs);
      if (together) {
        EXPECT_TRUE(is_ok(small_linear(in, all, workspace.data(), stream, pdl)));
      } else {
        EXPECT_TRUE(is_ok(small_linear(in, all.first(1), workspace.data(), stream, pdl)));
        EXPECT_TRUE(is_ok(small_linear(in, all.last(1), workspace.data(), stream, pdl)));
      }
    });
  };
  const auto apart = run(false, false);
  for (const uint16_t value : apart) ASSERT_TRUE(std::isfinite(bfloat_to_float(value)));
  EXPECT_EQ(run(true, false), apart);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(run(true, true), apart);
}

struct GemmCase {
  int64_t t, n, k;
};

TEST_F(LinearTest, GemmMatchesFp64) {
  auto gemm = Gemm::create();
  ASSERT_TRUE(gemm.ok()) << gemm.status().to_string();
  for (const auto [t, n, k] : {GemmCase{33, 576, 576}, GemmCase{130, 192, 1536}, GemmCase{1, 40, 64}}) {
    const RandomWeight w = random_weight(DType::BF16, n, k, 51);
    const Rows x = random_rows(t, k, 52);
    const Reference want = multiply(w, x.values, t);
    const DeviceBuffer rows = to_device(w.rows);
    const auto bias = random_floats(n, 53), residual = random_floats(t * n, 54);
    const DeviceBuffer device_bias = to_device(bias);
    for (const bool bf16 : {false, true}) {
      for (const bool with_bias : {false, true}) {
        for (const bool accumulate : {false, true}) {
          if (accumulate + bf16 + with_bias > 1) continue;
          const DeviceBuffer y = accumulate ? to_device(residual) : poisoned<float>(t * n);
          GemmCall call;
          call.t = t;
          call.n = n;
          call.k = k;
          call.x = x.device.data();
          call.w = rows.data();
          call.ld_x = call.ld_w = k;
          call.y = y.data();
          call.ld_y = n;
          call.y_type = bf16 ? DType::BF16 : DType::F32;
          call.bias = with_bias ? device_bias.as<float>() : nullptr;
          call.accumulate = accumulate;
          const Status status = gemm->run(call, nullptr);
          ASSERT_TRUE(status.ok()) << status.to_string() << " bf16 " << bf16 << " bias " << with_bias;
          sync();
          const auto got = bf16 ? from_bf16(to_host<uint16_t>(y, t * n)) : to_host<float>(y, t * n);
          for (int64_t i = 0; i < t * n; ++i) {
            const double sum = want.y[i] + (with_bias ? bias[i % n] : 0) + (accumulate ? residual[i] : 0);
            ASSERT_LE(std::abs(got[i] - sum), want.bound[i] + (bf16 ? 0x1p-8 : 0x1p-21) * (std::abs(sum) + 1))
                << "[" << t << ", " << n << ", " << k << "] item " << i;
          }
        }
      }
    }
  }
}

TEST_F(LinearTest, StrictGemmKeepsARowsBits) {
  auto gemm = Gemm::create(true);
  ASSERT_TRUE(gemm.ok()) << gemm.status().to_string();
  const int64_t n = 1536, k = 4096;
  const RandomWeight w = random_weight(DType::BF16, n, k, 61);
  const Rows x = random_rows(700, k, 62);
  const DeviceBuffer rows = to_device(w.rows);
  std::vector<float> first;
  for (const int64_t t : {700, 512, 33, 200, 1}) {
    const DeviceBuffer y = poisoned<float>(t * n);
    GemmCall call;
    call.t = t;
    call.n = n;
    call.k = k;
    call.x = x.device.data();
    call.w = rows.data();
    call.ld_x = call.ld_w = k;
    call.y = y.data();
    call.ld_y = n;
    ASSERT_TRUE(is_ok(gemm->run(call, nullptr)));
    sync();
    const auto got = to_host<float>(y, t * n);
    if (first.empty()) first = got;
    for (int64_t i = 0; i < t * n; ++i) ASSERT_EQ(got[i], first[i]) << "T " << t << " item " << i;
  }
}

}  // namespace
}  // namespace pare::cuda
