#include "kernels/attention_walk.h"

#include <algorithm>

namespace pare::attn {
namespace {
constexpr int64_t kGranulesInBlock = kBlockKeys / kGranuleKeys;
int64_t granules_up(int64_t keys) { return (keys + kGranuleKeys - 1) / kGranuleKeys; }
}  // namespace

void RowBounds::add(const QueryRow& row) {
  min_limit = std::min(min_limit, row.limit);
  max_limit = std::max(max_limit, row.limit);
  min_pos = std::min(min_pos, row.pos);
  max_pos = std::max(max_pos, row.pos);
}

bool RowBounds::all_see(const Visibility& vis, int64_t j0, int64_t j1) const {
  if (j0 < vis.lo || j1 > min_limit) return false;
  return min_pos >= vis.dense_from || j1 <= vis.sink || static_cast<int64_t>(max_pos) - j0 < vis.window;
}

KeyWalk::KeyWalk(const BlockPlan& plan, const KeyList& list, const QTile& tile, int32_t key_end)
    : abs_(plan.ranges + list.abs0),
      rel_(plan.ranges + list.rel0),
      bits_(plan.bits + list.bit0),
      n_abs_(list.n_abs),
      n_rel_(list.n_rel),
      bit_keys_(list.bit_keys),
      pos_lo_(tile.pos_lo),
      pos_hi_(tile.pos_hi),
      granule_end_(granules_up(key_end)) {}

KeyWalk::Span KeyWalk::abs_span(int32_t i) const {
  const Range& r = abs_[i];
  if (r.hi <= r.lo) return {0, 0};
  return {r.lo / kGranuleKeys, std::min(granules_up(r.hi), granule_end_)};
}

KeyWalk::Span KeyWalk::rel_span(int32_t i) const {
  const Range& d = rel_[n_rel_ - 1 - i];
  const int64_t lo = std::max<int64_t>(0, pos_lo_ - d.hi + 1), hi = pos_hi_ - d.lo;
  if (d.hi <= d.lo || hi <= lo) return {0, 0};
  return {lo / kGranuleKeys, std::min(granules_up(hi), granule_end_)};
}

bool KeyWalk::bit(int64_t granule) const {
  const int64_t index = granule * kGranuleKeys / bit_keys_;
  return (bits_[index / 32] >> (index % 32)) & 1u;
}

bool KeyWalk::next(int32_t* block, uint32_t* granules) {
  const int64_t block_end = (granule_end_ + kGranulesInBlock - 1) / kGranulesInBlock;
  while (block_ < block_end) {
    while (i_abs_ < n_abs_ && abs_span(i_abs_).hi <= block_ * kGranulesInBlock) ++i_abs_;
    while (i_rel_ < n_rel_ && rel_span(i_rel_).hi <= block_ * kGranulesInBlock) ++i_rel_;
    int64_t at = block_end;
    if (i_abs_ < n_abs_) at = std::min(at, std::max(block_, abs_span(i_abs_).lo / kGranulesInBlock));
    if (i_rel_ < n_rel_) at = std::min(at, std::max(block_, rel_span(i_rel_).lo / kGranulesInBlock));
    if (bit_keys_ > 0) {
      for (int64_t b = block_; b < at; ++b) {
        if (bit(b * kGranulesInBlock)) at = b;
      }
    }
    if (at >= block_end) break;
    block_ = at + 1;

    const int64_t g0 = at * kGranulesInBlock, g1 = std::min(g0 + kGranulesInBlock, granule_end_);
    uint32_t mask = 0;
    const auto add = [&](Span s) {
      for (int64_t g = std::max(s.lo, g0); g < std::min(s.hi, g1); ++g) mask |= 1u << (g - g0);
    };
    for (int32_t i = i_abs_; i < n_abs_ && abs_span(i).lo < g1; ++i) add(abs_span(i));
    for (int32_t i = i_rel_; i < n_rel_ && rel_span(i).lo < g1; ++i) add(rel_span(i));
    if (bit_keys_ > 0 && bit(g0)) add({g0, g1});
    if (mask == 0) continue;
    *block = static_cast<int32_t>(at);
    *granules = mask;
    return true;
  }
  return false;
}

bool KeyWalk::visits(int32_t granule) const {
  if (granule >= granule_end_) return false;
  if (bit_keys_ > 0 && bit(granule)) return true;
  const auto covered = [&](int32_t n,
                           auto span) {  // spans ascend: the first that ends beyond the granule decides
    int32_t lo = 0, hi = n;
    while (lo < hi) {
      const int32_t mid = (lo + hi) / 2;
      if (span(mid).hi <= granule) {
        lo = mid + 1;
      } else {
        hi = mid;
      }
    }
    return lo < n && span(lo).lo <= granule;
  };
  return covered(n_abs_, [&](int32_t i) { return abs_span(i); }) ||
         covered(n_rel_, [&](int32_t i) { return rel_span(i); });
}

bool next_head_run(const AttentionLayer& layer, const QTile& tile, int32_t g, int32_t r, HeadRun* run) {
  const int32_t group = layer.n_heads / layer.kv.n_kv_heads;
  const int32_t heads = active_heads(layer, layer.seqs[tile.seq]);
  const auto named = [&](int32_t h) { return h >= tile.head0 && h < tile.head0 + tile.n_heads && h < heads; };
  const auto list_of = [&](int32_t h) {
#ifdef PARE_FAULT_ATTENTION_WRONG_HEAD_LIST
    h = h + 1 < tile.head0 + tile.n_heads ? h + 1 : tile.head0;
#endif
    return tile.list_heads == 0 ? tile.list0 : tile.list0 + (h - tile.head0) / tile.list_heads;
  };
  while (r < group && !named(g * layer.qa + r * layer.qb)) ++r;
  if (r >= group) return false;
  run->r_begin = r;
  run->list = list_of(g * layer.qa + r * layer.qb);
  while (r < group && named(g * layer.qa + r * layer.qb) && list_of(g * layer.qa + r * layer.qb) == run->list) ++r;
  run->r_end = r;
  return true;
}

int32_t collect_rows(const AttentionLayer& layer, const BlockPlan& plan, const QTile& tile, int32_t g,
                     const HeadRun& heads, QueryRow* rows, RowBounds* bounds) {
  const SeqStep& seq = layer.seqs[tile.seq];
  const int64_t claimed_words = (static_cast<int64_t>(layer.n_rows) + 31) / 32;
  const bool skip = (tile.flags & kTileSkipClaimed) != 0 && plan.claimed != nullptr;
  int32_t n = 0;
  for (int32_t i = 0; i < tile.rows; ++i) {
    const int32_t t = (tile.flags & kTileGathered) != 0 ? plan.row_ids[tile.row0 + i] : tile.row0 + i;
    for (int32_t r = heads.r_begin; r < heads.r_end; ++r) {
      const int32_t head = g * layer.qa + r * layer.qb;
      if (skip && ((plan.claimed[head * claimed_words + t / 32] >> (t % 32)) & 1u) != 0) continue;
      QueryRow row;
      row.t = t;
      row.head = head;
      row.pos = seq.pos + (t - seq.q_row);
      row.limit = plan.limit ? plan.limit[t] : row.pos + 1;
      bounds->add(row);
      rows[n++] = row;
    }
  }
  return n;
}

DecodeItem resolve_item(const AttentionLayer& layer, const SegmentPlan& plan, int32_t item, int32_t g) {
  int32_t lo = 0, hi = *plan.n_runs - 1;
  while (lo < hi) {
    const int32_t mid = (lo + hi + 1) / 2;
    if (plan.item_prefix[mid] <= item) {
      lo = mid;
    } else {
      hi = mid - 1;
    }
  }
  DecodeItem out;
  const Run& run = plan.runs[lo];
  out.run = &run;
  out.zone = &layer.kv.zones[run.zone];
  out.format = &layer.kv.format(run.zone, layer.kv_layer, g);
  out.pages = zone_pages(layer.kv, *out.zone, run.page0, layer.kv_layer);
  out.picked = out.zone->picked != 0;
  if (out.picked) {
    out.span_end = static_cast<int32_t>((run.pick_cap + static_cast<int64_t>(out.zone->span) - 1) / out.zone->span);
  } else {
    const int32_t span = static_cast<int32_t>(out.zone->span);
    out.span_begin = run.row0 / span;
    out.span_end = (run.row0 + run.rows + span - 1) / span;
  }
  out.unit_spans = spans_of_unit(run.item_spans);
  const int32_t per_item = units_of_item(run.item_spans);
  out.unit0 = out.span_begin / out.unit_spans;
  const int32_t last = (out.span_end + out.unit_spans - 1) / out.unit_spans;
  const int32_t begin = (out.unit0 / per_item + (item - plan.item_prefix[lo])) * per_item;
  out.unit_begin = std::max(begin, out.unit0);
  out.unit_end = std::min(begin + per_item, last);
  for (int32_t m = 0; m < run.n_members; ++m) out.n_query_rows += layer.seqs[plan.members[run.member0 + m].seq].n_q;
  return out;
}

int32_t collect_rows(const AttentionLayer& layer, const SegmentPlan& plan, const DecodeItem& item, int32_t g,
                     int32_t begin, int32_t end, QueryRow* rows, RowBounds* bounds) {
  const Run& run = *item.run;
  const int32_t kv_heads = layer.kv.n_kv_heads, group = layer.n_heads / kv_heads, d = layer.head_dim;
  const int32_t shift = run.pos0 < 0 ? 0 : run.row0 - run.pos0;  // position to zone row
  int32_t n = 0, first = 0;
  for (int32_t m = 0; m < run.n_members && first < end; ++m) {
    const Member& member = plan.members[run.member0 + m];
    const SeqStep& seq = layer.seqs[member.seq];
    const int32_t heads = active_heads(layer, seq);
    for (int32_t i = std::max(begin - first, 0); i < std::min(seq.n_q, end - first); ++i) {
      for (int32_t r = 0; r < group; ++r) {
        QueryRow row;
        row.t = seq.q_row + i;
        row.head = g * layer.qa + r * layer.qb;
        if (row.head >= heads) continue;
        row.pos = seq.pos + i + shift;
        row.limit = run.row0 + run.rows;
        if ((run.flags & kRunCausal) != 0) row.limit = std::min(row.limit, row.pos + 1);
        row.part = decode_part(plan, kv_heads, group, d, seq.n_q, member.part0, g, i * group + r);
        row.part_stride = static_cast<int64_t>(seq.n_q) * kv_heads * group * (d + 2);
        bounds->add(row);
        rows[n++] = row;
      }
    }
    first += seq.n_q;
  }
  return n;
}

Visibility run_visibility(const SegmentPlan& plan, const Run& run) {
  Visibility vis;
  vis.lo = run.row0;
  if ((run.flags & kRunWindow) != 0) {
    vis.window = plan.window;
    vis.sink = run.sink;
  }
  return vis;
}

void fold_sequence(const AttentionLayer& layer, const SegmentPlan& plan, int32_t seq_index, int32_t g, MergeState merge,
                   FinishState finish) {
  const SeqStep& seq = layer.seqs[seq_index];
  const int32_t kv_heads = layer.kv.n_kv_heads, group = layer.n_heads / kv_heads, d = layer.head_dim;
  alignas(64) float states[3][kMaxStateDim + 2];
  float *octet = states[0], *section = states[1], *total = states[2];
  const auto clear = [](float* state) {
    state[0] = -__builtin_inff();
    state[1] = 0.0f;
  };
  for (int32_t i = 0; i < seq.n_q; ++i) {
    for (int32_t r = 0; r < group; ++r) {
      const int32_t head = g * layer.qa + r * layer.qb;
      if (head >= active_heads(layer, seq)) continue;
      clear(octet);
      clear(section);
      clear(total);
      int64_t octet_at = -1;
      for (int32_t f = 0; f < seq.n_folds; ++f) {
        const Fold& fold = plan.folds[seq.fold0 + f];
        if (f > 0 && fold.section != plan.folds[seq.fold0 + f - 1].section) {
          merge(section, octet, d);
          merge(total, section, d);
          clear(octet);
          clear(section);
          octet_at = -1;
        }
        for (int32_t p = 0; p < fold.n_parts; ++p) {
          const float* part = decode_part(plan, kv_heads, group, d, seq.n_q,
                                          fold.part0 + static_cast<int64_t>(p) * seq.n_q, g, i * group + r);
          const int64_t at = fold.unit == 1 ? (fold.span0 + p) / kOctetSpans : fold.span0 / kOctetSpans + p;
          if (at != octet_at) {
            merge(section, octet, d);
            clear(octet);
            octet_at = at;
          }
          merge(octet, part, d);
        }
      }
      merge(section, octet, d);
      merge(total, section, d);
      finish(total, layer.out + (static_cast<int64_t>(seq.q_row + i) * layer.n_heads + head) * d, d);
    }
  }
}

}  // namespace pare::attn
