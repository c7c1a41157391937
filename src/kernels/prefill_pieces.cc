#include "kernels/prefill_pieces.h"

#include <algorithm>
#include <bit>

#include "base/checked.h"
#include "kernels/attention_walk.h"

namespace pare {
namespace {

// Query rows (positions times heads of a group) below which widening a block's keys would weigh against using them.
constexpr int64_t kPieceRowsMin = 48;

int64_t keys_of(const BlockPlan& plan, const QTile& tile) {
  const KeyList& list = plan.lists[tile.list0];
  int32_t key_end = tile.pos_hi;
  if (plan.limit != nullptr) {
    for (int32_t i = 0; i < tile.rows; ++i) {
      const int32_t t = (tile.flags & kTileGathered) != 0 ? plan.row_ids[tile.row0 + i] : tile.row0 + i;
      key_end = std::max(key_end, plan.limit[t]);
    }
  }
  attn::KeyWalk walk(plan, list, tile, key_end);
  int64_t granules = 0;
  int32_t block;
  uint32_t visited;
  while (walk.next(&block, &visited)) granules += std::popcount(visited);
  return granules * kGranuleKeys + list.n_col;
}

}  // namespace

std::span<const TilePiece> cut_tiles(const AttentionLayer& layer, const BlockPlan& plan, int threads,
                                     std::span<TilePiece> room) {
  const int32_t n_tiles = *plan.n_tiles, kv_heads = layer.kv.n_kv_heads;
  const int32_t group = layer.n_heads / kv_heads;
  const int64_t spare = static_cast<int64_t>(room.size()) - n_tiles;
  int64_t total = 0;
  for (int32_t i = 0; i < n_tiles; ++i) {
    room[i] = {plan.tiles[i], 0};
    if (threads == 1) continue;
    room[i].pairs = plan.tiles[i].rows * keys_of(plan, plan.tiles[i]);
    total += room[i].pairs;
  }
  if (threads == 1) return room.first(n_tiles);

  const auto rows_min = static_cast<int32_t>(ceil_div<int64_t>(kPieceRowsMin, group));
  const int64_t most = std::max<int64_t>(1, total * kv_heads * 5 / (int64_t{threads} * 8));
  int64_t n = n_tiles;
  for (int32_t i = 0; i < n_tiles; ++i) {
    const QTile tile = room[i].tile;
    const int64_t keys = tile.rows == 0 ? 0 : room[i].pairs / tile.rows;
    const int64_t pieces =
        std::min({ceil_div(room[i].pairs, most), tile.rows / int64_t{rows_min}, spare - (n - n_tiles) + 1});
    for (int64_t k = 0; k < pieces; ++k) {
      const int64_t begin = tile.rows * k / pieces, end = tile.rows * (k + 1) / pieces;
      TilePiece& piece = room[k == 0 ? i : n++];
      piece.tile = tile;
      piece.tile.row0 = tile.row0 + static_cast<int32_t>(begin);
      piece.tile.rows = static_cast<uint16_t>(end - begin);
#ifdef PARE_FAULT_ATTENTION_PIECE_TAIL
      if (end < tile.rows && piece.tile.rows > 1) --piece.tile.rows;
#endif
      piece.pairs = piece.tile.rows * keys;
    }
  }
  const std::span<TilePiece> pieces = room.first(n);
  std::sort(pieces.begin(), pieces.end(), [](const TilePiece& a, const TilePiece& b) {
    return a.pairs != b.pairs ? a.pairs > b.pairs : a.tile.row0 < b.tile.row0;
  });
  return pieces;
}

void prefill_piece(const AttentionKernels& kernels, const AttentionLayer& layer, const BlockPlan& plan,
                   const TilePiece& piece, int32_t g, std::byte* workspace, AttentionCounters* counters) {
  constexpr int32_t kOne = 1;
  BlockPlan one = plan;
  one.tiles = &piece.tile;
  one.n_tiles = &kOne;
  kernels.prefill_tile(layer, one, 0, g, workspace, counters);
}

}  // namespace pare
