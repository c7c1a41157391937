// Weights as the CUDA kernels read them: GGUF rows rearranged on the host, uploaded as they are.
//
// docs/formats/packed_cuda.md has the layout (kernels/cuda/device_format.h in code). Block formats keep their quants
// and scales, bit for bit; F32, F16 and BF16 keep their values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace pare::cuda {

// A weight [N, K] in device memory, 16-byte aligned; the bytes belong to the weight store.
struct DeviceWeight {
  DType dtype = DType::F32;  // the source format
  int64_t n = 0, k = 0;
  const std::byte* data = nullptr;
};

// Bytes of the device form; 0 when no kernel multiplies the type or K does not fit its block.
size_t device_weight_bytes(DType dtype, int64_t n, int64_t k);

// Row tiles of a weight, the unit in which it is packed.
int64_t device_weight_tiles(int64_t n);

// Packs row tiles [tile_begin, tile_end) of `rows`, the source bytes of the whole weight (row-major, N rows), into host
// memory `packed`, which holds the whole weight. Rows beyond N and columns beyond K become zeros. Tiles are
// independent: any thread, any order.
void pack_device_weight(DType dtype, const std::byte* rows, int64_t n, int64_t k, int64_t tile_begin, int64_t tile_end,
                        std::byte* packed);

}  // namespace pare::cuda
