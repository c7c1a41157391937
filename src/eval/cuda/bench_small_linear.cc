// Products of packed weights with a few tokens: weights of different addresses follow each other, as layers do.
#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "eval/cuda/kernel_run.h"
#include "kernels/cuda/batch_linear.h"
#include "kernels/cuda/device_weight.h"
#include "kernels/cuda/small_linear.h"

namespace pare::cuda {
namespace {

constexpr const char *kSmall = "small linear", *kBatch = "batch linear";
constexpr int kMinCalls = 16;

struct Shape {
  int64_t n, k;
};

// `copies` of a weight after each other: random quants, scales that are numbers. A few tiles stand for all.
Expected<DeviceBuffer> random_weights(DType dtype, Shape s, int64_t copies) {
  constexpr int64_t kTiles = 8, kDistinctRows = kTiles * 16;
  const DTypeInfo info = dtype_info(dtype);
  std::mt19937 rng(2);
  std::vector<uint16_t> rows(kDistinctRows * s.k / info.block_items * info.block_bytes / 2);
  // Every half word a number of magnitude 2^-7 to 2, whatever a kernel takes it for.
  for (uint16_t& h : rows) h = static_cast<uint16_t>(rng() % 0x2000u + (rng() % 2 != 0 ? 0x2000u : 0xa000u));
  std::vector<std::byte> packed(device_weight_bytes(dtype, kDistinctRows, s.k));
  pack_device_weight(dtype, reinterpret_cast<const std::byte*>(rows.data()), kDistinctRows, s.k, 0, kTiles,
                     packed.data());
  const int64_t tiles = device_weight_tiles(s.n) * copies;
  PARE_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::allocate(tiles * packed.size() / kTiles));
  PARE_RETURN_IF_ERROR(buffer.upload(packed.data(), std::min(packed.size(), buffer.size())));
  PARE_RETURN_IF_ERROR(repeat_to_end(buffer, packed.size()));
  return buffer;
}

Status measure(KernelRun& run, DType dtype, Shape s) {
  const auto name = [&](int64_t t) {
    return fmt::format("{}, {} x {}, {}", dtype_name(dtype), s.n, s.k, tokens_text(t));
  };
  struct Call {
    const char* group;
    int64_t t;
  };
  std::vector<Call> wanted;
  for (const Call& call : {Call{kSmall, 1}, Call{kSmall, 8}, Call{kSmall, 32}, Call{kBatch, 16}, Call{kBatch, 32}}) {
    if (call.group == kBatch && !batch_linear_takes(dtype, s.k)) continue;
    if (run.wants(call.group, name(call.t))) wanted.push_back(call);
  }
  if (wanted.empty()) return ok_status();
  const size_t bytes = device_weight_bytes(dtype, s.n, s.k);
  const int64_t copies = std::clamp<int64_t>(static_cast<int64_t>(kRotatedBytes / bytes), 1, 512);
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer weights, random_weights(dtype, s, copies));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer x, random_bf16(kMaxSmallTokens * s.k));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer y, zeros(static_cast<size_t>(kMaxSmallTokens * s.n) * sizeof(float)));
  DeviceWeight w{dtype, s.n, s.k, weights.data()};
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer workspace, zeros(small_linear_workspace_bytes({&w, 1}, kMaxSmallTokens)));
  for (const auto& [group, t] : wanted) {
    int64_t next = 0;
    KernelWork work;
    work.read_bytes = static_cast<double>(bytes);
    work.flop = 2.0 * static_cast<double>(t * s.n * s.k);
    PARE_RETURN_IF_ERROR(
        run.measure_in_graph(group, name(t), work, static_cast<int>(std::max<int64_t>(copies, kMinCalls)), [&] {
          SmallLinearInput in;
          in.t = t;
          in.k = in.ld = s.k;
          in.x = x.as<uint16_t>();
          w.data = weights.data() + static_cast<size_t>(next++ % copies) * bytes;
          const SmallLinearOutput out{w, y.data(), s.n, nullptr, false, false};
          return group == kBatch ? batch_linear(in, {&out, 1}, run.stream(), true)
                                 : small_linear(in, {&out, 1}, workspace.data(), run.stream(), true);
        }));
  }
  return ok_status();
}

}  // namespace

Status bench_small_linear(KernelRun& run) {
  for (const DType dtype : {DType::Q4_0, DType::Q4_K, DType::Q6_K, DType::Q8_0, DType::BF16}) {
    for (const Shape s : {Shape{4096, 14336}, Shape{14336, 4096}, Shape{1536, 8960}, Shape{151936, 1536}}) {
      PARE_RETURN_IF_ERROR(measure(run, dtype, s));
    }
  }
  return ok_status();
}

}  // namespace pare::cuda
