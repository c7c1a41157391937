// Matrix products on CUDA against what the card can do, both measured here: bytes of weights per second for up to 32
// tokens, with weights rotated so that none is in the second-level cache; microseconds of small matrices in a graph;
// de-quantizing and cuBLASLt for prompts.
//
//   bench_cuda_linear [type ...]      small_linear with these types only
#include <random>
#include <span>
#include <string>

#include "base/half.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/device_weight.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/small_linear.h"
#include "tensor/cuda/device_memory.h"
#include "timing.h"

namespace pare::cuda::bench {
namespace {

constexpr int kRepeats = 15;
constexpr size_t kRotated = size_t{400} << 20;  // bytes of weights that follow each other

cudaStream_t stream;
double copy_bandwidth, gemm_peak;

DeviceBuffer allocate(size_t bytes) {
  auto buffer = DeviceBuffer::allocate(bytes);
  require(buffer.status());
  return std::move(*buffer);
}

DeviceBuffer random_bf16(int64_t items) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> host(items);
  for (uint16_t& h : host) h = float_to_bfloat(normal(rng));
  DeviceBuffer buffer = allocate(items * 2);
  require(buffer.upload(host.data(), items * 2));
  return buffer;
}

// `copies` of a weight after each other: random quants, scales that are numbers. A few tiles stand for all.
DeviceBuffer random_weights(DType dtype, int64_t n, int64_t k, int64_t copies) {
  const int64_t distinct = 8 * 16, tiles = device_weight_tiles(n) * copies;
  const DTypeInfo info = dtype_info(dtype);
  std::mt19937 rng(2);
  std::vector<uint16_t> rows(distinct * k / info.block_items * info.block_bytes / 2);
  // Every half word a number of magnitude 2^-7 to 2, whatever a kernel takes it for.
  for (uint16_t& h : rows) h = static_cast<uint16_t>(rng() % 0x2000u + (rng() % 2 != 0 ? 0x2000u : 0xa000u));
  std::vector<std::byte> packed(device_weight_bytes(dtype, distinct, k));
  pack_device_weight(dtype, reinterpret_cast<const std::byte*>(rows.data()), distinct, k, 0, 8, packed.data());
  const size_t tile = packed.size() / 8;
  DeviceBuffer buffer = allocate(tiles * tile);
  require(buffer.upload(packed.data(), std::min(packed.size(), buffer.size())));
  for (size_t have = packed.size(); have < buffer.size(); have *= 2) {
    const size_t more = std::min(have, buffer.size() - have);
    require(cudaMemcpy(buffer.data() + have, buffer.data(), more, cudaMemcpyDeviceToDevice), "cudaMemcpy");
  }
  return buffer;
}

void measure_card() {
  cudaDeviceProp card{};
  require(cudaGetDeviceProperties(&card, 0), "cudaGetDeviceProperties");
  const size_t bytes = size_t{1} << 30;
  const DeviceBuffer from = allocate(bytes), to = allocate(bytes);
  const double seconds = median_seconds(stream, kRepeats, [&] {
    require(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
  });
  copy_bandwidth = 2.0 * static_cast<double>(bytes) / seconds;
  std::printf("%s, %d multiprocessors: copy %.0f GB/s\n", card.name, card.multiProcessorCount, 1e-9 * copy_bandwidth);
}

void bench_gemm(Gemm& gemm, const char* what, int64_t t, int64_t n, int64_t k) {
  const DeviceBuffer x = random_bf16(t * k), w = random_bf16(n * k), y = allocate(t * n * 4);
  GemmCall call;
  call.t = t;
  call.n = n;
  call.k = k;
  call.x = x.data();
  call.w = w.data();
  call.ld_x = call.ld_w = k;
  call.y = y.data();
  call.ld_y = n;
  call.y_type = DType::BF16;
  const double seconds = median_seconds(stream, kRepeats, [&] { require(gemm.run(call, stream)); });
  const double rate = 2.0 * static_cast<double>(t) * static_cast<double>(n) * static_cast<double>(k) / seconds;
  gemm_peak = std::max(gemm_peak, rate);
  std::printf("%-8s T %5d N %6d K %6d  %9.1f us %6.0f TFLOP/s\n", what, static_cast<int>(t), static_cast<int>(n),
              static_cast<int>(k), 1e6 * seconds, 1e-12 * rate);
}

struct Shape {
  int64_t n, k;
};

void bench_small(DType dtype, Shape s) {
  const size_t bytes = device_weight_bytes(dtype, s.n, s.k);
  if (bytes == 0) return;
  const int64_t copies = std::clamp<int64_t>(static_cast<int64_t>(kRotated / bytes), 1, 512);
  const DeviceBuffer weights = random_weights(dtype, s.n, s.k, copies);
  const DeviceBuffer x = random_bf16(kMaxSmallTokens * s.k), y = allocate(kMaxSmallTokens * s.n * 4);
  DeviceWeight w{dtype, s.n, s.k, weights.data()};
  const DeviceBuffer workspace = allocate(small_linear_workspace_bytes({&w, 1}, kMaxSmallTokens));
  require(workspace.size() > 0 ? cudaMemset(workspace.data(), 0, workspace.size()) : cudaSuccess, "cudaMemset");
  std::printf("%-6s %6d x %6d", dtype_name(dtype).data(), static_cast<int>(s.n), static_cast<int>(s.k));
  for (const int64_t t : {1, 2, 4, 8, 16, 32}) {
    int64_t next = 0;
    const double seconds = seconds_in_graph(stream, static_cast<int>(std::max<int64_t>(copies, 16)), kRepeats, [&] {
      SmallLinearInput in;
      in.t = t;
      in.k = in.ld = s.k;
      in.x = x.as<uint16_t>();
      w.data = weights.data() + next++ % copies * bytes;
      const SmallLinearOutput out{w, y.data(), s.n, nullptr, false, false};
      require(small_linear(in, {&out, 1}, workspace.data(), stream, true));
    });
    // Of the larger of the two floors: weights once through memory, products at the tensor cores' rate.
    const double floor =
        std::max(static_cast<double>(bytes) / copy_bandwidth, 2.0 * static_cast<double>(t * s.n * s.k) / gemm_peak);
    std::printf("  %6.2f us %3.0f%%", 1e6 * seconds, 100.0 * floor / seconds);
  }
  std::printf("\n");
}

void bench_dequantize(DType dtype, Shape s) {
  const size_t bytes = device_weight_bytes(dtype, s.n, s.k);
  const DeviceBuffer weights = random_weights(dtype, s.n, s.k, 1), out = allocate(s.n * s.k * 2);
  const DeviceWeight w{dtype, s.n, s.k, weights.data()};
  const double seconds =
      median_seconds(stream, kRepeats, [&] { require(dequantize(w, out.as<uint16_t>(), s.k, stream, false)); });
  const double moved = static_cast<double>(bytes + out.size());
  std::printf("dequantize %-6s %6d x %6d  %7.1f us %6.0f GB/s %4.2f of copy\n", dtype_name(dtype).data(),
              static_cast<int>(s.n), static_cast<int>(s.k), 1e6 * seconds, 1e-9 * moved / seconds,
              moved / seconds / copy_bandwidth);
}

// Every call on the same weights: what is left when they are in the cache.
void bench_tiny(DType dtype, Shape s) {
  const DeviceBuffer weights = random_weights(dtype, s.n, s.k, 1);
  const DeviceBuffer x = random_bf16(kMaxSmallTokens * s.k), y = allocate(kMaxSmallTokens * s.n * 4);
  const DeviceWeight w{dtype, s.n, s.k, weights.data()};
  const DeviceBuffer workspace = allocate(small_linear_workspace_bytes({&w, 1}, kMaxSmallTokens));
  require(cudaMemset(workspace.data(), 0, workspace.size()), "cudaMemset");
  std::printf("cached %-6s %5d x %5d", dtype_name(dtype).data(), static_cast<int>(s.n), static_cast<int>(s.k));
  for (const int64_t t : {1, 8, 32}) {
    for (const bool pdl : {false, true}) {
      const double seconds = seconds_in_graph(stream, 64, kRepeats, [&] {
        SmallLinearInput in;
        in.t = t;
        in.k = in.ld = s.k;
        in.x = x.as<uint16_t>();
        const SmallLinearOutput out{w, y.data(), s.n, nullptr, false, false};
        require(small_linear(in, {&out, 1}, workspace.data(), stream, pdl));
      });
      std::printf("  T %2d%s %5.2f us", static_cast<int>(t), pdl ? " dependent" : "", 1e6 * seconds);
    }
  }
  std::printf("\n");
}

int run(std::span<char*> types) {
  require(cudaStreamCreate(&stream), "cudaStreamCreate");
  measure_card();
  auto gemm = Gemm::create(), strict = Gemm::create(true);
  require(gemm.status());
  require(strict.status());
  bench_gemm(*gemm, "gemm", 8192, 8192, 8192);
  for (const auto [n, k] : {Shape{8960, 1536}, Shape{1536, 8960}, Shape{4096, 4096}}) {
    for (const int64_t t : {128, 512, 2048}) {
      bench_gemm(*gemm, "gemm", t, n, k);
      bench_gemm(*strict, "strict", t, n, k);
    }
  }
  for (const DType t : {DType::Q4_0, DType::Q4_K, DType::Q6_K, DType::Q8_0, DType::BF16}) {
    bench_dequantize(t, {14336, 4096});
    bench_dequantize(t, {8960, 1536});
  }
  for (const Shape s : {Shape{576, 576}, Shape{192, 576}, Shape{1536, 576}, Shape{1536, 1536}}) {
    bench_tiny(DType::Q4_0, s);
    bench_tiny(DType::BF16, s);
  }
  std::printf("small_linear, rotated weights: T = 1, 2, 4, 8, 16, 32; %% of the larger floor\n");
  for (const DType t : {DType::Q4_0, DType::Q4_K, DType::Q6_K, DType::Q8_0, DType::BF16}) {
    const bool wanted =
        types.empty() || std::any_of(types.begin(), types.end(), [&](const char* n) { return dtype_name(t) == n; });
    if (!wanted) continue;
    for (const Shape s :
         {Shape{4096, 14336}, Shape{14336, 4096}, Shape{4096, 4096}, Shape{1536, 8960}, Shape{8960, 1536},
          Shape{151936, 1536}, Shape{1536, 1536}, Shape{1536, 576}, Shape{576, 576}}) {
      bench_small(t, s);
    }
  }
  return 0;
}

}  // namespace
}  // namespace pare::cuda::bench

int main(int argc, char** argv) { return pare::cuda::bench::run(std::span<char*>(argv + 1, argv + argc)); }
