#include "base/rng.h"

#include <cmath>

namespace pare {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
#ifdef PARE_FAULT_BASE_PHILOX_ROUNDS
constexpr int kRounds = 9;
#else
constexpr int kRounds = 10;
#endif

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t p0 = uint64_t{kMultiplier0} * c[0];
    const uint64_t p1 = uint64_t{kMultiplier1} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return c;
}

Philox::Philox(uint64_t seed, uint64_t stream)
    : counter_{0, 0, static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
      block_{},
      key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)} {}

uint32_t Philox::operator()() {
  if (next_ == 4) {
    block_ = philox4x32(counter_, key_);
    if (++counter_[0] == 0) ++counter_[1];
    next_ = 0;
  }
  return block_[static_cast<size_t>(next_++)];
}

float Philox::normal() {
  const float u = 1.0f - uniform();  // (0, 1]: the logarithm stays finite
  const float v = uniform();
  return std::sqrt(-2.0f * std::log(u)) * std::cos(6.28318530717958647692f * v);
}

uint32_t Philox::below(uint32_t n) {
  // Multiply-shift; the draws that would favour some values are rejected.
  uint64_t product = uint64_t{(*this)()} * n;
  if (static_cast<uint32_t>(product) < n) {
    const uint32_t threshold = (0u - n) % n;
    while (static_cast<uint32_t>(product) < threshold) product = uint64_t{(*this)()} * n;
  }
  return static_cast<uint32_t>(product >> 32);
}

}  // namespace pare
