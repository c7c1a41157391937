// decode_attention against kernels/ref for every field of a SegmentPlan, and against itself, bit for bit, for what must
// not change a row.
#include "kernels/cuda/decode_attention.h"

#include "decode_world.h"

namespace pare::cuda {
namespace {

using test::SegmentPlanData;

class DecodeAttentionTest : public CudaTest {
 protected:
  // A sequence of `length` rows in the full zone, the last n_q of which are its query rows.
  static void add_dense(DecodeWorld& w, SegmentPlanData& plan, uint32_t page0, int q_row, int n_q, int length,
                        int item_spans = 1) {
    plan.add_seq(q_row, n_q, length - n_q, w.shape.heads);
    pare::Run run{.flags = static_cast<uint8_t>(n_q > 1 ? kRunCausal : 0), .page0 = page0, .rows = length};
    run.item_spans = static_cast<uint16_t>(item_spans);
    plan.add_run(run, kSpanRows, false, {static_cast<int>(plan.seqs.size()) - 1}, kZoneFull);
  }
  static std::string describe(const DecodeShape& s) {
    return std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " heads of " + std::to_string(s.d);
  }
};

TEST_F(DecodeAttentionTest, EqualsReferenceAtEveryLength) {
  uint32_t seed = 0;
  for (const DecodeShape shape :
       {DecodeShape{.heads = 4, .kv_heads = 1, .d = 128}, DecodeShape{.heads = 14, .kv_heads = 2, .d = 64},
        DecodeShape{.heads = 2, .kv_heads = 2, .d = 96}, DecodeShape{.heads = 8, .kv_heads = 1, .d = 256},
        DecodeShape{.heads = 4, .kv_heads = 2, .d = 80, .codec = Codec::F16, .tiled_heads = true},
        DecodeShape{.heads = 3, .kv_heads = 1, .d = 16}}) {
    for (const int length : {1, 63, 65, 127, 129, 1091, 5000}) {
      SCOPED_TRACE(describe(shape) + ", " + std::to_string(length) + " rows");
      DecodeWorld w(shape, 1, ++seed);
      w.add_full_zone();
      w.scale = length == 1091 ? 0.5f : 0.125f;
      w.softcap = length == 127 ? 5.0f : 0.0f;
      const uint32_t page0 = w.add_rows(0, length);
      SegmentPlanData plan;
      add_dense(w, plan, page0, 0, 1, length, length > 2048 ? 8 : 1);
      expect_close(w, plan, run_device(w, plan));
    }
  }
}

TEST_F(DecodeAttentionTest, DraftRowsSeeTheirPast) {
  uint32_t seed = 100;
  for (const DecodeShape shape :
       {DecodeShape{.heads = 4, .kv_heads = 1, .d = 64}, DecodeShape{.heads = 8, .kv_heads = 1, .d = 128},
        DecodeShape{.heads = 1, .kv_heads = 1, .d = 256, .codec = Codec::F16}}) {
    for (const int n_q : {2, 3, 7, 8, 16}) {
      SCOPED_TRACE(describe(shape) + ", " + std::to_string(n_q) + " drafts");
      DecodeWorld w(shape, n_q, ++seed);
      w.add_full_zone();
      const int length = w.random(n_q, 700);
      const uint32_t page0 = w.add_rows(0, length);
      SegmentPlanData plan;
      add_dense(w, plan, page0, 0, n_q, length);
      const DecodeResult all = run_device(w, plan);
      expect_close(w, plan, all);
      // Fewer rows a pass than there are: several passes, the same bits.
      EXPECT_EQ(run_device(w, plan, {.query_rows = 1}), all);
      EXPECT_EQ(run_device(w, plan, {.query_rows = 16}), all);
    }
  }
}

TEST_F(DecodeAttentionTest, WindowAndSinkSkipDeadRows) {
  for (const int n_q : {1, 4}) {
    for (const int length : {40, 300, 901, 4700}) {
      SCOPED_TRACE(length);
      DecodeWorld w({.heads = 6, .kv_heads = 2, .d = 64}, n_q, static_cast<uint32_t>(length + n_q));
      w.add_full_zone();
      // Rows that no query sees were never written, and their pages are gone.
      const int sink = 5, window = 130, dead_end = std::max(sink, length - n_q - window + 1);
      const uint32_t page0 = w.add_pages(0, length);
      w.fill_rows(0, page0, 0, std::min(sink, length));
      w.fill_rows(0, page0, dead_end, length);
      for (int page = 1; page < dead_end / kPageRows; ++page) w.page_ids[page0 + page] = 0x3fffffff;
      SegmentPlanData plan;
      plan.window = window;
      plan.add_seq(0, n_q, length - n_q, w.shape.heads);
      plan.add_run({.flags = kRunCausal | kRunWindow, .page0 = page0, .rows = length, .sink = sink}, kSpanRows, false,
                   {0}, kZoneFull);
      expect_close(w, plan, run_device(w, plan));
    }
  }
}

// Sequences whose rows lie in five zones, in random numbers, with or without drafts, scores and an absent head.
struct Mixture {
  explicit Mixture(uint32_t seed)
      : w({.heads = seed % 3 == 0 ? 14 : 8,
           .kv_heads = 2,
           .d = seed % 2 == 0 ? 128 : 64,
           .codec = seed % 5 == 0 ? Codec::F16 : Codec::Bf16,
           .tiled_heads = seed % 7 == 0},
          kRows, seed) {
    const int d = w.shape.d;
    for (int i = 0; i < d / 2; ++i) w.channels.push_back({static_cast<uint16_t>(d - 1 - 2 * i), 0.25f + 0.01f * i});
    w.add_full_zone();
    const int mid =
        w.add_zone({.page_rows = 64, .span = kSpanRows}, {d / 2, 16 + 16 * static_cast<int>(seed % 2)}, false, 0);
    const int sum = w.add_zone({.page_rows = 64, .span = kSpanRows}, {0, 0}, true);
    const int leaf = w.add_zone({.page_rows = 1280, .span = 16, .picked = 1}, {d, d});
    const int meta = w.add_zone({.page_rows = 64, .span = kSpanRows}, {d, d}, true);
    if (w.random(0, 2) != 0) w.formats[mid * 2 + 1].v_width = 0;
    int q_row = 0;
    for (int seq = 0; q_row < kRows; ++seq) {
      const int n_q = std::min(w.random(1, 4), kRows - q_row), tail = w.random(n_q, 400);
      plan.add_seq(q_row, n_q, 9000 + tail - n_q, w.shape.heads);
      if (seq % 4 == 3) plan.seqs.back().heads = static_cast<uint16_t>(w.shape.heads / 2);
      const auto with = [&](pare::Run run, int span, bool picked, int section) {
        run.item_spans = picked || w.random(0, 2) != 0 ? 1 : 8;
        plan.add_run(run, span, picked, {seq}, section);
      };
      // Zone rows begin away from a page's start; what lies before and after is NaN.
      const auto stored = [&](int zone, int rows) {
        const int row0 = w.random(0, 200);
        const uint32_t page0 = w.add_pages(zone, row0 + rows);
        w.fill_rows(zone, page0, row0, row0 + rows);
        return pare::Run{.zone = static_cast<uint8_t>(zone), .page0 = page0, .row0 = row0, .rows = rows, .pos0 = -1};
      };
      pare::Run full = stored(0, tail);
      full.flags = kRunCausal;
      full.pos0 = 9000;
      with(full, kSpanRows, false, kZoneFull);
      if (w.random(0, 2) != 0) with(stored(mid, w.random(1, 2600)), kSpanRows, false, kZoneMid);
      if (w.random(0, 2) != 0) with(stored(sum, w.random(1, 5)), kSpanRows, false, kZoneSum);
      if (w.random(0, 2) != 0) {
        pare::Run run{.zone = static_cast<uint8_t>(leaf), .page0 = w.add_rows(leaf, 5120), .rows = 5120, .pos0 = -1};
        run.pick0 = static_cast<int32_t>(plan.picks.size());
        run.pick_cap = 40;
        // Lists are found by packed row, so there is one of every row of the step.
        plan.picks.resize(run.pick0 + kRows * 2 * run.pick_cap);
        plan.pick_n.resize(plan.picks.size(), -1);
        for (int list = 0; list < kRows * 2; ++list) {
          const int first = run.pick0 + list * run.pick_cap, n = w.random(0, run.pick_cap + 1);
          plan.pick_n[first] = n;
          for (int i = 0, at = 0; i < n; ++i) {
            at += w.random(0, 60);
            plan.picks[first + i] = {at, at + w.random(1, 65)};
            at = plan.picks[first + i].hi;
          }
        }
        with(run, 16, true, kZoneLeaf);
      }
      if (w.random(0, 2) != 0) {
        pare::Run run = stored(meta, w.random(1, 900));
        if (w.random(0, 2) != 0 && plan.scores.empty()) {
          run.flags = kRunScored;
          plan.scores.resize(static_cast<size_t>(kRows) * w.shape.heads * run.rows);
          for (float& x : plan.scores) x = 3.0f * w.normal();
        }
        with(run, kSpanRows, false, kZoneMeta);
      }
      q_row += n_q;
    }
  }
  static constexpr int kRows = 9;
  DecodeWorld w;
  SegmentPlanData plan;
};

TEST_F(DecodeAttentionTest, NarrowEstimatedPickedAndScoredRows) {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    Mixture m(seed);
    const DecodeResult first = run_device(m.w, m.plan);
    expect_close(m.w, m.plan, first);
    EXPECT_EQ(run_device(m.w, m.plan, {.query_rows = 2, .rows_settled = true, .blocks = 3}, 2), first);
  }
}

TEST_F(DecodeAttentionTest, BitsDoNotDependOnItemsBatchMatesOrBlocks) {
  for (const DecodeShape shape :
       {DecodeShape{.heads = 8, .kv_heads = 2, .d = 128}, DecodeShape{.heads = 7, .kv_heads = 1, .d = 64},
        DecodeShape{.heads = 2, .kv_heads = 1, .d = 256}}) {
    SCOPED_TRACE(describe(shape));
    const int lengths[] = {9001, 300, 2048, 7};
    DecodeWorld w(shape, 5, 77);
    w.add_full_zone();
    uint32_t pages[4];
    for (int s = 0; s < 4; ++s) pages[s] = w.add_rows(0, lengths[s]);
    const auto batch = [&](int item_spans) {
      SegmentPlanData plan;
      for (int s = 0; s < 4; ++s)
        add_dense(w, plan, pages[s], s == 0 ? 0 : s + 1, s == 0 ? 2 : 1, lengths[s], item_spans);
      return plan;
    };
    const DecodeResult expected = run_device(w, batch(1));
    expect_close(w, batch(1), expected);
    for (const int item_spans : {2, 4, 8, 16, 64, 256})
      EXPECT_EQ(run_device(w, batch(item_spans)), expected) << item_spans;
    for (const int blocks : {1, 7, 500}) EXPECT_EQ(run_device(w, batch(1), {.blocks = blocks}), expected) << blocks;
    EXPECT_EQ(run_device(w, batch(8), {.overlap_launch = true, .rows_settled = true}, 20), expected);
    for (int s = 0; s < 4; ++s) {
      SegmentPlanData alone;
      const int q_row = s == 0 ? 0 : s + 1, n_q = s == 0 ? 2 : 1;
      add_dense(w, alone, pages[s], q_row, n_q, lengths[s], s % 2 == 0 ? 8 : 1);
      const DecodeResult got = run_device(w, alone);
      const size_t row = static_cast<size_t>(shape.heads) * shape.d;
      EXPECT_TRUE(std::equal(got.out.begin() + q_row * row, got.out.begin() + (q_row + n_q) * row,
                             expected.out.begin() + q_row * row))
          << s;
    }
  }
}

// Octets of spans that lie in one fold, and are merged as they become complete, or in two, in sequences with more
// partials than are folded at once.
TEST_F(DecodeAttentionTest, BitsDoNotDependOnWhichOctetsAreWhole) {
  struct Piece {
    int first_span, item_spans;
  };
  // Where the row's runs begin and how they are cut; the first begins in the middle of a span.
  const std::vector<Piece> cuts[] = {
      {{3, 8}},            // by octets
      {{3, 1}},            // whole octets but the first and the last
      {{3, 16}, {16, 1}},  // whole octets behind a fold of octets
      {{3, 2}},            // the same, several spans an item
      {{3, 4}, {18, 2}},   // an octet in two folds
      {{3, 1}, {19, 1}},
      {{3, 1}, {17, 1}, {21, 1}, {39, 1}},  // and in three
      {{3, 1}, {8, 1}, {16, 1}, {40, 8}},   // folds of a single whole octet, and of three
  };
  uint32_t seed = 200;
  for (const DecodeShape shape :
       {DecodeShape{.heads = 12, .kv_heads = 2, .d = 128}, DecodeShape{.heads = 7, .kv_heads = 1, .d = 64},
        DecodeShape{.heads = 2, .kv_heads = 2, .d = 256},
        DecodeShape{.heads = 6, .kv_heads = 2, .d = 80, .codec = Codec::F16, .tiled_heads = true},
        DecodeShape{.heads = 9, .kv_heads = 1, .d = 16}}) {
    for (const int n_q : {1, 3}) {
      for (const bool all_heads : {true, false}) {
        SCOPED_TRACE(describe(shape) + ", " + std::to_string(n_q) + " rows" + (all_heads ? "" : ", half of the heads"));
        DecodeWorld w(shape, n_q, ++seed);
        w.add_full_zone();
        const int row0 = 3 * kSpanRows + 17, end = 53 * kSpanRows + 11;
        const uint32_t page0 = w.add_pages(0, end);
        w.fill_rows(0, page0, row0, end);
        const auto build = [&](const std::vector<Piece>& pieces) {
          SegmentPlanData plan;
          plan.add_seq(0, n_q, end - n_q, all_heads ? shape.heads : std::max(1, shape.heads / 2));
          for (size_t i = 0; i < pieces.size(); ++i) {
            const int begin = i == 0 ? row0 : pieces[i].first_span * kSpanRows;
            const int stop = i + 1 == pieces.size() ? end : pieces[i + 1].first_span * kSpanRows;
            pare::Run run{.flags = kRunCausal, .page0 = page0, .row0 = begin, .rows = stop - begin, .pos0 = begin};
            run.item_spans = static_cast<uint16_t>(pieces[i].item_spans);
            plan.add_run(run, kSpanRows, false, {0}, kZoneFull);
          }
          return plan;
        };
        const DecodeResult expected = run_device(w, build(cuts[0]));
        expect_close(w, build(cuts[0]), expected);
        for (size_t cut = 1; cut < std::size(cuts); ++cut) {
          SCOPED_TRACE("cut " + std::to_string(cut));
          for (const int blocks : {0, 1, 5}) EXPECT_EQ(run_device(w, build(cuts[cut]), {.blocks = blocks}), expected);
          EXPECT_EQ(
              run_device(w, build(cuts[cut]), {.query_rows = 1, .overlap_launch = true, .rows_settled = true}, 20),
              expected);
        }
      }
    }
  }
}

// Sequences that share the rows of a prefix: read once, the same bits as read by each.
TEST_F(DecodeAttentionTest, SharedPrefix) {
  // The longer prefix has more partials than are folded at once; its last octet is shared with the rows that are not.
  for (const auto& [members, spans] : {std::pair{2, 8}, {5, 8}, {20, 8}, {3, 36}}) {
    SCOPED_TRACE(members);
    const int shared_rows = spans * kSpanRows, prefix = shared_rows + 452, q_rows = members + 1;
    DecodeWorld w({.heads = 8, .kv_heads = 2, .d = 64}, q_rows, static_cast<uint32_t>(members));
    w.add_full_zone();
    const uint32_t shared = w.add_rows(0, prefix);
    std::vector<uint32_t> own;
    std::vector<int> tails;
    for (int s = 0; s < members; ++s) {
      tails.push_back(shared_rows + 512 + w.random(2, 200));
      own.push_back(w.add_rows(0, tails[s]));
    }
    const auto build = [&](bool cascade) {
      SegmentPlanData plan;
      std::vector<int> all;
      for (int s = 0; s < members; ++s) {
        const int n_q = s == 0 ? 2 : 1;
        plan.add_seq(s == 0 ? 0 : s + 1, n_q, tails[s] - n_q, 8);
        all.push_back(s);
      }
      const pare::Run run{.page0 = shared, .rows = shared_rows};
      if (cascade) {
        plan.add_run(run, kSpanRows, false, all, kZoneFull);
      }
      for (int s = 0; s < members; ++s) {
        if (!cascade) plan.add_run(run, kSpanRows, false, {s}, kZoneFull);
        plan.add_run({.flags = kRunCausal,
                      .page0 = own[s],
                      .row0 = shared_rows,
                      .rows = tails[s] - shared_rows,
                      .pos0 = shared_rows},
                     kSpanRows, false, {s}, kZoneFull);
      }
      return plan;
    };
    const DecodeResult each = run_device(w, build(false));
    expect_close(w, build(false), each);
    EXPECT_EQ(run_device(w, build(true)), each);
    EXPECT_EQ(run_device(w, build(true), {.query_rows = members + 1}), each);
  }
}

TEST_F(DecodeAttentionTest, HostBitIsNoPartOfAPageNumber) {
  DecodeWorld w({.heads = 4, .kv_heads = 1, .d = 64}, 1, 5);
  w.add_full_zone();
  const uint32_t page0 = w.add_rows(0, 700);
  for (int32_t& id : w.page_ids) id = static_cast<int32_t>(static_cast<uint32_t>(id) | kHostPageBit);
  SegmentPlanData plan;
  add_dense(w, plan, page0, 0, 1, 700);
  const DecodeResult got = run_device(w, plan);
  expect_close(w, plan, got);
}

TEST_F(DecodeAttentionTest, NoRunsWritesNothing) {
  DecodeWorld w({.heads = 4, .kv_heads = 1, .d = 64}, 1, 5);
  w.add_full_zone();
  w.add_rows(0, 10);
  SegmentPlanData plan;
  plan.add_seq(0, 0, 0, 4);
  const DecodeResult got = run_device(w, plan);
  EXPECT_EQ(got.out, std::vector<uint16_t>(4 * 64, 0xffff));
}

}  // namespace
}  // namespace pare::cuda
