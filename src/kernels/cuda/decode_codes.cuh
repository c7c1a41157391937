// Quantized rows (plan/kv_layout.h) on their way into the tiles of the decode kernel: codes become fma(scale, code,
// zero) in fp32, rounded to the tile's 16-bit type, so that the products need not know.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

// Of a slot that holds a row: its page's start and its row there.
struct Source {
  const std::byte* page;
  int32_t in_page;
};

// 16 codes of `kBits` bits.
template <int kBits>
struct SixteenCodes {
  uint32_t words[kBits / 2];
  __device__ void load(const std::byte* from) {
    if constexpr (kBits == 8) {
      const uint4 x = __ldg(reinterpret_cast<const uint4*>(from));
      words[0] = x.x, words[1] = x.y, words[2] = x.z, words[3] = x.w;
    } else if constexpr (kBits == 4) {
      const uint2 x = __ldg(reinterpret_cast<const uint2*>(from));
      words[0] = x.x, words[1] = x.y;
    } else {
      words[0] = __ldg(reinterpret_cast<const uint32_t*>(from));
    }
  }
  __device__ float code(int i) const {
    constexpr int kPerWord = 32 / kBits;
    return static_cast<float>(words[i / kPerWord] >> (i % kPerWord * kBits) & ((1u << kBits) - 1));
  }
};

__device__ inline float2 scale_and_zero(uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

// Writes 16 values, chunks 2 c and 2 c + 1 of a slot.
__device__ inline void store_chunks(uint32_t row, int32_t slot, int32_t c, const uint32_t (&pairs)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(row + chunk_offset(slot, 2 * c + i)),
                 "r"(pairs[4 * i]), "r"(pairs[4 * i + 1]), "r"(pairs[4 * i + 2]), "r"(pairs[4 * i + 3])
                 : "memory");
  }
}

// How the lanes of a warp share kSlots rows of `width` channels: 16 channels, always the same, of every step-th slot.
struct LaneShare {
  int32_t c, first, step;
  __device__ explicit LaneShare(int32_t width) {
    const int32_t chunks = width / 16;
    step = 32 / chunks;
    c = lane_id() % chunks;
    first = lane_id() / chunks;
    if (first >= step) first = INT32_MAX / 2;  // nothing is left for this lane
  }
};

inline constexpr int kCodesAhead = 4;  // rows whose codes a lane asks for at once

template <typename T, typename S, int kSlots, int kBits>
__device__ void widen_keys_of(const Source* sources, uint32_t to, uint64_t plane, const Codes& codes, int32_t width) {
  const LaneShare share(width);
  const std::byte* scales_at = nullptr;
  uint32_t scales[16] = {};
  for (int32_t slot0 = share.first; slot0 < kSlots; slot0 += kCodesAhead * share.step) {
    SixteenCodes<kBits> ahead[kCodesAhead] = {};
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots || sources[slot].page == nullptr) continue;
      ahead[i].load(sources[slot].page + plane + (int64_t{sources[slot].in_page} * width + share.c * 16) * kBits / 8);
    }
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots) continue;
      const Source source = sources[slot];
      uint32_t pairs[8] = {};  // an empty slot is zeros
      if (source.page != nullptr) {
        const std::byte* at =
            source.page + codes.ks + (int64_t{source.in_page / codes.k_group} * width + share.c * 16) * 4;
        if (at != scales_at) {
          scales_at = at;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const uint4 four = __ldg(reinterpret_cast<const uint4*>(at) + j);
            scales[4 * j] = four.x, scales[4 * j + 1] = four.y, scales[4 * j + 2] = four.z, scales[4 * j + 3] = four.w;
          }
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float2 low = scale_and_zero(scales[2 * j]), high = scale_and_zero(scales[2 * j + 1]);
          pairs[j] = narrow_pair<T>(__fmaf_rn(low.x, ahead[i].code(2 * j), low.y),
                                    __fmaf_rn(high.x, ahead[i].code(2 * j + 1), high.y));
        }
      }
      store_chunks(to + static_cast<uint32_t>(slot) * S::kRowBytes, slot, share.c, pairs);
    }
  }
}

template <typename T, typename S, int kSlots, int kBits>
__device__ void widen_values_of(const Source* sources, uint32_t to, uint64_t plane, const Codes& codes, int32_t width) {
  const LaneShare share(width);
  const int32_t groups = width / codes.v_group, group = share.c * 16 / codes.v_group;
  for (int32_t slot0 = share.first; slot0 < kSlots; slot0 += kCodesAhead * share.step) {
    SixteenCodes<kBits> ahead[kCodesAhead] = {};
    uint32_t scales[kCodesAhead] = {};
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots || sources[slot].page == nullptr) continue;
      const Source source = sources[slot];
      ahead[i].load(source.page + plane + (int64_t{source.in_page} * width + share.c * 16) * kBits / 8);
      scales[i] = __ldg(reinterpret_cast<const uint32_t*>(source.page + codes.vs) + source.in_page * groups + group);
    }
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots) continue;
      const float2 s = scale_and_zero(scales[i]);  // of an empty slot zeros, and so are its values
      uint32_t pairs[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        pairs[j] =
            narrow_pair<T>(__fmaf_rn(s.x, ahead[i].code(2 * j), s.y), __fmaf_rn(s.x, ahead[i].code(2 * j + 1), s.y));
      }
      store_chunks(to + static_cast<uint32_t>(slot) * S::kRowBytes, slot, share.c, pairs);
    }
  }
}

template <typename T, typename S, int kSlots>
__device__ void widen_keys(const Source* sources, uint32_t to, uint64_t plane, const Codes& codes, int32_t width) {
  switch (codes.k) {
    case Codec::I8: return widen_keys_of<T, S, kSlots, 8>(sources, to, plane, codes, width);
    case Codec::I4: return widen_keys_of<T, S, kSlots, 4>(sources, to, plane, codes, width);
    default: return widen_keys_of<T, S, kSlots, 2>(sources, to, plane, codes, width);
  }
}
template <typename T, typename S, int kSlots>
__device__ void widen_values(const Source* sources, uint32_t to, uint64_t plane, const Codes& codes, int32_t width) {
  switch (codes.v) {
    case Codec::I8: return widen_values_of<T, S, kSlots, 8>(sources, to, plane, codes, width);
    case Codec::I4: return widen_values_of<T, S, kSlots, 4>(sources, to, plane, codes, width);
    default: return widen_values_of<T, S, kSlots, 2>(sources, to, plane, codes, width);
  }
}

}  // namespace pare::cuda::decode
