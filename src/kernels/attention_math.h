// Constants of the attention arithmetic that every level shares (attention.h).
#pragma once

#include <limits>

namespace pare::attn {

inline constexpr float kLog2e = 0x1.715476p+0f;
inline constexpr float kNegInf = -std::numeric_limits<float>::infinity();
inline constexpr float kExp2Min = -64.0f;
inline constexpr float kRoundToInt = 0x1.8p+23f;  // x + this rounds x to an integer, which lies in the low bits
// 2^f = 1 + f (c0 + f (c1 + ...)) on [-1/2, 1/2]: Chebyshev interpolation of (2^f - 1) / f, relative
// error 9.2e-9.
inline constexpr float kExp2Poly[6] = {0x1.62e430p-1f, 0x1.ebfbe0p-3f,  0x1.c6af6cp-5f,
                                       0x1.3b2a54p-7f, 0x1.5f0890p-10f, 0x1.44138ap-13f};

}  // namespace pare::attn
