// Device weights back to rows: whole weights to bf16 for the matrix products of a prompt, single rows to fp32 for the
// embedding.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_weight.h"
#include "pare/status.h"
#include "tensor/cuda/stream.h"

namespace pare::cuda {

// out[N][ld] = the weight in bf16: the fp32 value of the source's own de-quantization (BF16: the value itself), rounded
// to nearest even once. `out` 16-byte aligned, ld a multiple of 8 and at least K; columns beyond K are not written.
Status dequantize(const DeviceWeight& w, uint16_t* out, int64_t ld, Stream stream, bool pdl);

// out[t] = scale * table[ids[t]] in fp32 [T][K]: de-quantized as the source prescribes, bit for bit, then multiplied.
// ids are trusted to lie in [0, N).
Status embed_rows(const DeviceWeight& table, const int32_t* ids, int64_t t, float scale, float* out, Stream stream,
                  bool pdl);

}  // namespace pare::cuda
