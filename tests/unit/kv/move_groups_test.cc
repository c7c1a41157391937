// Rows that move by groups of pages: what a sequence holds at most, what is refused, what others see meanwhile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "store_model.h"

namespace pare::testing {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kPrompt = 64 * 60;

KvStoreConfig config_of(const LayerMap& map, int32_t rows, bool moves = true) {
  KvStoreConfig config = small_config(map);
  config.max_context = kPrompt + 64;
  config.max_step_rows = 1000;
  config.max_sequences = 3;
  config.total_rows = rows;
  config.share_decoded = false;
  if (moves) config.mid = half_zone(1, 4, 64);
  return config;
}

std::vector<int32_t> part(const std::vector<int32_t>& tokens, int32_t begin, int32_t end) {
  return {tokens.begin() + begin, tokens.begin() + end};
}

// Reads a prompt in chunks.
SeqId read(StoreModel& m, const std::vector<int32_t>& prompt) {
  const SeqId seq = m.create(prompt);
  const auto end = static_cast<int32_t>(prompt.size());
  for (int32_t at = m.store->length(seq); at < end; at = m.store->length(seq)) {
    EXPECT_TRUE(m.append(seq, part(prompt, at, std::min(at + 1000, end))));
  }
  return seq;
}

int64_t resident_bytes(const KvStore& store) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  int64_t n = 0;
  for (size_t pool = 0; pool < kMaxPools; ++pool) {
    std::vector<unsigned char> there(store.pool_bytes()[pool] / page);
    if (there.empty()) continue;
    EXPECT_EQ(mincore(store.pools()[pool], there.size() * page, there.data()), 0);
    for (const unsigned char c : there) n += c & 1;
  }
  return n * static_cast<int64_t>(page);
}

// Every byte of a page in the one layer of uniform_layer_map(1).
void fill_page(const KvStore& store, int zone, int32_t page) {
  const KvView& view = store.view();
  for (int32_t head = 0; head < view.n_kv_heads; ++head) {
    const RowFormat& f = view.format(zone, 0, head);
    if (f.v_width == 0) continue;
    for (const uint64_t plane : {f.k, f.v}) {
      std::memset(store.pools()[f.pool] + plane + int64_t{page} * f.page_bytes, 1, kPageRows * 16 * sizeof(float));
    }
  }
}

// Also in memory that the system lends, not only in pages that are counted.
TEST(MoveGroups, OneSequenceIsNeverMuchAboveDense) {
  const LayerMap map = uniform_layer_map(1);
  for (const bool share : {false, true}) {
    const auto run = [&](bool moves, int64_t* resident) {
      KvStoreConfig config = config_of(map, kPrompt + 64, moves);
      config.share_prefixes = share;
      auto store = std::move(KvStore::create(config)).value();
      const std::vector<int32_t> prompt = tokens_of(kPrompt);
      const SeqId seq = store->create_sequence().value();
      for (int32_t at = 0; at < kPrompt; at += 960) {
        EXPECT_TRUE(store->reserve(seq, 960, kPrompt).ok());
        store->append(seq, part(prompt, at, at + 960), kPrompt);
        std::vector<int32_t> dst(960);
        store->fill_dst(seq, 0, dst);
        for (int32_t i = 0; i < 960; i += kPageRows) fill_page(*store, kZoneFull, dst[i] / kPageRows);
        store->commit_step([&](std::span<const RowMove> group) {
          for (const RowMove& m : group) fill_page(*store, kZoneMid, m.dst);
          *resident = std::max(*resident, resident_bytes(*store));
        });
        *resident = std::max(*resident, resident_bytes(*store));
      }
      return store->stats();
    };
    int64_t dense_resident = 0, resident = 0;
    const KvStats dense = run(false, &dense_resident), pruned = run(true, &resident);
    ASSERT_EQ(dense_resident, dense.bytes_used_peak);
    EXPECT_EQ(pruned.classes[0].moved, 59);
    EXPECT_GT(pruned.bytes_used_peak, dense.bytes_used_peak);
    EXPECT_LE(pruned.bytes_used_peak, dense.bytes_used_peak * 103 / 100);
    // Cached pages fill what the other sequences do not use.
    EXPECT_LE(resident, share ? pruned.classes[0].bytes_limit : dense.bytes_used_peak * 103 / 100);
    EXPECT_EQ(pruned.bytes_used, 2 * dense.classes[0].page_bytes + 59 * dense.classes[0].page_bytes / 2);
  }
}

// The size of groups is seen in the peak alone.
TEST(MoveGroups, AnySizeMovesTheSameRows) {
  const LayerMap map = uniform_layer_map(1);
  for (const int32_t sink : {0, 4, 64, 70, 300}) {
    for (const int32_t size : {0, 1, 2, 7, 59, 1000}) {
      SCOPED_TRACE("sink " + std::to_string(sink) + ", groups of " + std::to_string(size));
      KvStoreConfig config = config_of(map, 3 * kPrompt);
      config.mid = half_zone(1, sink, 64);
      StoreModel m(config);
      m.store->set_move_pages(size);
      const SeqId seq = read(m, tokens_of(kPrompt));
      m.check();
      const int32_t pages = 59 - sink / 64, at_once = size == 0 ? 1 : std::min(size, pages);
      EXPECT_EQ(m.store->mid(seq, 0).moved, kPrompt - 64);
      EXPECT_EQ(m.store->stats().classes[0].moved, pages);
      EXPECT_EQ(m.groups, (pages + at_once - 1) / at_once);
      const KvClassStats stats = m.store->stats().classes[0];
      EXPECT_EQ(stats.pages_used, 60 - 59 + (sink + 63) / 64);
      EXPECT_EQ(m.store->stats().bytes_used_peak, 60 * stats.page_bytes + at_once * stats.mid_page_bytes);
      // Rows that an answer moves later join them.
      for (int i = 0; i < 64; ++i) ASSERT_TRUE(m.append(seq, {1}));
      m.check();
      EXPECT_EQ(m.store->mid(seq, 0).moved, kPrompt);
    }
  }
}

std::string held(const KvStore& store) {
  const KvClassStats c = store.stats().classes[0];
  return std::to_string(c.pages_used) + " " + std::to_string(c.pages_cached) + " " + std::to_string(c.mid_pages_used) +
         " " + std::to_string(c.moved) + " " + std::to_string(c.evicted);
}

TEST(MoveGroups, ReserveRefusesWhatTheFirstGroupHasNoRoomFor) {
  const LayerMap map = uniform_layer_map(1);
  KvStoreConfig config = config_of(map, kPrompt);
  config.share_prefixes = false;
  config.mid = half_zone(1, 64, 64);
  StoreModel m(config);
  const std::vector<int32_t> prompt = tokens_of(kPrompt - 64);
  const SeqId seq = m.create(prompt);
  for (int32_t at = 0; at < kPrompt - 128; at += 928) ASSERT_TRUE(m.append(seq, part(prompt, at, at + 928)));
  // Another sequence takes what is left but one page, and the room for a group of one page is not enough for two.
  const SeqId other = m.create(tokens_of(kPrompt));
  const KvClassStats stats = m.store->stats().classes[0];
  ASSERT_EQ((stats.bytes_limit - stats.bytes_held) / stats.page_bytes, 5);
  ASSERT_TRUE(m.append(other, tokens_of(4 * 64)));
  m.store->set_move_pages(2);
  const std::string before = held(*m.store);
  const Status refused = m.store->reserve(seq, 64, kPrompt - 64);
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("bytes needed"));
  EXPECT_EQ(held(*m.store), before);
  m.check();
  // A chunk that ends no prompt needs no such room.
  EXPECT_TRUE(m.store->reserve(seq, 64, kPrompt).ok());
  EXPECT_FALSE(m.store->reserve(seq, 64, kPrompt - 64).ok());
  // Nor is a group of one page too much.
  m.store->set_move_pages(1);
  ASSERT_TRUE(m.append(seq, part(prompt, kPrompt - 128, kPrompt - 64)));
  EXPECT_EQ(m.groups, 57);
  m.check();
}

// A prompt of 59 pages of which the last is staged: 58 are to move.
struct LastChunk {
  LastChunk(int32_t rows, const LayerMap& map) : m(config_of(map, rows)), prompt(tokens_of(59 * 64)) {
    seq = m.create(prompt);
    for (int32_t at = 0; at < 58 * 64; at += 928) EXPECT_TRUE(m.append(seq, part(prompt, at, at + 928)));
    EXPECT_TRUE(m.stage(seq, part(prompt, 58 * 64, 59 * 64)));
  }
  StoreModel m;
  std::vector<int32_t> prompt;
  SeqId seq;
};

// Whoever takes over a prompt's pages keeps them whole: the moves that were promised room find none freed.
TEST(MoveGroups, PagesAdoptedMeanwhileAreNotGivenBack) {
  const LayerMap map = uniform_layer_map(1);
  {
    LastChunk tight(60 * 64, map);
    StoreModel& m = tight.m;
    const SeqId early = m.create(tight.prompt);
    EXPECT_EQ(m.store->length(early), 0);
    m.check();
    m.run_step();
    m.check();
    EXPECT_EQ(m.store->mid(tight.seq, 0).moved, 58 * 64);
    // What was evicted for the pruned rows is the end of the prompt.
    EXPECT_GT(m.store->stats().classes[0].evicted, 20);
    const SeqId late = m.create(tight.prompt);
    EXPECT_GE(m.store->length(late), 30 * 64);
    m.check();
    EXPECT_LE(m.store->stats().classes[0].bytes_held_peak, m.store->stats().classes[0].bytes_limit);
  }
  LastChunk wide(180 * 64, map);
  StoreModel& m = wide.m;
  const SeqId early = m.create(wide.prompt);
  EXPECT_EQ(m.store->length(early), 58 * 64);
  m.run_step();
  m.check();
  EXPECT_EQ(m.store->stats().classes[0].pages_used, 59);
  EXPECT_EQ(m.store->stats().classes[0].mid_pages_used, 58);
  ASSERT_TRUE(m.append(early, part(wide.prompt, 58 * 64, 59 * 64)));
  m.check();
  EXPECT_EQ(m.store->stats().classes[0].pages_used, 3) << "the sinks once, two pages of recent rows";
  EXPECT_EQ(m.store->stats().classes[0].mid_pages_used, 2 * 58);
}

TEST(MoveGroups, CancelledPreemptedAndAbortedStepsMoveNothing) {
  const LayerMap map = uniform_layer_map(1);
  for (const int fate : {0, 1, 2}) {
    SCOPED_TRACE(fate);
    LastChunk last(60 * 64, map);
    StoreModel& m = last.m;
    if (fate == 0) {
      m.free(last.seq);
    } else {
      m.store->abort_step();
      m.seqs[last.seq].staged.clear();
      // Pre-empted between reserve and append.
      if (fate == 1) {
        ASSERT_TRUE(m.store->reserve(last.seq, 64, 59 * 64).ok());
        m.free(last.seq);
      }
    }
    m.check();
    m.run_step();
    m.check();
    EXPECT_EQ(m.groups, 0);
    EXPECT_EQ(m.store->stats().classes[0].mid_pages_used, 0);
    // Nothing is promised any more, and a prompt that begins again takes its rows from the index.
    if (fate < 2) last.seq = m.create(last.prompt);
    EXPECT_EQ(m.store->length(last.seq), 58 * 64);
    ASSERT_TRUE(m.append(last.seq, part(last.prompt, 58 * 64, 59 * 64)));
    EXPECT_EQ(m.groups, 58);
    m.check();
  }
}

// Forks that share whole rows until the gate: the first to pass it gives nothing back, the last does. Where that does
// not fit, the youngest has to go.
TEST(MoveGroups, ForksMoveSharedPagesOneByOne) {
  const LayerMap map = uniform_layer_map(1);
  for (const int32_t pages : {40, 15}) {  // room for copies of each; for those of one
    KvStoreConfig config = config_of(map, pages * 64);
    config.mid->min_tokens = 15 * 64 - 8;
    StoreModel m(config);
    const SeqId seq = read(m, tokens_of(14 * 64));
    std::vector<SeqId> all = {seq, m.fork(seq), m.fork(seq)};
    for (int i = 0; i < 60; ++i) {
      for (size_t f = 0; f < all.size(); ++f) {
        while (f < all.size() && !m.stage(all[f], {i, static_cast<int32_t>(f)})) {
          m.free(all.back());
          all.pop_back();
        }
      }
      m.check();
      m.run_step();
      m.check();
    }
    const KvClassStats stats = m.store->stats().classes[0];
    EXPECT_LE(stats.bytes_held_peak, stats.bytes_limit);
    EXPECT_EQ(all.size(), pages == 40 ? 3u : 1u);
    EXPECT_EQ(stats.moved, static_cast<int64_t>(all.size()) * 14);
  }
}

}  // namespace
}  // namespace pare::testing
