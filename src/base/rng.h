// Philox4x32-10 (Salmon et al., SC'11): a counter-based generator, so that the random numbers of a sample depend
// only on (request seed, branch, position) and never on what else is in the batch.
#pragma once

#include <array>
#include <cstdint>

namespace pare {

// One block of 128 random bits for a 128-bit counter and a 64-bit key. Pure.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Uniform in [0, 1) with 24 random bits: exactly representable in fp32.
inline float uniform_float(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

// A stream for tools and tests: successive blocks of one key.
class Philox {
 public:
  using result_type = uint32_t;
  explicit Philox(uint64_t seed, uint64_t stream = 0);
  static constexpr uint32_t min() { return 0; }
  static constexpr uint32_t max() { return UINT32_MAX; }
  uint32_t operator()();
  float uniform() { return uniform_float((*this)()); }
  // Standard normal (Box-Muller).
  float normal();
  // Uniform in [0, n), n > 0, without modulo bias.
  uint32_t below(uint32_t n);

 private:
  std::array<uint32_t, 4> counter_, block_;
  std::array<uint32_t, 2> key_;
  int next_ = 4;
};

}  // namespace pare
