// How key and value rows lie in memory: the vocabulary shared by the store (which owns the bytes), the plans
// (which name rows by index) and the kernels (which read them). contracts.md §1.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pare {

inline constexpr int32_t kPageRows = 64;     // P: positions in a page of the full zone
inline constexpr int32_t kGranuleKeys = 16;  // keys in the smallest unit a prefill plan can name
inline constexpr int32_t kBlockKeys = 64;    // keys that share one max update in the merge order (§4)
inline constexpr int32_t kSpanRows = 256;    // rows folded into one partial result (§4)
inline constexpr int32_t kOctetSpans = 8;
inline constexpr int32_t kMaxClasses = 8;  // layer classes with equal row bookkeeping
inline constexpr int32_t kSumRows = 4;     // positions that an estimated row of zone sum stands for, at most
inline constexpr int32_t kSumPageRows = kPageRows / kSumRows;
inline constexpr uint64_t kNoPlane = ~uint64_t{0};
inline constexpr uint32_t kHostPageBit = 1u << 31;

enum class Codec : uint8_t { F32, F16, Bf16, I8, I4, I2 };

// Rows: [row][channel]. Tiles (CPU): K [row/16][channel][16], V [row][channel]; with Bf16 the AMX order
// K [row/16][channel/2][16][2], V [channel/16][row/2][16][2]. Rows that no plan names hold old bytes,
// possibly not finite: a kernel selects them away, it never multiplies them by zero.
enum class Order : uint8_t { Rows, Tiles };

// Placement of one (zone, kv_layer, KV head) inside a page. Fixed at start; the same on host and device.
// Address of a plane = pool.base + plane offset + page * page_bytes.
struct RowFormat {
  uint64_t k = kNoPlane, v = kNoPlane;    // byte offset of this head's K and V plane in a page's layout
  uint64_t ks = kNoPlane, vs = kNoPlane;  // quantization scales (below)
  uint64_t lw = kNoPlane;                 // fp32 log weights of estimated rows
  uint32_t page_bytes = 0;                // stride from a page to the next in this plane
  int32_t chan = -1;                      // into the channel table; -1 = all D in order
  uint16_t k_width = 0, v_width = 0;      // channels kept, multiples of 16; v_width 0: head absent, skipped
  uint16_t k_group = 0, v_group = 0;      // rows per K scale; channels per V scale
  Codec k_codec = Codec::F16, v_codec = Codec::F16;
  Order order = Order::Tiles;
  uint8_t pool = 0;
};
static_assert(sizeof(RowFormat) == 64);

// Quantized rows (I8, I4, I2; kv=quant, KIVI §3). Codes are unsigned, 0 to 2^bits - 1; a value is fma(scale, code,
// zero) in fp32 with fp16 scale and zero. Codes of a plane lie in the element order of its Order's F16 form (Tiles: K
// [row/16][channel][16], V [row][channel]), packed little-endian: element i occupies bits [i * bits mod 8, + bits) of
// byte i * bits / 8. Scale planes hold {fp16 scale, fp16 zero} pairs: ks [page_rows / k_group][k_width], one a channel
// and k_group rows; vs [page_rows][v_width / v_group], one a row and v_group channels. k_group and v_group are
// multiples of 16.
inline constexpr int32_t codec_bits(Codec codec) {
  switch (codec) {
    case Codec::F32: return 32;
    case Codec::F16:
    case Codec::Bf16: return 16;
    case Codec::I8: return 8;
    case Codec::I4: return 4;
    case Codec::I2: return 2;
  }
  return 0;
}
inline constexpr bool is_quantized(Codec codec) { return codec_bits(codec) < 16; }

struct Channel {  // a kept K channel: q'_c = alpha * q[id]
  uint16_t id;
  float alpha;
};

enum class Tier : uint8_t { kDevice, kMapped, kCached };

// A family of pages with one row format per (layer, head): full, mid, leaf, meta, sum. Kernels branch on the
// fields, never on which zone it is. Zone sum lies in the pages of zone mid, in the places of heads that have no rows
// there: zone row = position / kSumRows.
struct Zone {
  uint32_t page_rows = kPageRows;
  uint32_t span = kSpanRows;  // merge unit (§4) in rows or picks
  int32_t layer_pitch = 0;    // page_ids stride per layer; 0 = one list serves all layers
  uint8_t tier = 0, picked = 0, line = 0, flags = 0;
};
inline constexpr int kMaxZones = 8;
inline constexpr int kMaxPools = 2 * kMaxClasses;  // of class c: full zone c, mid zone kMaxClasses + c
enum : uint8_t { kZoneFull = 0, kZoneMid = 1, kZoneSum = 2, kZoneLeaf = 3, kZoneMeta = 4 };

// What a kernel needs to turn plan indices into addresses; built once, refreshed when pools move (never in a
// step).
struct KvView {
  const std::byte* pools[kMaxPools] = {};
  const RowFormat* formats = nullptr;  // [zone][kv_layer][K]
  const Zone* zones = nullptr;
  const Channel* channels = nullptr;
  const int32_t* page_ids = nullptr;  // flat; plans hold offsets into it
  int32_t n_kv_layers = 0, n_kv_heads = 0, head_dim = 0;

  const RowFormat& format(int zone, int kv_layer, int head) const {
    return formats[(static_cast<int64_t>(zone) * n_kv_layers + kv_layer) * n_kv_heads + head];
  }
};

}  // namespace pare
