// Accelerator: a card that can hold weights and key/value pages and run ops. Opened once, shared by the model whose
// weights lie on it and by the engines that run it. Builds without CUDA have none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

namespace pare::ops {

class DeviceOps;

struct AcceleratorInfo {
  Device device;
  std::string name;              // "NVIDIA H100 80GB HBM3"
  int32_t major = 0, minor = 0;  // compute capability
  int32_t multiprocessors = 0;
  int64_t memory_bytes = 0, memory_free_bytes = 0, l2_bytes = 0;
  int32_t driver_version = 0, runtime_version = 0;  // 13000: CUDA 13.0
};

struct AcceleratorMemory {
  int64_t bytes = 0, bytes_peak = 0;  // held by this process through the allocator
  int64_t free_bytes = 0;             // of the card, as the driver says: whoever holds the rest
  int64_t pinned_bytes = 0;           // page-locked host memory
};

class Accelerator {
 public:
  virtual ~Accelerator() = default;

  virtual AcceleratorInfo info() const = 0;
  virtual AcceleratorMemory memory() const = 0;

  // Bytes of a weight [n, k] in the card's order; 0 when the format has no kernel here or k does not fit its block.
  virtual size_t weight_bytes(DType dtype, int64_t n, int64_t k) const = 0;
  // Writes row tiles [tile_begin, tile_end) (kRowTile rows each) of `rows`, the source bytes of the whole weight, into
  // `packed` in host memory. Any thread, any order.
  virtual void pack_weight_tiles(DType dtype, const std::byte* rows, int64_t n, int64_t k, int64_t tile_begin,
                                 int64_t tile_end, std::byte* packed) const = 0;

  // Memory of the card, freed with the last owner. kResourceExhausted names bytes asked for and free.
  virtual Expected<std::shared_ptr<std::byte>> allocate(size_t bytes) = 0;
  virtual Expected<std::shared_ptr<std::byte>> allocate_pinned(size_t bytes) = 0;
  virtual Status upload(std::byte* to, std::span<const std::byte> from) = 0;

  // The most that the card can do, measured when asked: bytes a second of reading, FLOP a second of bf16 products.
  virtual Expected<double> read_bandwidth() = 0;
  virtual Expected<double> gemm_rate() = 0;
  // Resolution of the clock that steps are timed with (ops::step_span), measured when asked.
  virtual Expected<int64_t> clock_step_ns() = 0;

  virtual Expected<std::unique_ptr<DeviceOps>> create_ops() = 0;
};

// Cards of this machine, in the driver's order. kUnsupported: built without CUDA, driver too old; kNotFound: no card.
Expected<std::vector<AcceleratorInfo>> list_accelerators();
// kUnsupported names what is missing when the card is older than the kernels (compute capability 8.0).
Expected<std::shared_ptr<Accelerator>> open_accelerator(Device device);

// What --device says: nothing for "cpu", a card for "cuda" or "cuda:1", the first card or nothing for "auto".
Expected<std::shared_ptr<Accelerator>> accelerator_by_name(std::string_view name);

}  // namespace pare::ops
