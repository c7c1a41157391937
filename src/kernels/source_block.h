// One ggml block as integers and scales: where every packer starts from.
#pragma once

#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"

namespace pare {

// Little-endian words at any address.
inline uint16_t load16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline uint32_t load32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline constexpr int64_t kMaxSourceBlock = 256;

// One source block of one row: unsigned quants (signed bytes for Q8_0) and scales as the packed forms want them.
struct SourceBlock {
  uint8_t u[kMaxSourceBlock];
  uint16_t d = 0, m = 0;    // fp16
  uint8_t sub[16] = {};     // of 16 or 32 columns: unsigned (Q4_K, Q5_K), signed (Q3_K, Q6_K, IQ4_XS), or the scale in
                            // the low and the minimum in the high nibble (Q2_K)
  uint8_t sub_min[8] = {};  // Q4_K, Q5_K
};

// Reads dtype_info(dtype).block_bytes at p. Block formats only.
void read_source_block(DType dtype, const uint8_t* p, SourceBlock* out);

}  // namespace pare
