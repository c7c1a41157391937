// MidZone: what a KV pipeline makes of rows that have left the recent ones (kvcache.md: full ring, then mid): from then
// on they are stored with fewer channels (LeanK), with fewer bits (KIVI), or both, in pages of their own.
//
// Rows move `flush` at a time at fixed positions: before a row at position p, rows [sink, moved_before(p)) lie in the
// mid zone and all others in the full zone. So what a row reads follows from its position and the prompt's length
// alone, not from batch mates, drafts or pre-emption. Nothing moves while the prompt is read, which needs whole rows,
// nor before a row at a position below `min_tokens`, where the policy would not pay: a sequence that grows past it
// moves at once, at the end of that step, all that would have moved until then.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "pare/status.h"
#include "plan/channel_mask.h"
#include "plan/kv_layout.h"

namespace pare {

struct MidZone {
  int32_t sink = 0;                         // first rows, which never move
  int32_t recent = 1;                       // a row sees at least this many rows before it whole
  int32_t flush = 0;                        // rows that move at once; a multiple of kPageRows
  int32_t min_tokens = 0;                   // shorter sequences keep every row whole
  std::shared_ptr<const ChannelMask> mask;  // null: every channel stays
  // Heads that keep no channel: their rows are dropped, or (LeanK's training) all of them have logit 0. Since equal
  // logits average the values, kSumRows positions are then one estimated row of zone sum: the mean of their values,
  // with the logarithm of their number as its logit. Values in the full zone's codec, whatever v_bits says.
  bool keep_means = false;
  int32_t k_bits = 16, v_bits = 16;    // 16: as in the full zone; 8, 4, 2: quantized
  int32_t k_group = 32, v_group = 32;  // rows of a K scale, channels of a V scale; used when quantized

  // End of the moved rows when a row at position `pos` reads; 0: none has moved.
  int32_t moved_before(int32_t pos) const {
#ifndef PARE_FAULT_KV_GATE_IGNORED
    if (pos < min_tokens) return 0;
#endif
    return moved_without_gate(pos);
  }
  // Whether rows are whole at `pos` only because of min_tokens.
  bool held_back(int32_t pos) const { return moved_before(pos) < moved_without_gate(pos); }
  // The first position after `pos` before which more rows move.
  int64_t next_move(int32_t pos) const {
    int64_t end = pos < recent || pos < min_tokens ? 0 : int64_t{(pos - recent) / flush} * flush;
    do end += flush;
    while (end <= sink);
    return std::max<int64_t>(end + recent, min_tokens);
  }
  // Rows from `sink` on that the full zone holds at most, beside those of the step that moves some.
  int64_t most_whole_rows() const { return std::max<int64_t>(int64_t{recent} + flush, min_tokens); }
  // Whether some head leaves estimated rows: where its rows have moved up to `moved`, these are rows [sink / kSumRows,
  // moved / kSumRows) of zone sum, whose pages are the mid zone's.
  bool has_means() const;
  // Pages [first_page, moved / kPageRows) of a mid page list are used: zone row = position.
  int32_t first_page() const { return sink / kPageRows; }

  Codec k_codec(Codec full) const { return codec_of(k_bits, full); }
  Codec v_codec(Codec full) const { return codec_of(v_bits, full); }

 private:
  int32_t moved_without_gate(int32_t pos) const {
    if (pos < recent) return 0;
    const int32_t end = (pos - recent) / flush * flush;
    return end > sink ? end : 0;
  }
  static Codec codec_of(int32_t bits, Codec full) {
    return bits == 8 ? Codec::I8 : bits == 4 ? Codec::I4 : bits == 2 ? Codec::I2 : full;
  }
};

// Widens the zone's windows to what one more stage asks for: the larger sink, recent and min_tokens, a flush that both
// divide. A zone with flush 0 has none yet. Errors name the parameter.
Status join_windows(MidZone* mid, int64_t sink, int64_t recent, int64_t flush, int64_t min_tokens);

// Where a decoding sequence's moved rows lie.
struct MidRows {
  int32_t page0 = 0;  // its mid page list in KvView::page_ids
  int32_t moved = 0;  // rows [sink, moved) lie there; 0: none
};

}  // namespace pare
