// cuDNN's fused attention of one sequence's rows: graphs of its front end, one for each shape, kept.
//
//   out[t][h] = softmax over keys j <= keys - queries + t of scale * q[t][h].k[j][g], times v[j][g]; g = h / (H / K)
//
// The last query sees the last key. q, out [queries][H][D]; k, v [K][keys][D]; all of one type, device memory, 16-byte
// aligned. Nothing but these rows is read or written. Sums and softmax are cuDNN's, in fp32.
//
// Each shape has a kernel of its own, which is compiled with its graph: a second or two the first time. kMaxGraphs are
// kept, the least recently used goes. cuDNN can also compile one kernel for all that differ in queries and keys alone
// (dynamic shapes, a kernel cache of graphs), but on an H100 with 9.19 those were right for the first shape only: heads
// stayed zero and rows of neighbours were overwritten. prepare() may not be called while a stream is being captured.
//
// Errors: kUnsupported, with cuDNN's reason and the shape, where it has no kernel; kInternal where a launch fails.
// Threads: one at a time. One object a device: that which was current at open().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "pare/status.h"
#include "tensor/cuda/stream.h"
#include "tensor/dtype.h"

namespace pare::cuda {

struct CudnnShape {
  DType dtype = DType::BF16;  // or F16
  int32_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t queries = 0, keys = 0;  // 1 <= queries <= keys
  float scale = 1.0f;
  bool operator==(const CudnnShape&) const = default;
};

struct CudnnOperands {
  const void *q = nullptr, *k = nullptr, *v = nullptr;
  void* out = nullptr;
};

class CudnnGraphs {
 public:
  static constexpr size_t kMaxGraphs = 128;
  // Device memory that every run gets; shapes that need more are refused.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  // kUnsupported: see load_cudnn(); or cuDNN does not take this device.
  static Expected<std::unique_ptr<CudnnGraphs>> open();
  virtual ~CudnnGraphs() = default;

  virtual std::string version() const = 0;  // "9.19.0"
  // Makes the shape's graph and its kernel unless they are there.
  virtual Status prepare(const CudnnShape& shape) = 0;
  // Prepares and queues it. `workspace`: kWorkspaceBytes, 256-byte aligned, this stream's alone.
  virtual Status run(const CudnnShape& shape, const CudnnOperands& operands, std::byte* workspace, Stream stream) = 0;
};

}  // namespace pare::cuda
