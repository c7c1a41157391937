// Estimated rows of heads that keep no key channel (LeanK's training semantics): how rows become them, at every level
// against kernels/ref bit for bit, and decode over them against a softmax over the rows themselves.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "attention_world.h"
#include "kernels/ref/attention_ref.h"
#include "stored_row.h"

namespace pare::test {
namespace {

struct Sum {
  int d = 64;
  Codec full = Codec::F16, mid = Codec::F16;
  Order order = Order::Tiles;
  std::vector<int> widths = {32, 0};  // by KV head
  int group = 2, rows = 600;
};

constexpr int kMidZone = 1, kSumZone = 2;

World sum_world(const Sum& s, uint32_t seed, const AttentionKernels& kernels = ref::attention_kernels()) {
  const int kv_heads = static_cast<int>(s.widths.size());
  World w(
      {.heads = kv_heads * s.group, .kv_heads = kv_heads, .d = s.d, .rows = s.rows, .codec = s.full, .order = s.order},
      seed);
  std::vector<RowFormat> formats;
  for (const int width : s.widths) {
    RowFormat f;
    f.k_width = static_cast<uint16_t>(width);
    f.v_width = static_cast<uint16_t>(width == 0 ? 0 : s.d);
    f.k_codec = f.v_codec = s.mid;
    f.k_group = f.v_group = 16;
    f.order = s.order;
    if (width != s.d && width > 0) {
      f.chan = static_cast<int32_t>(w.channels.size());
      for (int c = 0; c < width; ++c) w.channels.push_back({static_cast<uint16_t>((c * 7 + 3) % s.d), 1.0f});
    }
    formats.push_back(f);
  }
  EXPECT_EQ(w.add_zone({.page_rows = kPageRows, .span = kSpanRows}, s.rows, formats), kMidZone);
  EXPECT_EQ(w.add_sum_zone(kMidZone), kSumZone);
  w.append(kernels, 0, s.rows);
  return w;
}

std::vector<Sum> all_sums() {
  std::vector<Sum> out;
  for (const Order order : {Order::Tiles, Order::Rows}) {
    for (const Codec codec : {Codec::F16, Codec::F32, Codec::Bf16}) {
      out.push_back({.full = codec, .mid = codec, .order = order, .widths = {32, 0, 64}});
      out.push_back({.d = 128, .full = codec, .mid = Codec::I4, .order = order, .widths = {0, 16}, .group = 7});
    }
  }
  out.push_back({.d = 80, .widths = {0, 0}, .group = 3});
  out.push_back({.d = 16, .full = Codec::F32, .mid = Codec::F32, .widths = {0, 16}, .group = 1});
  return out;
}
std::string name_of(const Sum& s) {
  return std::string(codec_name(s.full)) + (s.order == Order::Tiles ? " tiles, D " : " rows, D ") + std::to_string(s.d);
}

TEST(EstimateRows, EveryLevelStoresTheSameBytes) {
  uint32_t seed = 1;
  for (const Sum& s : all_sums()) {
    SCOPED_TRACE(name_of(s));
    World before = sum_world(s, ++seed);
    for (size_t i = 0; i < std::size(kSpecialValues); ++i) before.v[i * 977 + 5] = kSpecialValues[i];
    before.v[90] = -std::numeric_limits<float>::infinity();
    const size_t row = s.widths.size() * s.d;
    std::fill_n(before.v.begin() + 128 * row, 8 * row, -0.0f);
    std::fill_n(before.v.begin() + 136 * row, 8 * row, 65504.0f);  // sums beyond fp16
    before.append(ref::attention_kernels(), 0, s.rows);
    const auto run = [](World& w, const AttentionKernels& kernels) {
      w.move(kernels, kMidZone, 5, 64, kSumZone);  // a first group of three rows
      w.move(kernels, kMidZone, 64, 448, kSumZone);
      w.move(kernels, kMidZone, 448, 449, kSumZone);
      w.move(kernels, kMidZone, 514, 575, kSumZone);
    };
    World expected = before;
    run(expected, ref::attention_kernels());
    EXPECT_NE(expected.bytes(kMidZone), before.bytes(kMidZone));
    for (CpuLevel level : testable_cpu_levels()) {
      World w = before;
      run(w, attention_kernels(level));
      EXPECT_EQ(w.bytes(kMidZone), expected.bytes(kMidZone)) << cpu_level_name(level);
    }
  }
}

float log_weight(const World& w, int g, int row) {
  int r;
  const std::byte* page = w.page_of(kSumZone, g, row, &r);
  float x;
  std::memcpy(&x, page + w.formats[kSumZone * w.shape.kv_heads + g].lw + r * 4, 4);
  return x;
}

// Half an ulp of a value near `x` as the codec stores it.
double rounding(double x, Codec codec) {
  if (codec == Codec::F32) return std::abs(x) * 0x1p-24 + 0x1p-150;
  if (codec == Codec::F16) return std::max(std::abs(x) * 0x1p-11, 0x1p-25);
  return std::abs(x) * 0x1p-8;  // bf16: 8 significant bits
}

// Means and logarithms of numbers of rows, in double; other rows and other heads' planes stay.
TEST(EstimateRows, RowsAreMeansOfTheirGroups) {
  uint32_t seed = 50;
  for (const Sum& s : all_sums()) {
    for (const int sink : {0, 1, 2, 3, 4, 63, 65, 70}) {
      SCOPED_TRACE(name_of(s) + ", sink " + std::to_string(sink));
      World w = sum_world(s, ++seed);
      const int moved = 256;
      w.move(ref::attention_kernels(), kMidZone, sink, moved, kSumZone);
      for (int g = 0; g < w.shape.kv_heads; ++g) {
        if (s.widths[g] != 0) continue;
        for (int r = sink / kSumRows; r < moved / kSumRows; ++r) {
          const int begin = std::max(sink, r * kSumRows), end = (r + 1) * kSumRows;
          ASSERT_FLOAT_EQ(log_weight(w, g, r), std::log(static_cast<float>(end - begin))) << r;
          for (int c = 0; c < s.d; ++c) {
            double mean = 0, size = 0;
            for (int j = begin; j < end; ++j) {
              const double x = rounded(w.value(j, g)[c], s.full);
              mean += x / (end - begin);
              size += std::abs(x);
            }
            // Four fused steps of the chain and 1 / n, each within 2^-24 of what it adds up to.
            ASSERT_NEAR(stored_v(w, kSumZone, g, r, c), mean, rounding(mean, s.full) + size * 5 * 0x1p-24) << r;
          }
        }
        // Groups below the sinks and beyond what moved keep their bytes.
        for (int r : {sink / kSumRows - 1, moved / kSumRows, moved / kSumRows + 15}) {
          if (r < 0) continue;
          int in_page;
          const std::byte* page = w.page_of(kSumZone, g, r, &in_page);
          const RowFormat& f = w.formats[kSumZone * w.shape.kv_heads + g];
          EXPECT_EQ(page[f.lw + in_page * 4], std::byte{0xff});
          if (f.order == Order::Rows) {
            EXPECT_EQ(page[f.v + static_cast<size_t>(in_page) * s.d * codec_bits(s.full) / 8], std::byte{0xff});
          }
        }
      }
    }
  }
}

// One sequence: sinks and recent rows in the full zone, [sink, from) in zone mid and, estimated, in zone sum.
SegmentPlanData four_runs(const World& w, int sink, int from, int n_q, int spans) {
  SegmentPlanData s;
  s.add_seq(0, n_q, w.shape.rows - n_q, w.shape.heads);
  const auto full = static_cast<uint32_t>(w.page0[0]), mid = static_cast<uint32_t>(w.page0[kMidZone]);
  const auto cut = static_cast<uint16_t>(spans);
  if (sink > 0) s.add_run({.page0 = full, .rows = sink}, kSpanRows, false, {0}, kZoneFull);
  s.add_run({.flags = kRunCausal, .page0 = full, .row0 = from, .rows = w.shape.rows - from, .pos0 = from}, kSpanRows,
            false, {0}, kZoneFull);
  s.add_run({.zone = kMidZone, .page0 = mid, .row0 = sink, .rows = from - sink, .pos0 = sink, .item_spans = cut},
            kSpanRows, false, {0}, kZoneMid);
  s.add_run({.zone = kSumZone,
             .page0 = mid,
             .row0 = sink / kSumRows,
             .rows = from / kSumRows - sink / kSumRows,
             .pos0 = -1,
             .item_spans = cut},
            kSpanRows, false, {0}, kZoneSum);
  return s;
}

TEST(AttentionSum, EmptyHeadsGiveEveryPrunedRowLogitZero) {
  uint32_t seed = 100;
  for (Sum s : all_sums()) {
    for (const int sink : {0, 4, 7, 70}) {
      SCOPED_TRACE(name_of(s) + ", sink " + std::to_string(sink));
      const bool is_long = seed % 5 == 3;  // estimated rows of two spans
      s.rows = is_long ? 1400 : 300;
      World w = sum_world(s, ++seed);
      w.scale = 1.0f / std::sqrt(static_cast<float>(s.d));
      if (seed % 5 == 0) w.softcap = 3.0f;
      const int n_q = seed % 3 == 0 ? 6 : 1, from = is_long ? 1216 : seed % 2 == 0 ? 128 : 192, pos = s.rows - n_q;
      w.move(ref::attention_kernels(), kMidZone, sink, from, kSumZone);
      const SegmentPlanData plan = four_runs(w, sink, from, n_q, seed % 4 == 0 ? 8 : 1);
      AttentionCounters truth_counters;
      const auto expected = run_decode(w, ref::attention_kernels(), plan, pos, &truth_counters);
      for (CpuLevel level : testable_cpu_levels()) {
        AttentionCounters counters;
        EXPECT_TRUE(same_bits(run_decode(w, attention_kernels(level), plan, pos, &counters), expected))
            << cpu_level_name(level);
        EXPECT_EQ(counters.keys_visited, truth_counters.keys_visited) << cpu_level_name(level);
        if (s.order == Order::Tiles && s.full != Codec::Bf16) {
          EXPECT_EQ(counters.fallbacks, 0u) << cpu_level_name(level);
        }
      }
      for (int i = 0; i < n_q; ++i) {
        for (int h = 0; h < w.shape.heads; ++h) {
          const int g = w.kv_head(h);
          std::vector<OracleKey> keys;
          double largest = 0;
          for (int j = 0; j <= pos + i; ++j) {
            const bool full = j < sink || j >= from;
            if (full || s.widths[g] > 0) {
              keys.push_back(stored_row(w, full ? 0 : kMidZone, g, j));
              continue;
            }
            // The row itself, every channel of its key 0.
            keys.push_back(stored_row(w, 0, g, j));
            std::fill(keys.back().k.begin(), keys.back().k.end(), 0.0f);
            for (const float x : keys.back().v) largest = std::max(largest, std::abs(double{x}));
          }
          double tolerance;
          const auto truth =
              oracle({w.query(pos + i, h), w.query(pos + i, h) + s.d}, keys, w.scale, w.softcap, s.d, &tolerance);
          // Each mean is off by its rounding and by its chain's; the output averages them with weights of 1 in all at
          // most.
          if (largest > 0) tolerance += rounding(largest, s.full) + largest * 20 * 0x1p-24;
          for (int c = 0; c < s.d; ++c) {
            ASSERT_NEAR(expected[(static_cast<size_t>(i) * w.shape.heads + h) * s.d + c], truth[c], tolerance)
                << "row " << i << " head " << h << " channel " << c;
          }
        }
      }
    }
  }
}

// Values of moved rows of an empty head count, its keys do not.
TEST(AttentionSum, OnlyValuesMatter) {
  for (CpuLevel level : testable_cpu_levels()) {
    SCOPED_TRACE(cpu_level_name(level));
    const AttentionKernels& kernels = attention_kernels(level);
    const Sum s{.rows = 300};
    const World before = sum_world(s, 7, kernels);
    const auto run = [&](auto change) {
      World w = before;
      change(w);
      w.append(kernels, 0, s.rows);
      w.move(kernels, kMidZone, 5, 192, kSumZone);
      return run_decode(w, kernels, four_runs(w, 5, 192, 1, 1), s.rows - 1);
    };
    const auto at = [&](int j) { return (static_cast<size_t>(j) * 2 + 1) * s.d; };  // row j of head 1
    const auto base = run([](World&) {});
    EXPECT_TRUE(same_bits(base, run([&](World& w) {
                            for (int j = 5; j < 192; ++j) std::fill_n(w.k.begin() + at(j), s.d, w.normal());
                          })));
    for (int j : {5, 7, 8, 100, 191}) {
      EXPECT_FALSE(same_bits(base, run([&](World& w) { w.v[at(j)] += 1.0f; }))) << j;
    }
  }
}

TEST(AttentionSum, BytesAreAQuarterOfTheValues) {
  for (CpuLevel level : testable_cpu_levels()) {
    World w = sum_world({.widths = {0}, .group = 1, .rows = 1400}, 5);
    w.move(ref::attention_kernels(), kMidZone, 0, 1024, kSumZone);
    SegmentPlanData s;
    s.add_seq(0, 1, 1399, 1);
    s.add_run({.zone = kSumZone, .page0 = static_cast<uint32_t>(w.page0[kSumZone]), .rows = 256, .pos0 = -1}, kSpanRows,
              false, {0}, kZoneSum);
    AttentionCounters counters;
    run_decode(w, attention_kernels(level), s, 1399, &counters);
    EXPECT_EQ(counters.rows_read, 256u) << cpu_level_name(level);
    EXPECT_EQ(counters.bytes_read, 256u * (64 * 2 + 4)) << cpu_level_name(level);
  }
}

}  // namespace
}  // namespace pare::test
