// Row-wise kernels over the rows of a prompt, and the sampler over the rows of a decode step.
#include <fmt/format.h>

#include <algorithm>

#include "eval/cuda/kernel_run.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/sample.h"

namespace pare::cuda {
namespace {

constexpr int64_t kRows = 8192;
constexpr const char *kRowOps = "row ops", *kSampler = "sampler";

// With `adds`, the residual takes the rows of a product first.
Status bench_norm(KernelRun& run, int64_t dim, bool adds) {
  const std::string name = fmt::format("{}rms_norm, {}, {}", adds ? "x += bf16 and " : "", dim, tokens_text(kRows));
  if (!run.wants(kRowOps, name)) return ok_status();
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer x, zeros(kRows * dim * sizeof(float)));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer delta, random_bf16(kRows * dim));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer out, zeros(kRows * dim * sizeof(uint16_t)));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer weight, zeros(dim * sizeof(float)));
  RmsNormArgs args;
  args.x = x.as<float>();
  args.weight = weight.as<float>();
  args.out = out.data();
  args.eps = 1e-5f;
  args.rows = kRows;
  args.dim = dim;
  if (adds) {
    args.delta = delta.data();
    args.delta_type = DType::BF16;
  }
  const double item_bytes = adds ? 4 + 2 + 4 + 2 : 4 + 2;
  return run.measure(kRowOps, name, {.moved_bytes = item_bytes * static_cast<double>(kRows * dim)},
                     [&] { return rms_norm(args, run.stream(), false); });
}

Status bench_glu(KernelRun& run, int64_t dim) {
  const std::string name = fmt::format("glu of bf16, {}, {}", dim, tokens_text(kRows));
  if (!run.wants(kRowOps, name)) return ok_status();
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer x, random_bf16(2 * kRows * dim));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer out, zeros(kRows * dim * sizeof(uint16_t)));
  GluArgs args;
  args.gate = x.data();
  args.up = x.data() + dim * sizeof(uint16_t);
  args.type = DType::BF16;
  args.pitch = 2 * dim;
  args.out = out.data();
  args.rows = kRows;
  args.dim = dim;
  return run.measure(kRowOps, name, {.moved_bytes = 3.0 * 2 * static_cast<double>(kRows * dim)},
                     [&] { return glu(args, run.stream(), false); });
}

// Rotation, optional norms and the store of keys and values.
Status bench_heads(KernelRun& run, int32_t n_heads, int32_t n_kv_heads, int32_t dim, bool norms) {
  const std::string name = fmt::format("RoPE{} and store, {}/{} heads of {}, {}", norms ? ", norms" : "", n_heads,
                                       n_kv_heads, dim, tokens_text(kRows));
  if (!run.wants(kRowOps, name)) return ok_status();
  const int64_t columns = int64_t{n_heads + 2 * n_kv_heads} * dim;
  const int64_t plane = int64_t{kPageRows} * dim * 2, page = 2 * n_kv_heads * plane;
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer qkv, random_bf16(kRows * columns));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer q_out, zeros(kRows * n_heads * dim * sizeof(uint16_t)));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer angles, zeros(kRows * dim / 2 * sizeof(float)));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer weight, zeros(dim * sizeof(float)));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer pool, zeros(kRows / kPageRows * page));
  std::vector<RowFormat> formats(n_kv_heads);
  for (int32_t g = 0; g < n_kv_heads; ++g) {
    formats[g].k = 2 * g * plane;
    formats[g].v = formats[g].k + plane;
    formats[g].page_bytes = static_cast<uint32_t>(page);
    formats[g].k_codec = formats[g].v_codec = Codec::Bf16;
  }
  std::vector<int32_t> dst(kRows);
  for (int32_t t = 0; t < kRows; ++t) dst[t] = t;
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer formats_device, uploaded(formats));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer dst_device, uploaded(dst));
  HeadsArgs args;
  args.q = qkv.data();
  args.k = qkv.data() + int64_t{n_heads} * dim * sizeof(uint16_t);
  args.v = qkv.data() + int64_t{n_heads + n_kv_heads} * dim * sizeof(uint16_t);
  args.type = DType::BF16;
  args.q_pitch = args.k_pitch = args.v_pitch = columns;
  if (norms) args.q_norm = args.k_norm = weight.as<float>();
  args.eps = 1e-6f;
  args.cos = args.sin = angles.as<float>();
  args.rot = dim;
  args.q_out = q_out.data();
  args.pools[0] = pool.data();
  args.formats = formats_device.as<RowFormat>();
  args.dst = dst_device.as<int32_t>();
  args.rows = kRows;
  args.n_heads = n_heads;
  args.n_kv_heads = n_kv_heads;
  args.head_dim = dim;
  const double bytes = static_cast<double>(kRows) * (4.0 * static_cast<double>(columns) + 4.0 * dim);
  return run.measure(kRowOps, name, {.moved_bytes = bytes}, [&] { return heads(args, run.stream(), false); });
}

}  // namespace

Status bench_row_ops(KernelRun& run) {
  for (const int64_t dim : {1536, 4096}) {
    for (const bool adds : {false, true}) PARE_RETURN_IF_ERROR(bench_norm(run, dim, adds));
  }
  for (const int64_t dim : {8960, 14336}) PARE_RETURN_IF_ERROR(bench_glu(run, dim));
  PARE_RETURN_IF_ERROR(bench_heads(run, 32, 8, 128, false));
  PARE_RETURN_IF_ERROR(bench_heads(run, 32, 8, 128, true));
  return bench_heads(run, 32, 8, 64, false);
}

Status bench_sampler(KernelRun& run) {
  constexpr int64_t kVocab = 151'936;
  const std::pair<const char*, SampleRow> kinds[] = {
      {"greedy", {}},
      {"top-k 40, top-p 0.95", {.temperature = 0.8f, .top_p = 0.95f, .top_k = 40}},
      {"top-p 0.95", {.temperature = 0.8f, .top_p = 0.95f}}};
  for (const auto& [what, kind] : kinds) {
    for (const int64_t n : {1, 8, 64}) {
      const std::string name = fmt::format("{}, {} x {}", what, n, kVocab);
      if (!run.wants(kSampler, name)) continue;
      const size_t bytes = static_cast<size_t>(n * kVocab) * sizeof(float);
      const int64_t copies = std::max<int64_t>(1, static_cast<int64_t>(kRotatedBytes / bytes));
      // Two bf16 numbers are one fp32 number, whose upper half decides.
      PARE_ASSIGN_OR_RETURN(const DeviceBuffer logits, random_bf16(2 * copies * n * kVocab));
      std::vector<SampleRow> rows(static_cast<size_t>(n), kind);
      for (int64_t i = 0; i < n; ++i) {
        rows[i].logits_row = i;
        rows[i].seed = static_cast<uint64_t>(i);
      }
      PARE_ASSIGN_OR_RETURN(const DeviceBuffer rows_device, uploaded(rows));
      PARE_ASSIGN_OR_RETURN(const DeviceBuffer ids, zeros(n * sizeof(int32_t)));
      PARE_ASSIGN_OR_RETURN(const size_t workspace_bytes, sample_workspace_bytes(n, kVocab));
      PARE_ASSIGN_OR_RETURN(const DeviceBuffer workspace, zeros(workspace_bytes));
      SampleArgs args;
      args.rows = rows_device.as<SampleRow>();
      args.n = n;
      args.vocab = kVocab;
      args.ids = ids.as<int32_t>();
      args.workspace = workspace.data();
      int64_t next = 0;
      PARE_RETURN_IF_ERROR(run.measure_in_graph(kSampler, name, {.read_bytes = static_cast<double>(bytes)},
                                                static_cast<int>(std::clamp<int64_t>(copies, 16, 256)), [&] {
                                                  args.logits = reinterpret_cast<const float*>(
                                                      logits.data() + static_cast<size_t>(next++ % copies) * bytes);
                                                  return sample(args, run.stream(), true);
                                                }));
    }
  }
  return ok_status();
}

}  // namespace pare::cuda
