// Quantized rows (plan/kv_layout.h) on their way into the tiles of the decode kernel: codes become fma(scale, code,
// zero) in fp32, rounded to the tile's 16-bit type, so that the products need not know. Codes are asked for a plane
// ahead of their use and wait in registers, since nothing else hides the way to memory from the warps that widen them.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

// Of a slot: where its row is, and its number in the zone; page null, row -1: the slot is empty.
struct Source {
  const std::byte* page;
  int32_t in_page, row;
};

// Half a LaneShare: 8 channels, a chunk of the tile.
inline constexpr int kShareChunks = 2, kChunkValues = 8;

__device__ inline float2 scale_and_zero(uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

__device__ inline void store_chunk(uint32_t row, int32_t slot, int32_t chunk, const uint32_t (&pairs)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(row + chunk_offset(slot, chunk)), "r"(pairs[0]),
               "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
               : "memory");
}

// How the lanes of a warp share rows of `width` channels: two chunks, always the same, of every step-th slot. A row's
// lanes write the first half of its chunks together and then the second, each without a conflict of banks.
struct LaneShare {
  int32_t chunk[kShareChunks], first, step;
  __device__ explicit LaneShare(int32_t width) {
    const int32_t lanes = width / (kShareChunks * kChunkValues);  // that share a row
    step = 32 / lanes;
    chunk[0] = lane_id() % lanes;
    chunk[1] = chunk[0] + lanes;
    first = lane_id() / lanes;
    if (first >= step) first = INT32_MAX / 2;  // nothing is left for this lane
  }
};

inline constexpr int kCodesAhead = 8;  // rows of a lane whose codes are asked for together

// A plane of codes, its width and its scales: what all rows of a job have in common.
struct CodedPlane {
  uint64_t codes, scales;
  int32_t width, group;
  Codec codec;
};

// Eight codes to widen. A code is cut out where it stands and becomes the fraction of a float, so that no conversion
// from integers is needed, of which a multiprocessor makes few: (2^23 + code 2^at) - 2^23, times scale 2^-at.
template <int kBits>
struct CodeWord {
  // Of code i: its word, and where it stands in that word or in its upper half.
  static constexpr int word(int i) { return i * kBits / 32; }
  static constexpr bool upper(int i) { return i * kBits % 32 >= 16; }
  static constexpr int at(int i) { return i * kBits % 16; }
  // A power of two by which the scale of code i is to be multiplied.
  static constexpr float factor(int i) { return 1.0f / static_cast<float>(1 << at(i)); }
  __device__ static float code(const uint32_t (&words)[2], int i) {
    constexpr uint32_t kTwoTo23 = 0x4b000000;
    const uint32_t w = upper(i) ? words[word(i)] >> 16 : words[word(i)];
    return __uint_as_float((w & (((1u << kBits) - 1) << at(i))) | kTwoTo23) - 8388608.0f;
  }
};

// The codes of a lane's chunks of up to kCodesAhead rows, in registers.
class CodesInFlight {
 public:
  __device__ void ask(const Source* sources, int32_t n_slots, const LaneShare& share, int32_t slot0,
                      const CodedPlane& plane) {
    const int32_t chunk_bytes = codec_bits(plane.codec);  // eight codes
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= n_slots || sources[slot].page == nullptr) continue;
      const std::byte* row = sources[slot].page + plane.codes +
                             int64_t{sources[slot].in_page} * (plane.width / kChunkValues) * chunk_bytes;
#pragma unroll
      for (int h = 0; h < kShareChunks; ++h) {
        const std::byte* from = row + share.chunk[h] * chunk_bytes;
        if (plane.codec == Codec::I8) {
          const uint2 x = __ldg(reinterpret_cast<const uint2*>(from));
          words_[i][h][0] = x.x, words_[i][h][1] = x.y;
        } else if (plane.codec == Codec::I4) {
          words_[i][h][0] = __ldg(reinterpret_cast<const uint32_t*>(from));
        } else {
          words_[i][h][0] = __ldg(reinterpret_cast<const uint16_t*>(from));
        }
      }
    }
  }
  __device__ const uint32_t (&words(int row, int h) const)[2] { return words_[row][h]; }

 private:
  uint32_t words_[kCodesAhead][kShareChunks][2] = {};
};

// Calls f.operator()<bits>().
template <typename F>
__device__ void for_codec(Codec codec, F f) {
  switch (codec) {
    case Codec::I8: f.template operator()<8>(); break;
    case Codec::I4: f.template operator()<4>(); break;
    default: f.template operator()<2>();
  }
}

// The keys of a warp's kSlots slots of a tile: a scale a channel, for `group` rows.
template <typename T, typename S, int kSlots>
class KeysInFlight {
 public:
  __device__ void ask(const Source* sources, const CodedPlane& plane) {
    const LaneShare share(plane.width);
    codes_.ask(sources, kSlots, share, share.first, plane);
    if (share.first < kSlots && sources[share.first].page != nullptr) ask_scales(sources[share.first], share, plane);
  }
  // Of the sources that were asked for last.
  __device__ void widen(const Source* sources, uint32_t to, const CodedPlane& plane) {
    const LaneShare share(plane.width);
#pragma unroll 1
    for (int32_t slot0 = share.first; slot0 < kSlots; slot0 += kCodesAhead * share.step) {
      if (slot0 != share.first) codes_.ask(sources, kSlots, share, slot0, plane);
      for_codec(plane.codec, [&]<int kBits>() { widen_some<kBits>(sources, to, share, slot0, plane); });
    }
  }

 private:
  __device__ static const std::byte* scales_of(const Source& source, const CodedPlane& plane) {
    return source.page + plane.scales + int64_t{source.in_page / plane.group} * plane.width * 4;
  }
  __device__ void ask_scales(const Source& source, const LaneShare& share, const CodedPlane& plane) {
    scales_at_ = scales_of(source, plane);
#pragma unroll
    for (int h = 0; h < kShareChunks; ++h) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint4 four = __ldg(reinterpret_cast<const uint4*>(scales_at_) + share.chunk[h] * 2 + j);
        uint32_t(&to)[kChunkValues] = scales_[h];
        to[4 * j] = four.x, to[4 * j + 1] = four.y, to[4 * j + 2] = four.z, to[4 * j + 3] = four.w;
      }
    }
  }
  template <int kBits>
  __device__ void widen_some(const Source* sources, uint32_t to, const LaneShare& share, int32_t slot0,
                             const CodedPlane& plane) {
    using Word = CodeWord<kBits>;
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots) continue;
      const Source source = sources[slot];
      if (source.page != nullptr && scales_of(source, plane) != scales_at_) ask_scales(source, share, plane);
#pragma unroll
      for (int h = 0; h < kShareChunks; ++h) {
        uint32_t pairs[kChunkValues / 2] = {};  // an empty slot is zeros
        if (source.page != nullptr) {
          float values[kChunkValues];
#pragma unroll
          for (int j = 0; j < kChunkValues; ++j) {
            const float2 s = scale_and_zero(scales_[h][j]);
            values[j] = __fmaf_rn(s.x * Word::factor(j), Word::code(codes_.words(i, h), j), s.y);
          }
#pragma unroll
          for (int j = 0; j < kChunkValues / 2; ++j) pairs[j] = narrow_pair<T>(values[2 * j], values[2 * j + 1]);
        }
        store_chunk(to + static_cast<uint32_t>(slot) * S::kRowBytes, slot, share.chunk[h], pairs);
      }
    }
  }

  CodesInFlight codes_;
  uint32_t scales_[kShareChunks][kChunkValues] = {};
  const std::byte* scales_at_ = nullptr;
};

// The values of a warp's kSlots slots of a tile: a scale a row, for `group` channels.
template <typename T, typename S, int kSlots>
class ValuesInFlight {
 public:
  __device__ void ask(const Source* sources, const CodedPlane& plane) {
    const LaneShare share(plane.width);
    ask_some(sources, share, share.first, plane);
  }
  __device__ void widen(const Source* sources, uint32_t to, const CodedPlane& plane) {
    const LaneShare share(plane.width);
#pragma unroll 1
    for (int32_t slot0 = share.first; slot0 < kSlots; slot0 += kCodesAhead * share.step) {
      if (slot0 != share.first) ask_some(sources, share, slot0, plane);
      for_codec(plane.codec, [&]<int kBits>() { widen_some<kBits>(to, share, slot0); });
    }
  }

 private:
  __device__ void ask_some(const Source* sources, const LaneShare& share, int32_t slot0, const CodedPlane& plane) {
    codes_.ask(sources, kSlots, share, slot0, plane);
    const int32_t groups = plane.width / plane.group;
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      scales_[i][0] = scales_[i][1] = 0;  // of an empty slot zeros, and so are its values
      if (slot >= kSlots || sources[slot].page == nullptr) continue;
      const auto* scales = reinterpret_cast<const uint32_t*>(sources[slot].page + plane.scales) +
                           int64_t{sources[slot].in_page} * groups;
#pragma unroll
      for (int h = 0; h < kShareChunks; ++h) {
        scales_[i][h] = __ldg(scales + share.chunk[h] * kChunkValues / plane.group);
      }
    }
  }
  template <int kBits>
  __device__ void widen_some(uint32_t to, const LaneShare& share, int32_t slot0) const {
    using Word = CodeWord<kBits>;
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots) continue;
#pragma unroll
      for (int h = 0; h < kShareChunks; ++h) {
        const float2 s = scale_and_zero(scales_[i][h]);
        float values[kChunkValues];
#pragma unroll
        for (int j = 0; j < kChunkValues; ++j) {
          values[j] = __fmaf_rn(s.x * Word::factor(j), Word::code(codes_.words(i, h), j), s.y);
        }
        uint32_t pairs[kChunkValues / 2];
#pragma unroll
        for (int j = 0; j < kChunkValues / 2; ++j) pairs[j] = narrow_pair<T>(values[2 * j], values[2 * j + 1]);
        store_chunk(to + static_cast<uint32_t>(slot) * S::kRowBytes, slot, share.chunk[h], pairs);
      }
    }
  }

  CodesInFlight codes_;
  uint32_t scales_[kCodesAhead][kShareChunks] = {};
};

}  // namespace pare::cuda::decode
