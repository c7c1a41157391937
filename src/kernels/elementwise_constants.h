// Constants of the functions in elementwise.h, shared by the oracle and every level: the same bits need the
// same coefficients. Constants only, so that files compiled for a level may include it.
#pragma once

namespace pare::elementwise {

// exp: x = n ln2 + r, |r| <= ln2/2, Taylor to r^7 (remainder below 2^-27 relative), scaled by 2^n in two
// steps so that subnormal results round once. Beyond the bounds the result is 0 or infinity anyway.
inline constexpr float kExpMin = -105.0f, kExpMax = 89.0f;
inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2High = 0.693359375f;  // 10 bits: n * kLn2High is exact
inline constexpr float kLn2Low = -2.12194440e-4f;
inline constexpr float kExp7 = 1.0f / 5040, kExp6 = 1.0f / 720, kExp5 = 1.0f / 120, kExp4 = 1.0f / 24, kExp3 = 1.0f / 6;

// gelu, tanh form: x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
inline constexpr float kGelu2Sqrt2OverPi = 1.5957691216f;
inline constexpr float kGeluCubic = 0.044715f;

// gelu, erf form: erfc by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
inline constexpr float kSqrtHalf = 0.70710678f;
inline constexpr float kErfP = 0.3275911f;
inline constexpr float kErf1 = 0.254829592f, kErf2 = -0.284496736f, kErf3 = 1.421413741f, kErf4 = -1.453152027f,
                       kErf5 = 1.061405429f;

}  // namespace pare::elementwise
