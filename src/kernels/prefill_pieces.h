// How the tiles of a prefill are handed out to CPU threads: costliest first, and in pieces where one tile alone would
// keep a thread busy long after the others are done (the dense last rows of a prompt that is else read through a
// window). A piece is some of a tile's rows in the tile's own grid cell: its rows visit what they visited, so no bit
// depends on the pieces (contracts.md §4), only the rows read, because every piece reads its keys.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/attention.h"

namespace pare {

struct TilePiece {
  QTile tile;
  int64_t pairs = 0;  // query rows times keys that the tile's cell visits: an estimate, of order only
};

// Room that cut_tiles needs for `tiles` tiles.
constexpr int64_t tile_pieces_max(int64_t tiles, int threads) { return tiles + 2 * int64_t{threads}; }

// The plan's tiles in pieces, in descending order of pairs, for `threads` threads that take (piece, KV head) one at a
// time; a part of `room`. No piece has more than 5/8 of a thread's share of all pairs, unless it has too few rows to
// cut. One thread takes the plan as it is. Cost: a walk over the tiles' blocks.
std::span<const TilePiece> cut_tiles(const AttentionLayer& layer, const BlockPlan& plan, int threads,
                                     std::span<TilePiece> room);

// prefill_tile of one piece.
void prefill_piece(const AttentionKernels& kernels, const AttentionLayer& layer, const BlockPlan& plan,
                   const TilePiece& piece, int32_t g, std::byte* workspace, AttentionCounters* counters);

}  // namespace pare
