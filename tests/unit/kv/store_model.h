// A store together with what its rows must hold: every row is stamped with a hash of the tokens up to it, in
// every class, and read back through the page lists. Sharing, copies, truncation and freeing can then be
// checked by value.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "kv/store.h"
#include "kv/store_layout.h"

namespace pare::testing {

inline uint64_t stamp_after(uint64_t stamp, int32_t token) {
  stamp = (stamp ^ static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15ull;
  return stamp ^ (stamp >> 29);
}

// The row's first 8 bytes of K of the last head in the last layer of a class (Order::Rows, F32), which keeps every
// channel in zone mid.
inline std::byte* row_bytes(const KvStore& store, const LayerMap& map, int32_t cls, int32_t page_row,
                            int zone = kZoneFull) {
  const int32_t kv_layer = map.classes[cls].kv_layers.back();
  const RowFormat& f = store.view().format(zone, kv_layer, store.view().n_kv_heads - 1);
  return store.pools()[f.pool] + f.k + int64_t{page_row / kPageRows} * f.page_bytes +
         int64_t{page_row % kPageRows} * store.view().head_dim * 4;
}

class StoreModel {
 public:
  explicit StoreModel(const KvStoreConfig& c) : config(c), map(*c.layers) {
    auto made = KvStore::create(c);
    EXPECT_TRUE(made.ok()) << made.status().message();
    store = std::move(made).value();
  }

  SeqId create(std::vector<int32_t> prompt = {}, uint64_t tag = 0) {
    auto seq = store->create_sequence(tag);
    if (!seq.ok()) return -1;
    Seq& s = seqs[*seq];
    s = Seq();
    s.prompt = std::move(prompt);
    const int32_t rows = store->adopt_prefix(*seq, s.prompt);
    for (int32_t i = 0; i < rows; ++i) push(s, s.prompt[i]);
    return *seq;
  }

  // Appends without committing. False if pages ran out.
  bool stage(SeqId seq, std::vector<int32_t> tokens) {
    Seq& s = seqs[seq];
    const auto prompt_len = static_cast<int32_t>(s.prompt.size());
    if (!store->reserve(seq, static_cast<int32_t>(tokens.size()), prompt_len).ok()) return false;
    store->append(seq, tokens, prompt_len);
    s.staged = std::move(tokens);
    return true;
  }

  // What the step would do: copies, then every staged row is written; then commit.
  void run_step() {
    store->execute_copies();
    for (auto& [seq, s] : seqs) {
      std::vector<int32_t> dst(s.staged.size());
      for (int32_t c = 0; c < store->n_classes(); ++c) {
        if (!dst.empty()) store->fill_dst(seq, c, dst);
        uint64_t stamp = s.stamps.empty() ? 0 : s.stamps.back();
        for (size_t i = 0; i < dst.size(); ++i) {
          stamp = stamp_after(stamp, s.staged[i]);
          std::memcpy(row_bytes(*store, map, c, dst[i]), &stamp, sizeof(stamp));
        }
      }
    }
    for (auto& [seq, s] : seqs) {
      for (int32_t token : s.staged) push(s, token);
      s.staged.clear();
    }
    store->commit_step([&](std::span<const RowMove> group) { move(group); });
  }

  // Every page is still held by whom it is moved for, and its new place by nobody else.
  void move(std::span<const RowMove> group) {
    ++groups;
    for (const RowMove& m : group) {
      int32_t holders = 0, movers = 0;
      for (const auto& [seq, s] : seqs) {
        const int32_t* ids = store->view().page_ids;
        const int32_t pages = (config.max_context + kPageRows - 1) / kPageRows;
        for (int32_t i = 0; i < pages; ++i) {
          holders += ids[store->page0(seq, m.cls) + i] == m.src;
          movers += ids[store->mid(seq, m.cls).page0 + i] == m.dst;
        }
      }
      ASSERT_GE(holders, 1) << "page " << m.src << " was given back before its rows moved";
      ASSERT_EQ(movers, 1);
      for (int32_t row = m.row0; row < m.row0 + m.rows; ++row) {
        std::memcpy(row_bytes(*store, map, m.cls, m.dst * kPageRows + row, kZoneMid),
                    row_bytes(*store, map, m.cls, m.src * kPageRows + row), sizeof(uint64_t));
      }
    }
  }

  bool append(SeqId seq, std::vector<int32_t> tokens) {
    if (!stage(seq, std::move(tokens))) return false;
    run_step();
    return true;
  }

  SeqId fork(SeqId seq) {
    auto child = store->fork(seq);
    if (!child.ok()) return -1;
    seqs[*child] = seqs[seq];
    return *child;
  }

  void free(SeqId seq) {
    store->free_sequence(seq);
    seqs.erase(seq);
  }

  bool truncate(SeqId seq, int32_t len) {
    if (!store->truncate(seq, len).ok()) return false;
    seqs[seq].stamps.resize(len);
    return true;
  }

  // Every row that the next row of some sequence may see is there, with its stamp.
  void check() const {
    const Status status = store->check();
    ASSERT_TRUE(status.ok()) << status.message();
    for (const auto& [seq, s] : seqs) {
      const int32_t len = static_cast<int32_t>(s.stamps.size());
      ASSERT_EQ(store->length(seq), len);
      for (int32_t c = 0; c < store->n_classes(); ++c) {
        const bool in_prompt = len < static_cast<int32_t>(s.prompt.size());
        Reach reach = config.decode_reach[c];
        if (in_prompt) reach = join(reach, config.prompt_reach[c]);
        // A tile may visit keys for the whole cell that the next row is in.
        const int32_t from = len / config.tile_rows * config.tile_rows;
        for (int32_t row = 0; row < len; ++row) {
          if (!reach.sees(from, std::min(row, from))) continue;
          const MidRows mid = store->mid(seq, c);
          const bool moved = row < mid.moved && row >= config.mid->sink;
          const int32_t page0 = moved ? mid.page0 : store->page0(seq, c);
          const int32_t page = store->view().page_ids[page0 + row / kPageRows];
          ASSERT_GE(page, 0) << "sequence " << seq << " of " << len << " rows misses row " << row;
          uint64_t stamp = 0;
          const int32_t place = page * kPageRows + row % kPageRows;
          std::memcpy(&stamp, row_bytes(*store, map, c, place, moved ? kZoneMid : kZoneFull), sizeof(stamp));
          ASSERT_EQ(stamp, s.stamps[row]) << "sequence " << seq << " row " << row << " of " << len;
        }
      }
    }
  }

  struct Seq {
    std::vector<int32_t> prompt, staged;
    std::vector<uint64_t> stamps;
  };
  KvStoreConfig config;
  LayerMap map;
  std::unique_ptr<KvStore> store;
  std::map<SeqId, Seq> seqs;
  int64_t groups = 0;  // of moves

 private:
  static void push(Seq& s, int32_t token) {
    s.stamps.push_back(stamp_after(s.stamps.empty() ? 0 : s.stamps.back(), token));
  }
};

inline KvStoreConfig small_config(const LayerMap& map) {
  KvStoreConfig config;
  config.layers = &map;
  config.n_kv_heads = 2;
  config.head_dim = 16;
  config.codec = Codec::F32;
  config.order = Order::Rows;
  config.max_sequences = 6;
  config.max_context = 1500;
  config.max_step_rows = 300;
  for (size_t c = 0; c < map.classes.size(); ++c) {
    config.prompt_reach[c] = config.decode_reach[c] = within_layer_window({}, map.classes[c].window);
  }
  config.share_decoded = true;
  return config;
}

// Of two heads the first keeps nothing: moved rows take half of the bytes.
inline MidZone half_zone(int32_t n_layers, int32_t sink, int32_t recent, int32_t flush = kPageRows) {
  ChannelMask mask{.n_layers = n_layers, .n_kv_heads = 2, .head_dim = 16};
  mask.heads.resize(static_cast<size_t>(2 * n_layers));
  for (size_t i = 1; i < mask.heads.size(); i += 2) {
    for (uint16_t c = 0; c < 16; ++c) mask.heads[i].push_back({c, 1.0f});
  }
  MidZone zone{.sink = sink, .recent = recent, .flush = flush};
  zone.mask = std::make_shared<const ChannelMask>(std::move(mask));
  return zone;
}

inline LayerMap two_class_map(int32_t window) {
  const LayerInfo layers[] = {{window, 0, true}, {kNoWindow, 1, true}, {window, 2, true}};
  return make_layer_map(layers).value_or(LayerMap{});
}

inline std::vector<int32_t> tokens_of(int32_t n, int32_t seed = 0) {
  std::vector<int32_t> out(n);
  for (int32_t i = 0; i < n; ++i) out[i] = seed * 100000 + i;
  return out;
}

}  // namespace pare::testing
