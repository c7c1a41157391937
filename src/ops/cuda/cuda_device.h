// One CUDA card as an Accelerator.
#pragma once

#include <atomic>
#include <memory>

#include "ops/accelerator.h"
#include "tensor/cuda/stream.h"

namespace pare::ops {

class CudaDevice : public Accelerator, public std::enable_shared_from_this<CudaDevice> {
 public:
  explicit CudaDevice(AcceleratorInfo info) : info_(std::move(info)) {}

  AcceleratorInfo info() const override { return info_; }
  AcceleratorMemory memory() const override;
  size_t weight_bytes(DType dtype, int64_t n, int64_t k) const override;
  void pack_weight_tiles(DType dtype, const std::byte* rows, int64_t n, int64_t k, int64_t tile_begin, int64_t tile_end,
                         std::byte* packed) const override;
  Expected<std::shared_ptr<std::byte>> allocate(size_t bytes) override;
  Expected<std::shared_ptr<std::byte>> allocate_pinned(size_t bytes) override;
  Status upload(std::byte* to, std::span<const std::byte> from) override;
  Expected<double> read_bandwidth() override;
  Expected<double> gemm_rate() override;
  Expected<int64_t> clock_step_ns() override;
  Expected<std::unique_ptr<DeviceOps>> create_ops() override;

  // What the products with the weights placed so far need: workspace of the packed kernels, and the largest weight as
  // 16-bit rows.
  size_t linear_workspace_bytes() const { return linear_workspace_bytes_; }
  size_t dense_weight_bytes() const { return dense_weight_bytes_; }

 private:
  AcceleratorInfo info_;
  mutable std::atomic<size_t> linear_workspace_bytes_{256}, dense_weight_bytes_{256};
};

}  // namespace pare::ops
