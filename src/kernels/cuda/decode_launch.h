// Between decode_attention, which reads options and limits, and the kernels, which are compiled by element type.
#pragma once

#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/row_ops.h"

namespace pare::cuda::decode {

inline constexpr float kLog2e = 1.44269504088896340736f;

// Whole octets of spans are merged on the way where a sequence has more partials than this in all: each by the block
// that delivers its last one. Fewer are folded at once, which spares a round of arrivals.
inline constexpr int32_t kFoldAtOnce = 32;
// Spans that must have arrived before their octet is merged.
#ifdef PARE_FAULT_DECODE_OCTET_EARLY
inline constexpr int32_t kOctetArrivals = kOctetSpans - 1;
#else
inline constexpr int32_t kOctetArrivals = kOctetSpans;
#endif

// Whether rows of this step are asked for like older ones, and no job is direct, which would have them all the same.
#ifdef PARE_FAULT_DECODE_NEW_ROWS_EARLY
inline constexpr bool kNewRowsEarly = true;
#else
inline constexpr bool kNewRowsEarly = false;
#endif

struct FirstJob;  // decode_resolve.cuh

struct Params {
  AttentionLayer layer;
  SegmentPlan plan;
  HeadsArgs heads;             // rows 0: none; else layer.q is heads.q_out
  int32_t group;               // R
  int32_t stages;              // of the K ring and of the V ring; chosen by the launch
  bool rows_settled;           // DecodeOptions
  bool rehearsed;              // Attend::run
  int32_t query_terms;         // 1, or 2: queries may be scaled by channel, which takes 16 bits twice
  float factor;                // what a dot product is multiplied by: attn::query_factor
  const FirstJob* first_jobs;  // [blocks], or null
  float cap;                   // softcap in log2 units; 0: none
  // Of the ring of staged tiles, chosen by the launch: places, and bytes of codes in one; 0: none are staged.
  int32_t places;
  uint32_t place_bytes;
};

// Which rows a kernel is made for: all of a width and of the queries' type; of widths that differ by KV head and zone,
// so that work is dealt by its bytes; or quantized ones too.
enum class Rows : uint8_t { kPlain, kPruned, kCoded };

// Launches the kernel whose passes take `rows` query rows, or as many as a pass takes at most.
Status launch_bf16(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream);
Status launch_f16(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream);

Status launch_bf16_pruned(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream);
Status launch_f16_pruned(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream);
Status launch_bf16_coded(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream);
Status launch_f16_coded(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream);

}  // namespace pare::cuda::decode
