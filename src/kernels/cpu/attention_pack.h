// Packing of 16 codes, a byte each, into Bits apiece. For files compiled with BMI2; static, so that the linker shares
// nothing between levels.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pare::attn {

template <int Bits>
static inline void pack_codes(std::byte* p, uint64_t low, uint64_t high) {
  if constexpr (Bits == 8) {
    std::memcpy(p, &low, 8);
    std::memcpy(p + 8, &high, 8);
  } else {
    constexpr uint64_t kMask = 0x0101010101010101u * ((1u << Bits) - 1);
    const uint64_t packed = _pext_u64(low, kMask) | _pext_u64(high, kMask) << (8 * Bits);
    std::memcpy(p, &packed, 2 * Bits);
  }
}

}  // namespace pare::attn
