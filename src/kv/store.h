// KvStore: the paged memory behind attention. It owns pools, page tables, reference counts, prefix sharing
// and byte accounting, and knows reaches (which rows may still be seen) instead of methods.
//
// Life of a step:
//   reserve(seq, n) for each sequence      pages are taken; kResourceExhausted leaves everything as it was
//   append(seq, tokens, prompt_len)        the rows get their places; tokens feed the prefix index
//   fill_step(...)                         indices for the plans; execute_copies() before the first layer
//   commit_step(move)                      rows count; full pages become shareable; rows that leave the full zone move,
//                                          a group of pages at a time; pages out of reach die
//   (or abort_step(): the appended rows never were)
//
// Memory: all pools, tables and lists are allocated by create(); nothing after it allocates. Pools of this machine's
// memory are addresses until a page is first written. With a mid zone the two pools of a class together hold at most
// KvClassStats::bytes_limit in used and cached pages, and free pages go back to the system: a sequence is then never
// more than one group of moving pages above what it would hold densely. Pools of allocate_pool are memory from the
// start, and their limit is their size. Cost: O(new pages) a sequence and step. Page choice is deterministic: the same
// calls give the same pages. Threads: one caller at a time; the views may be read by any thread between fill_step and
// commit_step.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/arena.h"
#include "kv/mid_zone.h"
#include "pare/status.h"
#include "plan/kv_layout.h"
#include "plan/layer_map.h"
#include "plan/reach.h"
#include "plan/step.h"

namespace pare {

using SeqId = int32_t;

struct KvStoreConfig {
  const LayerMap* layers = nullptr;      // read by create() only
  int32_t n_kv_heads = 0, head_dim = 0;  // head_dim: multiple of 16
  Codec codec = Codec::F16;              // F32, F16 or Bf16
  Order order = Order::Tiles;
  // Where the pools lie: null: this machine's memory. Pages copied by execute_copies must be there.
  std::function<Expected<std::shared_ptr<std::byte>>(size_t bytes)> allocate_pool;

  int32_t max_sequences = 0;  // at once, forks included
  int32_t max_context = 0;    // rows of one sequence
  int32_t max_step_rows = 0;  // rows appended to one sequence in one step
  int64_t total_rows = 0;     // rows to hold over all sequences, shared ones once; 0 = max_sequences * max_context

  // Per class: what prompt rows still to come, and decode rows, may see. Rows out of both die; pages are
  // given back.
  Reach prompt_reach[kMaxClasses], decode_reach[kMaxClasses];

  // Rows of classes without a window of their own that leave the recent ones for pages of another form.
  std::optional<MidZone> mid;

  // Rows stay a little longer than the reaches say: so that the last rollback_rows can be truncated, and
  // because a prefill tile visits keys for its whole grid cell, of tile_rows positions.
  int32_t rollback_rows = 16;
  int32_t tile_rows = 64;

  // Prefix sharing: full pages are kept under (parent, 64 token ids, tag) after their sequence is gone.
  bool share_prefixes = true;
  uint64_t tag = 0;             // weights, canonical spec, codec
  int32_t share_tail_rows = 0;  // the last rows of a prompt that depend on its length: not shared, not adopted
  bool share_decoded = false;   // decode rows equal prefill rows bit for bit, so they are shared too
};

struct KvClassStats {
  int64_t pages = 0, pages_used = 0, pages_cached = 0, pages_free = 0;  // used + cached + free = pages
  int64_t page_bytes = 0;                                               // K and V of every layer and head of the class
  int64_t freed_dead = 0;  // pages given back by live sequences because no row can see them, since create()
  int64_t evicted = 0;     // cached pages reused, since create()
  int64_t rows_held = 0;   // rows of live sequences whose full pages are alive; shared ones counted by each holder
  int64_t mid_pages = 0, mid_pages_used = 0, mid_page_bytes = 0;  // of the mid zone
  int64_t moved = 0;                                              // pages moved to the mid zone, since create()
  int64_t bytes_held = 0, bytes_held_peak = 0;  // used and cached pages of both zones; the most at any time
  int64_t bytes_limit = 0;                      // bytes_held is never more
};

struct KvStats {
  int64_t bytes_k = 0, bytes_v = 0;  // pools of the full zone, as allocated
  // Pools of the mid zone, as allocated; estimated rows count with V, their log weights with the scales.
  int64_t bytes_mid_k = 0, bytes_mid_v = 0, bytes_mid_scales = 0;
  int64_t bytes_tables = 0;                          // page ids, metadata, prefix index, sequence records, formats
  int64_t bytes_used = 0;                            // bytes of used pages, both zones; shared pages once
  int64_t bytes_used_peak = 0, pages_used_peak = 0;  // the most at any time in a step, since create()
  int64_t bytes_per_row = 0;                         // K and V of one position in the full zone, every layer
  int64_t sequences = 0;
  int64_t rows = 0;                                             // sum of sequence lengths
  int64_t copies = 0, prefix_hit_rows = 0, prefix_lookups = 0;  // since create()
  int32_t n_classes = 0;
  KvClassStats classes[kMaxClasses];
};

class KvStore {
 public:
  // Errors: dimensions out of range; sizes that overflow or cannot be allocated (kResourceExhausted, with the
  // bytes).
  static Expected<std::unique_ptr<KvStore>> create(const KvStoreConfig& config);
  // Bytes that create would allocate, by the same arithmetic.
  static Expected<int64_t> planned_bytes(const KvStoreConfig& config);
  ~KvStore();

  // --- sequences ---
  // An empty sequence. `tag` joins the prefix key (image hashes, session); kResourceExhausted at
  // max_sequences.
  Expected<SeqId> create_sequence(uint64_t tag = 0);
  // Only on an empty sequence: takes over the longest shared prefix of `prompt` that leaves at least one
  // token to compute, in whole pages, such that every class holds what its end sees. Returns its rows (length
  // is now that).
  int32_t adopt_prefix(SeqId seq, std::span<const int32_t> prompt);
  // Another sequence with the same rows; pages are shared until one of them writes (a shared partly filled
  // page is copied in that sequence's next reserve). Not between reserve and commit of `seq`.
  Expected<SeqId> fork(SeqId seq);
  // Takes rows back. Legal iff min_length(seq) <= len <= length(seq), and not within a step of `seq`.
  Status truncate(SeqId seq, int32_t len);
  // Pages nobody else holds become free, or cached if they are in the prefix index. Also within a step
  // (cancel): the sequence must then be absent from the plans.
  void free_sequence(SeqId seq);

  int32_t length(SeqId seq) const;      // committed rows
  int32_t min_length(SeqId seq) const;  // shortest length truncate can restore: rows it needs are still there
  bool is_live(SeqId seq) const;

  // --- a step ---
  // Makes sure that `rows` more rows have pages, that the page they begin in is not shared, and that rows which move
  // after this step (prompt_len <= length + rows) will have pages to move to: those of the first group now, those of
  // the others at the latest when the groups before have given back theirs. All or nothing. kResourceExhausted: no page
  // is free (the caller pre-empts), kInvalidArgument: beyond max_context or max_step_rows.
  Status reserve(SeqId seq, int32_t rows, int32_t prompt_len = 0);
  // Rows past the prompt that may be appended in one step before others move: decode steps stay within it.
  int64_t rows_until_move(SeqId seq) const;
  // For tests: after `n` more reserves, one finds no page free.
  void deny_reserve_after(int64_t n);
  // For tests: pages of a group of moves; 0, the start: 1/64 of the pages that move together, rounded up.
  void set_move_pages(int32_t pages);
  // Appends the rows of `tokens` (reserved before). prompt_len: final length of the prompt they belong to or
  // follow.
  void append(SeqId seq, std::span<const int32_t> tokens, int32_t prompt_len);
  // `move` copies rows that leave the full zone, every layer and head; it is called once for each group of pages, when
  // everything of the step is computed, and has read and written them (or queued that, on a device) when it returns:
  // the group's full pages are then given back, and the next group may lie in their memory. Without it no byte moves.
  using MoveRows = std::function<void(std::span<const RowMove>)>;
  void commit_step(const MoveRows& move = {});
  void abort_step();

  // Base of the sequence's page list in page_ids for a class; entries of pages that died are kNoPage.
  int32_t page0(SeqId seq, int32_t cls) const;
  // dst[i] = page * kPageRows + row of the i-th row appended in this step.
  void fill_dst(SeqId seq, int32_t cls, std::span<int32_t> dst) const;
  // Copies that reserve asked for since the last commit.
  std::span<const PageCopy> copies() const;
  // Runs them on pools in host memory.
  void execute_copies();
  // The class's moved rows of a sequence, as the rows of this step see them.
  MidRows mid(SeqId seq, int32_t cls) const;

  const KvView& view() const;
  std::byte* const* pools() const;
  std::array<size_t, kMaxPools> pool_bytes() const;
  int32_t n_classes() const;
  KvStats stats() const;

  // Drops every cached page.
  void clear_cache();
  // Pages that reserve could hand out in this class: free and cached, within the limit.
  int64_t available_pages(int32_t cls) const;
  // Every count recomputed from the page lists; the first contradiction is kInternal. For tests and debug
  // builds.
  Status check() const;

 private:
  struct Impl;
  explicit KvStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

inline constexpr int32_t kNoPage = -1;

}  // namespace pare
