// Row-wise CUDA kernels against the card's copying speed, measured here: many rows in GB/s, one row in microseconds of
// a graph. The sampler, too, in a graph, its logits in the card's cache as after the product that made them.
//
//   bench_row_ops [rows|sample]
#include <cmath>
#include <string_view>

#include "base/rng.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/sample.h"
#include "tensor/cuda/device_memory.h"
#include "timing.h"

namespace pare::cuda::bench {
namespace {

constexpr int64_t kManyRows = 8192;
constexpr int kRepeats = 21, kGraphCalls = 64;

cudaStream_t stream;
double copy_bandwidth;

DeviceBuffer zeros(size_t bytes) {
  auto buffer = DeviceBuffer::allocate(bytes);
  require(buffer.status());
  require(buffer->fill(0));
  return std::move(*buffer);
}

// `call(rows, pdl)`; `bytes_per_row` are those read and written.
template <typename Call>
void report(const char* what, double bytes_per_row, Call call) {
  const double many = median_seconds(stream, kRepeats, [&] { call(kManyRows, false); });
  const double one = seconds_in_graph(stream, kGraphCalls, kRepeats, [&] { call(1, false); });
  const double dependent = seconds_in_graph(stream, kGraphCalls, kRepeats, [&] { call(1, true); });
  const double rate = bytes_per_row * kManyRows / many;
  std::printf("%-44s %8.1f us %7.0f GB/s %5.2f of copy   1 row %5.2f us, dependent %5.2f us\n", what, 1e6 * many,
              1e-9 * rate, rate / copy_bandwidth, 1e6 * one, 1e6 * dependent);
}

void bench_copy() {
  const size_t bytes = size_t{512} << 20;
  const DeviceBuffer from = zeros(bytes), to = zeros(bytes);
  const double seconds = median_seconds(stream, kRepeats, [&] {
    require(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream), "copy");
  });
  copy_bandwidth = 2.0 * static_cast<double>(bytes) / seconds;
  std::printf("%-44s %8.1f us %7.0f GB/s\n", "cudaMemcpy, 512 MiB", 1e6 * seconds, 1e-9 * copy_bandwidth);
}

void bench_norms(int64_t dim) {
  const DeviceBuffer x = zeros(kManyRows * dim * 4), delta = zeros(kManyRows * dim * 4),
                     out = zeros(kManyRows * dim * 2);
  const DeviceBuffer weight = zeros(dim * 4);
  RmsNormArgs args;
  args.x = x.as<float>();
  args.weight = weight.as<float>();
  args.out = out.data();
  args.eps = 1e-5f;
  args.dim = dim;
  char what[64];
  const auto run = [&](int64_t rows, bool pdl) {
    args.rows = rows;
    require(rms_norm(args, stream, pdl));
  };
  std::snprintf(what, sizeof what, "rms_norm, %d", static_cast<int>(dim));
  report(what, 6.0 * dim, run);
  args.delta = delta.data();
  args.delta_type = DType::BF16;
  std::snprintf(what, sizeof what, "x += bf16, rms_norm, %d", static_cast<int>(dim));
  report(what, 12.0 * dim, run);
  args.delta_type = DType::F32;
  args.delta_weight = weight.as<float>();
  std::snprintf(what, sizeof what, "x += rms_norm(fp32), rms_norm, %d", static_cast<int>(dim));
  report(what, 14.0 * dim, run);
}

void bench_layer_norm(int64_t dim) {
  const DeviceBuffer x = zeros(kManyRows * dim * 4), delta = zeros(kManyRows * dim * 4),
                     out = zeros(kManyRows * dim * 2);
  const DeviceBuffer weight = zeros(dim * 4);
  LayerNormArgs args;
  args.x = x.as<float>();
  args.delta = delta.data();
  args.weight = args.bias = weight.as<float>();
  args.out_f32 = x.as<float>();
  args.out_bf16 = out.data();
  args.eps = 1e-5f;
  args.dim = dim;
  char what[64];
  std::snprintf(what, sizeof what, "layer_norm(x + fp32), %d", static_cast<int>(dim));
  report(what, 14.0 * dim, [&](int64_t rows, bool pdl) {
    args.rows = rows;
    require(layer_norm(args, stream, pdl));
  });
}

void bench_glu(int64_t dim, DType type) {
  const int64_t item = type == DType::F32 ? 4 : 2;
  const DeviceBuffer x = zeros(2 * kManyRows * dim * item), out = zeros(kManyRows * dim * 2);
  GluArgs args;
  args.gate = x.data();
  args.up = x.data() + dim * item;
  args.type = type;
  args.pitch = 2 * dim;
  args.out = out.data();
  args.dim = dim;
  char what[64];
  std::snprintf(what, sizeof what, "glu of %s, %d", type == DType::F32 ? "fp32" : "bf16", static_cast<int>(dim));
  report(what, (2.0 * item + 2.0) * dim, [&](int64_t rows, bool pdl) {
    args.rows = rows;
    require(glu(args, stream, pdl));
  });
}

void bench_heads(int32_t n_heads, int32_t n_kv_heads, int32_t dim, DType type, bool norms) {
  const int64_t item = type == DType::F32 ? 4 : 2, columns = int64_t{n_heads + 2 * n_kv_heads} * dim;
  const int64_t plane = int64_t{kPageRows} * dim * 2, page = 2 * n_kv_heads * plane;
  const DeviceBuffer qkv = zeros(kManyRows * columns * item), q_out = zeros(kManyRows * n_heads * dim * 2);
  const DeviceBuffer angles = zeros(kManyRows * dim / 2 * 4), weight = zeros(dim * 4);
  const DeviceBuffer pool = zeros(kManyRows / kPageRows * page);
  std::vector<RowFormat> formats(n_kv_heads);
  for (int32_t g = 0; g < n_kv_heads; ++g) {
    formats[g].k = 2 * g * plane;
    formats[g].v = formats[g].k + plane;
    formats[g].page_bytes = static_cast<uint32_t>(page);
    formats[g].k_codec = formats[g].v_codec = Codec::Bf16;
  }
  std::vector<int32_t> dst(kManyRows);
  for (int32_t t = 0; t < kManyRows; ++t) dst[t] = t;
  DeviceBuffer formats_device = zeros(formats.size() * sizeof(RowFormat)), dst_device = zeros(dst.size() * 4);
  require(formats_device.upload(formats.data(), formats.size() * sizeof(RowFormat)));
  require(dst_device.upload(dst.data(), dst.size() * 4));
  HeadsArgs args;
  args.q = qkv.data();
  args.k = qkv.data() + n_heads * dim * item;
  args.v = qkv.data() + (n_heads + n_kv_heads) * dim * item;
  args.type = type;
  args.q_pitch = args.k_pitch = args.v_pitch = columns;
  if (norms) args.q_norm = args.k_norm = weight.as<float>();
  args.eps = 1e-6f;
  args.cos = args.sin = angles.as<float>();
  args.rot = dim;
  args.q_out = q_out.data();
  args.pools[0] = pool.data();
  args.formats = formats_device.as<RowFormat>();
  args.dst = dst_device.as<int32_t>();
  args.n_heads = n_heads;
  args.n_kv_heads = n_kv_heads;
  args.head_dim = dim;
  char what[64];
  std::snprintf(what, sizeof what, "heads of %s, %d + %d of %d%s", type == DType::F32 ? "fp32" : "bf16", n_heads,
                n_kv_heads, dim, norms ? ", norms" : "");
  report(what, (item + 2.0) * columns + 4.0 * dim, [&](int64_t rows, bool pdl) {
    args.rows = rows;
    require(heads(args, stream, pdl));
  });
}

void bench_rope_table() {
  const int64_t half = 64;
  std::vector<int32_t> positions(kManyRows);
  for (int32_t t = 0; t < kManyRows; ++t) positions[t] = 100'000 + t;
  std::vector<double> inv_freq(half);
  for (int64_t i = 0; i < half; ++i) inv_freq[i] = std::pow(1e6, -static_cast<double>(i) / half);
  DeviceBuffer at = zeros(kManyRows * 4), freq = zeros(half * 8);
  require(at.upload(positions.data(), kManyRows * 4));
  require(freq.upload(inv_freq.data(), half * 8));
  const DeviceBuffer cos = zeros(kManyRows * half * 4), sin = zeros(kManyRows * half * 4);
  RopeTableArgs args{at.as<int32_t>(), freq.as<double>(), 1.0f, cos.as<float>(), sin.as<float>(), 0, half};
  report("rope_table, 64", 8.0 * half, [&](int64_t rows, bool pdl) {
    args.rows = rows;
    require(rope_table(args, stream, pdl));
  });
}

// Logits as of a model that is sure of a few hundred ids, or flat: normal, and a draw may fall on any of them.
void bench_sampler(int64_t vocab, bool flat) {
  constexpr int64_t kRows = 32;
  Philox rng(1);
  std::vector<float> x(kRows * vocab);
  for (float& v : x) v = 2.5f * rng.normal() + (!flat && rng.below(1000) == 0 ? 8.0f : 0.0f);
  DeviceBuffer logits = zeros(x.size() * 4), rows_device = zeros(kRows * sizeof(SampleRow));
  require(logits.upload(x.data(), x.size() * 4));
  const DeviceBuffer ids = zeros(kRows * 4), logprobs = zeros(kRows * 4), top = zeros(kRows * 5 * sizeof(TopLogprob));
  struct Kind {
    const char* what;
    float temperature;
    int32_t top_k;
    float top_p, typical_p;
    bool logprobs;
  };
  for (const Kind& kind :
       {Kind{"greedy", 0, 0, 1, 1, false}, Kind{"greedy, 5 log-probabilities", 0, 0, 1, 1, true},
        Kind{"temperature 0.8", 0.8f, 0, 1, 1, false}, Kind{"temperature 0.8, top-p 0.95", 0.8f, 0, 0.95f, 1, false},
        Kind{"temperature 0.8, top-k 40, top-p 0.95", 0.8f, 40, 0.95f, 1, false},
        Kind{"temperature 0.8, typical 0.9", 0.8f, 0, 1, 0.9f, false}}) {
    std::vector<SampleRow> rows(kRows);
    for (int64_t r = 0; r < kRows; ++r) {
      rows[r].logits_row = r;
      rows[r].temperature = kind.temperature;
      rows[r].top_k = kind.top_k;
      rows[r].top_p = kind.top_p;
      rows[r].typical_p = kind.typical_p;
      rows[r].wants_logprob = kind.logprobs;
      rows[r].n_top = kind.logprobs ? 5 : 0;
      rows[r].position = static_cast<int32_t>(r);
    }
    require(rows_device.upload(rows.data(), rows.size() * sizeof(SampleRow)));
    SampleArgs args;
    args.rows = rows_device.as<SampleRow>();
    args.logits = logits.as<float>();
    args.vocab = vocab;
    args.ids = ids.as<int32_t>();
    args.logprobs = logprobs.as<float>();
    args.top = top.as<TopLogprob>();
    args.top_cap = kind.logprobs ? 5 : 0;
    double us[2];
    for (const int i : {0, 1}) {
      args.n = i == 0 ? 1 : kRows;
      us[i] = 1e6 * seconds_in_graph(stream, kGraphCalls, kRepeats, [&] { require(sample(args, stream, true)); });
    }
    std::printf("sample %6d %s, %-38s 1 row %6.2f us, 32 rows %7.2f us\n", static_cast<int>(vocab),
                flat ? "flat" : "sure", kind.what, us[0], us[1]);
  }
}

int run(std::string_view only) {
  cudaDeviceProp device{};
  require(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  std::printf("%s\n", device.name);
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  if (only != "sample") {
    bench_copy();
    for (const int64_t dim : {576, 1536, 4096}) bench_norms(dim);
    bench_layer_norm(1024);
    bench_glu(4864, DType::F32);
    bench_glu(8960, DType::BF16);
    bench_heads(32, 8, 128, DType::F32, false);
    bench_heads(32, 8, 128, DType::BF16, false);
    bench_heads(16, 8, 128, DType::BF16, true);
    bench_heads(9, 3, 64, DType::F32, false);
    bench_rope_table();
  }
  if (only != "rows") {
    for (const int64_t vocab : {49152, 151936}) {
      for (const bool flat : {false, true}) bench_sampler(vocab, flat);
    }
  }
  return 0;
}

}  // namespace
}  // namespace pare::cuda::bench

int main(int argc, char** argv) { return pare::cuda::bench::run(argc > 1 ? argv[1] : ""); }
