#include "kv/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/rng.h"
#include "kv/page_pool.h"
#include "kv/prefix_index.h"
#include "store_model.h"

namespace pare::testing {
namespace {

using ::testing::HasSubstr;

TEST(KvStore, BytesAreTheFormula) {
  const LayerMap map = two_class_map(100);
  KvStoreConfig config = small_config(map);
  config.codec = Codec::F16;
  auto store = KvStore::create(config);
  ASSERT_TRUE(store.ok());
  const KvStats stats = (*store)->stats();
  // 2 heads x 16 channels x 2 bytes x (K and V) x layers.
  EXPECT_EQ(stats.bytes_per_row, 2 * 16 * 2 * 2 * 3);
  EXPECT_EQ(stats.classes[1].page_bytes, 64 * 2 * 16 * 2 * 2);
  EXPECT_EQ(stats.classes[1].pages, 6 * 24);
  EXPECT_LT(stats.classes[0].pages, stats.classes[1].pages) << "a windowed class needs fewer pages";
  EXPECT_EQ(stats.bytes_k + stats.bytes_v, stats.classes[0].pages * stats.classes[0].page_bytes +
                                               stats.classes[1].pages * stats.classes[1].page_bytes);
  EXPECT_EQ(KvStore::planned_bytes(config).value_or(0), stats.bytes_k + stats.bytes_v + stats.bytes_tables);
  EXPECT_EQ(stats.bytes_used, 0);
  EXPECT_EQ((*store)->view().format(kZoneFull, 1, 1).v - (*store)->view().format(kZoneFull, 1, 1).k, 64u * 16 * 2);
}

TEST(KvStore, BadConfigurationsAreNamed) {
  const LayerMap map = uniform_layer_map(2);
  const auto message = [&](auto change) {
    KvStoreConfig config = small_config(map);
    change(config);
    auto made = KvStore::create(config);
    return made.ok() ? std::string() : std::string(made.status().message());
  };
  EXPECT_THAT(message([](KvStoreConfig& c) { c.head_dim = 24; }), HasSubstr("24 is no multiple of 16"));
  EXPECT_THAT(message([](KvStoreConfig& c) { c.max_sequences = 0; }), HasSubstr("sequences 0 outside"));
  EXPECT_THAT(message([](KvStoreConfig& c) { c.codec = Codec::I4; }), HasSubstr("F32, F16 or Bf16"));
  EXPECT_THAT(message([](KvStoreConfig& c) { c.decode_reach[0] = {0, 0}; }), HasSubstr("window 0 outside"));
  EXPECT_THAT(message([](KvStoreConfig& c) { c.max_context = 1 << 24, c.max_sequences = 4096; }),
              HasSubstr("pages in a class"));
  EXPECT_THAT(message([](KvStoreConfig& c) { c.layers = nullptr; }), HasSubstr("no layers"));
}

TEST(KvStore, AppendFillsPagesInOrder) {
  const LayerMap map = uniform_layer_map(1);
  StoreModel m(small_config(map));
  const SeqId seq = m.create(tokens_of(70));
  ASSERT_TRUE(m.stage(seq, tokens_of(70)));
  std::vector<int32_t> dst(70);
  m.store->fill_dst(seq, 0, dst);
  for (int i = 0; i < 70; ++i) EXPECT_EQ(dst[i], i) << "fresh pages come in ascending order";
  m.run_step();
  m.check();
  EXPECT_EQ(m.store->stats().classes[0].pages_used, 2);
  EXPECT_EQ(m.store->stats().bytes_used, 2 * m.store->stats().classes[0].page_bytes);
}

TEST(KvStore, ReserveIsAllOrNothing) {
  const LayerMap map = two_class_map(100);
  KvStoreConfig config = small_config(map);
  config.total_rows = 128;
  config.max_sequences = 2;  // 2 + 2 pages
  StoreModel m(config);
  const SeqId a = m.create();
  ASSERT_TRUE(m.append(a, tokens_of(130)));
  const SeqId b = m.create();
  const KvStats before = m.store->stats();
  const Status status = m.store->reserve(b, 200);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("KV pages: 4 needed, 1 of 4 available"));
  EXPECT_EQ(m.store->stats().classes[0].pages_used, before.classes[0].pages_used);
  EXPECT_EQ(m.store->reserve(b, 1501).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(m.store->reserve(b, 64).ok());
  m.free(b);
  m.check();
  EXPECT_EQ(m.store->stats().classes[0].pages_used, before.classes[0].pages_used);
}

TEST(KvStore, ForkSharesUntilOneWrites) {
  const LayerMap map = uniform_layer_map(2);
  StoreModel m(small_config(map));
  const SeqId a = m.create();
  ASSERT_TRUE(m.append(a, tokens_of(100)));
  std::vector<SeqId> children;
  for (int i = 0; i < 5; ++i) children.push_back(m.fork(a));
  m.check();
  EXPECT_EQ(m.store->stats().classes[0].pages_used, 2) << "six sequences hold the rows once";
  EXPECT_EQ(m.store->fork(a).status().code(), StatusCode::kResourceExhausted);
  int32_t token = 7;
  for (SeqId child : children) ASSERT_TRUE(m.append(child, {token++}));
  ASSERT_TRUE(m.append(a, {999}));
  m.check();
  // The last holder of the partial page writes in place.
  EXPECT_EQ(m.store->stats().copies, 5);
  EXPECT_EQ(m.store->stats().classes[0].pages_used, 7);
  for (SeqId child : children) m.free(child);
  m.free(a);
  EXPECT_EQ(m.store->stats().classes[0].pages_used, 0);
  m.check();
}

TEST(KvStore, PrefixesAreFoundAfterTheirSequenceIsGone) {
  const LayerMap map = two_class_map(100);
  StoreModel m(small_config(map));
  const std::vector<int32_t> prompt = tokens_of(400);
  SeqId seq = m.create(prompt);
  EXPECT_EQ(m.store->length(seq), 0);
  ASSERT_TRUE(m.append(seq, {prompt.begin(), prompt.begin() + 300}));
  ASSERT_TRUE(m.append(seq, {prompt.begin() + 300, prompt.end()}));
  m.free(seq);
  m.check();
  EXPECT_EQ(m.store->stats().classes[0].pages_used, 0);
  EXPECT_GT(m.store->stats().classes[0].pages_cached, 0);
  seq = m.create(prompt);
  EXPECT_EQ(m.store->length(seq), 384);
  m.check();
  const SeqId other_tag = m.create(prompt, 5);
  EXPECT_EQ(m.store->length(other_tag), 0);
  // Exactly six pages: one token must be left to compute.
  const SeqId exact = m.create({prompt.begin(), prompt.begin() + 384});
  EXPECT_EQ(m.store->length(exact), 320);
  std::vector<int32_t> differs = prompt;
  differs[130] = -1;
  const SeqId fourth = m.create(differs);
  EXPECT_EQ(m.store->length(fourth), 128);
  m.check();
  EXPECT_EQ(m.store->stats().prefix_hit_rows, 384 + 320 + 128);
  for (SeqId s : {seq, other_tag, exact, fourth}) m.free(s);
  m.store->clear_cache();
  EXPECT_EQ(m.store->length(m.create(prompt)), 0);
  m.check();
}

TEST(KvStore, AStepThatDidNotRunSharesNothing) {
  const LayerMap map = uniform_layer_map(1);
  StoreModel m(small_config(map));
  const std::vector<int32_t> prompt = tokens_of(200);
  const SeqId a = m.create(prompt);
  ASSERT_TRUE(m.stage(a, prompt));
  const SeqId b = m.create(prompt);
  EXPECT_EQ(m.store->length(b), 0) << "the rows are not written yet";
  m.store->abort_step();
  m.seqs[a].staged.clear();
  m.check();
  const SeqId c = m.create(prompt);
  EXPECT_EQ(m.store->length(c), 0);
  ASSERT_TRUE(m.append(a, prompt));
  EXPECT_EQ(m.store->length(m.create(prompt)), 192);
  m.check();
}

TEST(KvStore, OnlyPromptRowsAreSharedWhenDecodeDiffers) {
  const LayerMap map = uniform_layer_map(1);
  KvStoreConfig config = small_config(map);
  config.share_decoded = false;
  config.share_tail_rows = 10;
  StoreModel m(config);
  const std::vector<int32_t> prompt = tokens_of(137);
  const SeqId a = m.create(prompt);
  ASSERT_TRUE(m.append(a, prompt));
  for (int i = 137; i < 260; ++i) ASSERT_TRUE(m.append(a, {i}));
  EXPECT_EQ(m.store->length(m.create(tokens_of(260))), 64) << "rows from 127 on know the prompt's length";
}

TEST(KvStore, EvictionTakesTheEndOfTheOldestPrefixFirst) {
  const LayerMap map = uniform_layer_map(1);
  KvStoreConfig config = small_config(map);
  config.total_rows = 256;
  config.max_sequences = 2;  // 4 + 2 pages
  StoreModel m(config);
  SeqId seq = m.create(tokens_of(257));
  ASSERT_TRUE(m.append(seq, tokens_of(257)));
  m.free(seq);
  EXPECT_EQ(m.store->stats().classes[0].pages_cached, 4);
  seq = m.create(tokens_of(192, 1));
  ASSERT_TRUE(m.append(seq, tokens_of(192, 1)));
  EXPECT_EQ(m.store->stats().classes[0].evicted, 1);
  m.check();
  EXPECT_EQ(m.store->length(m.create(tokens_of(257))), 192);
}

TEST(KvStore, DeadPagesAreGivenBackAndUsable) {
  const LayerMap map = uniform_layer_map(1);
  KvStoreConfig config = small_config(map);
  config.decode_reach[0] = {4, 128};
  config.share_prefixes = false;
  StoreModel m(config);
  const std::vector<int32_t> prompt = tokens_of(1000);
  const SeqId seq = m.create(prompt);
  for (int i = 0; i < 1000; i += 250) ASSERT_TRUE(m.append(seq, {prompt.begin() + i, prompt.begin() + i + 250}));
  const KvClassStats stats = m.store->stats().classes[0];
  // The sinks' page; then from page 12 on: (1000 - 16) / 64 * 64 - 127 = 833.
  EXPECT_EQ(stats.freed_dead, 12);
  EXPECT_EQ(stats.pages_used, 16 - 12);
  EXPECT_EQ(stats.rows_held, 1000 - 12 * 64);
  EXPECT_EQ(stats.pages_used + stats.pages_free, stats.pages);
  m.check();
  EXPECT_EQ(m.store->min_length(seq), 1000);
  EXPECT_FALSE(m.truncate(seq, 999)) << "prompt rows would see what is gone";
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(m.append(seq, {i}));
  for (int n = 0; n < 5; ++n) {
    ASSERT_TRUE(m.truncate(seq, m.store->length(seq) - 16)) << "draft rows can always be taken back";
    m.check();
    ASSERT_TRUE(m.append(seq, tokens_of(23, n)));
    m.check();
  }
  m.free(seq);
  EXPECT_EQ(m.store->stats().classes[0].pages_free, m.store->stats().classes[0].pages);
}

TEST(KvStore, PromptRowsDieEarlyWhenNoPromptRowSeesThem) {
  const LayerMap map = uniform_layer_map(1);
  KvStoreConfig config = small_config(map);
  config.prompt_reach[0] = {4, 256};
  config.decode_reach[0] = {8, 128};
  StoreModel m(config);
  EXPECT_LT(m.store->stats().classes[0].pages, 6 * 24);
  const std::vector<int32_t> prompt = tokens_of(1450);
  const SeqId seq = m.create(prompt);
  for (int i = 0; i < 1450; i += 290) {
    ASSERT_TRUE(m.append(seq, {prompt.begin() + i, prompt.begin() + i + 290}));
    m.check();
    EXPECT_LE(m.store->stats().classes[0].pages_used, 12);
  }
  // Its dead pages are cached prefixes: a hit needs only what its end sees.
  m.store->free_sequence(seq);
  m.seqs.clear();
  EXPECT_EQ(m.store->length(m.create(prompt)), 1408);
  m.check();
}

TEST(PrefixIndex, EqualHashesOfOtherParentsDoNotMatch) {
  PrefixIndex index(4);
  const std::vector<int32_t> tokens = tokens_of(kPageRows);
  const PrefixPoint root = PrefixIndex::root(1);
  const int32_t a = index.insert(root, 1, tokens);
  index.set_pending_page(a, 0, 3);
  EXPECT_EQ(index.find(root, 1, tokens), a);
  EXPECT_EQ(index.find(root, 2, tokens), PrefixIndex::kNone) << "another tag, though the point was the same";
  const PrefixPoint after = index.point(a);
  const int32_t b = index.insert(after, 1, tokens);
  index.set_pending_page(b, 0, 4);
  index.drop_page(a, 0);
  EXPECT_EQ(index.find(root, 1, tokens), PrefixIndex::kNone);
  const int32_t again = index.insert(root, 1, tokens);
  index.set_pending_page(again, 0, 5);
  EXPECT_EQ(index.point(again).key, after.key);
  EXPECT_EQ(index.find(index.point(again), 1, tokens), PrefixIndex::kNone) << "its child belonged to the dropped node";
  EXPECT_EQ(index.find(after, 1, tokens), b);
}

// Random arrivals, chunks, decodes, forks, truncations, cancels within a step, aborted steps; with pages so
// scarce that reserve fails and prefixes are evicted. After each: counts exact, no writer shares, every row
// that may be seen is there with the right content.
class KvStoreRandom : public ::testing::TestWithParam<int> {};

TEST_P(KvStoreRandom, KeepsItsBooks) {
  const LayerMap map = GetParam() % 2 == 0 ? uniform_layer_map(2) : two_class_map(100);
  KvStoreConfig config = small_config(map);
  config.total_rows = GetParam() >= 5 ? 900 : 1600;
  config.share_prefixes = GetParam() != 4;
  if (GetParam() >= 2) {
    config.share_decoded = false;
    for (size_t c = 0; c < map.classes.size(); ++c) {
      config.decode_reach[c] = within_layer_window({5, 150}, map.classes[c].window);
      if (GetParam() == 3) config.prompt_reach[c] = within_layer_window({70, 90}, map.classes[c].window);
    }
  }
  if (GetParam() >= 5) {
    for (size_t c = 0; c < map.classes.size(); ++c) {
      config.decode_reach[c] = within_layer_window({}, map.classes[c].window);
    }
    config.mid = half_zone(GetParam() % 2 == 0 ? 2 : 3, GetParam() == 5 ? 4 : 70, 64, 128);
    if (GetParam() == 7) config.mid->min_tokens = 300;
  }
  StoreModel m(config);
  if (GetParam() == 6) m.store->set_move_pages(3);
  Philox rng(1000 + GetParam());
  int exhausted = 0, hits = 0, truncated = 0;
  const auto any = [&]() -> SeqId {
    if (m.seqs.empty()) return -1;
    auto it = m.seqs.begin();
    std::advance(it, rng.below(static_cast<uint32_t>(m.seqs.size())));
    return it->first;
  };
  const auto next_tokens = [&](SeqId seq) {
    const auto& s = m.seqs[seq];
    const int32_t len = static_cast<int32_t>(s.stamps.size()), left = static_cast<int32_t>(s.prompt.size()) - len;
    std::vector<int32_t> out;
    if (left > 0) {
      const int32_t n = std::min<int32_t>(left, 1 + rng.below(200));
      out.assign(s.prompt.begin() + len, s.prompt.begin() + len + n);
    } else {
      const auto salt = static_cast<int32_t>(rng.below(2));  // drawn first: arguments have no order of their own
      out = tokens_of(std::min<int32_t>(1500 - len, 1 + (rng.below(4) == 0 ? rng.below(16) : 0)), salt);
    }
    return out;
  };
  for (int n = 0; n < 1500; ++n) {
    switch (rng.below(12)) {
      case 0:
      case 1: {
        std::vector<int32_t> prompt = tokens_of(1 + rng.below(600));
        if (rng.below(2)) prompt[rng.below(static_cast<uint32_t>(prompt.size()))] = -1;
        const SeqId seq = m.create(prompt);
        if (seq >= 0) hits += m.store->length(seq) > 0;
        break;
      }
      case 2:
        if (const SeqId seq = any(); seq >= 0) m.fork(seq);
        break;
      case 3:
        if (const SeqId seq = any(); seq >= 0) m.free(seq);
        break;
      case 4:
        if (const SeqId seq = any(); seq >= 0) {
          const int32_t len = m.store->length(seq), min = m.store->min_length(seq);
          EXPECT_LE(min, len);
          truncated += m.truncate(seq, min + static_cast<int32_t>(rng.below(static_cast<uint32_t>(len - min + 1))));
        }
        break;
      default: {
        // A step over some of the sequences.
        std::vector<SeqId> in_step;
        for (auto& [seq, s] : m.seqs) {
          if (rng.below(3) == 0) continue;
          const auto tokens = next_tokens(seq);
          if (tokens.empty()) continue;
          if (m.stage(seq, tokens)) {
            in_step.push_back(seq);
          } else {
            ++exhausted;
          }
        }
        const Status status = m.store->check();
        ASSERT_TRUE(status.ok()) << status.message();
        const uint32_t fate = rng.below(12);
        if (fate == 0) {
          m.store->abort_step();
          m.store->execute_copies();  // those stay due
          for (auto& [seq, s] : m.seqs) s.staged.clear();
        } else {
          if (fate == 1 && !in_step.empty()) m.free(in_step[rng.below(static_cast<uint32_t>(in_step.size()))]);
          m.run_step();
        }
      }
    }
    m.check();
    if (::testing::Test::HasFatalFailure()) FAIL() << "after operation " << n;
  }
  EXPECT_GT(exhausted, 0);
  EXPECT_GT(truncated, 20);
  EXPECT_GT(m.store->stats().copies, 20);
  if (config.share_prefixes) {
    EXPECT_GT(hits, 5);
    EXPECT_GT(m.store->stats().classes[0].evicted, 0);
  }
  EXPECT_EQ(m.store->stats().classes[0].freed_dead > 0, GetParam() >= 1);
  const int32_t last = m.store->n_classes() - 1;
  EXPECT_EQ(m.groups > 100, GetParam() >= 5);
  EXPECT_LE(m.store->stats().classes[last].bytes_held_peak, m.store->stats().classes[last].bytes_limit);
  while (!m.seqs.empty()) m.free(m.seqs.begin()->first);
  m.store->clear_cache();
  m.check();
  for (int32_t c = 0; c < m.store->n_classes(); ++c) {
    EXPECT_EQ(m.store->stats().classes[c].pages_free, m.store->stats().classes[c].pages);
    EXPECT_EQ(m.store->stats().classes[c].bytes_held, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Configurations, KvStoreRandom, ::testing::Range(0, 8));

}  // namespace
}  // namespace pare::testing
