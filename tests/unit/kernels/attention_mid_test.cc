// Pruned and quantized rows: how they are moved out of the full zone, and decode over them, at every level against
// kernels/ref bit for bit, and against readings of plan/kv_layout.h that share no code with the kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "attention_world.h"
#include "kernels/ref/attention_ref.h"
#include "stored_row.h"

namespace pare::test {
namespace {

constexpr int kSink = 4;

struct Mid {
  int d = 64;
  Codec full = Codec::F16, k = Codec::F16, v = Codec::F16;
  Order order = Order::Tiles;
  std::vector<int> widths = {64};  // by KV head; 0: absent
  int k_group = 32, v_group = 32, group = 2, rows = 300;
};

// A world whose rows are in the full zone, and a zone 1 of the shape's formats, still empty.
World mid_world(const Mid& m, uint32_t seed, const AttentionKernels& kernels = ref::attention_kernels()) {
  const int kv_heads = static_cast<int>(m.widths.size());
  World w(
      {.heads = kv_heads * m.group, .kv_heads = kv_heads, .d = m.d, .rows = m.rows, .codec = m.full, .order = m.order},
      seed);
  std::vector<RowFormat> formats;
  for (int width : m.widths) {
    RowFormat f;
    f.k_width = static_cast<uint16_t>(width);
    f.v_width = static_cast<uint16_t>(width == 0 ? 0 : m.d);
    f.k_codec = m.k;
    f.v_codec = m.v;
    f.k_group = static_cast<uint16_t>(m.k_group);
    f.v_group = static_cast<uint16_t>(m.v_group);
    f.order = m.order;
    if (width != m.d) {  // kept channels in no particular order
      f.chan = static_cast<int32_t>(w.channels.size());
      std::vector<uint16_t> ids(m.d);
      std::iota(ids.begin(), ids.end(), uint16_t{0});
      for (int c = 0; c < width; ++c) {
        std::swap(ids[c], ids[w.random(c, m.d)]);
        w.channels.push_back({ids[c], 0.5f + 0.01f * static_cast<float>(c)});
      }
    }
    formats.push_back(f);
  }
  w.add_zone({.page_rows = kPageRows, .span = kSpanRows}, m.rows, formats);
  w.append(kernels, 0, m.rows);
  return w;
}

const RowFormat& mid_format(const World& w, int g) { return w.formats[w.shape.kv_heads + g]; }

// One sequence: sink and recent rows in the full zone, [kSink, from) in zone 1.
SegmentPlanData three_runs(const World& w, int from, int n_q, int spans = 1) {
  const auto cut = static_cast<uint16_t>(spans);
  SegmentPlanData s;
  const int pos = w.shape.rows - n_q;
  s.add_seq(0, n_q, pos, w.shape.heads);
  const auto full = static_cast<uint32_t>(w.page0[0]), mid = static_cast<uint32_t>(w.page0[1]);
  s.add_run({.page0 = full, .rows = kSink}, kSpanRows, false, {0}, 0);
  s.add_run({.flags = kRunCausal, .page0 = full, .row0 = from, .rows = w.shape.rows - from, .pos0 = from}, kSpanRows,
            false, {0}, 0);
  s.add_run({.zone = 1, .page0 = mid, .row0 = kSink, .rows = from - kSink, .pos0 = kSink, .item_spans = cut}, kSpanRows,
            false, {0}, 2);
  return s;
}

std::vector<Mid> all_mids() {
  std::vector<Mid> out;
  for (Order order : {Order::Tiles, Order::Rows}) {
    for (Codec k : {Codec::F16, Codec::F32, Codec::Bf16, Codec::I8, Codec::I4, Codec::I2}) {
      for (Codec v : {Codec::F16, Codec::F32, Codec::Bf16, Codec::I8, Codec::I4, Codec::I2}) {
        Mid m{.d = 64, .k = k, .v = v, .order = order, .widths = {16, 64, 0, 48}};
        if (k == Codec::Bf16) m.full = Codec::Bf16;
        if (k == Codec::F32 || v == Codec::F32) m.full = Codec::F32;
        if (k == v) m.widths = {32, 16, 64};
        out.push_back(m);
      }
    }
  }
  for (Codec codec : {Codec::F16, Codec::I8, Codec::I4, Codec::I2}) {
    for (int d : {16, 48, 80, 128}) {
      Mid m{.d = d, .k = codec, .v = codec, .k_group = 16, .v_group = 16, .group = 3};
      m.widths = {16, d / 2 / 16 * 16, d};
      out.push_back(m);
    }
    out.push_back({.d = 128, .k = codec, .v = codec, .widths = {96, 32}, .k_group = 64, .v_group = 128, .group = 7});
  }
  return out;
}

std::string name_of(const Mid& m) {
  return std::string(codec_name(m.k)) + "/" + codec_name(m.v) + (m.order == Order::Tiles ? " tiles, D " : " rows, D ") +
         std::to_string(m.d);
}

// What the vector levels execute themselves.
bool vectored(const Mid& m) { return m.order == Order::Tiles && m.k != Codec::Bf16 && m.v != Codec::Bf16; }

TEST(MoveRows, EveryLevelStoresTheSameBytes) {
  uint32_t seed = 1;
  for (const Mid& m : all_mids()) {
    SCOPED_TRACE(name_of(m));
    World expected = mid_world(m, ++seed);
    for (size_t i = 0; i < std::size(kSpecialValues); ++i) {
      expected.k[static_cast<size_t>(i) * 977 + 5] = kSpecialValues[i];
      expected.v[static_cast<size_t>(i) * 977 + 5] = kSpecialValues[i];
    }
    expected.k[40] = std::numeric_limits<float>::infinity();
    expected.v[90] = -std::numeric_limits<float>::infinity();
    for (int j = 64; j < 128; ++j) {  // a page of constants, one of them -0
      for (int c = 0; c < m.d; ++c) {
        const size_t at = (static_cast<size_t>(j) * m.widths.size()) * m.d + c;
        expected.k[at] = expected.v[at] = c % 2 == 0 ? -0.0f : 1.0f / 3.0f;
      }
    }
    expected.append(ref::attention_kernels(), 0, m.rows);
    World plain = expected;
    // Whole groups, parts of a page, rows that begin within a group.
    const auto run = [](World& w, const AttentionKernels& kernels) {
      w.move(kernels, 1, kSink, 64);
      w.move(kernels, 1, 64, 192);
      w.move(kernels, 1, 192, 256);
      w.move(kernels, 1, 256, 291);
    };
    run(plain, ref::attention_kernels());
    EXPECT_NE(plain.bytes(1), expected.bytes(1));
    for (CpuLevel level : testable_cpu_levels()) {
      World w = expected;
      run(w, attention_kernels(level));
      EXPECT_EQ(w.bytes(1), plain.bytes(1)) << cpu_level_name(level);
    }
  }
}

// Rows come back as what was appended, rounded by the codec alone; other rows keep their bytes.
TEST(MoveRows, RowsComeBackAndTheOthersStay) {
  uint32_t seed = 100;
  for (const Mid& m : all_mids()) {
    SCOPED_TRACE(name_of(m));
    World w = mid_world(m, ++seed);
    w.move(ref::attention_kernels(), 1, kSink, 130);
    for (int g = 0; g < w.shape.kv_heads; ++g) {
      const RowFormat& f = mid_format(w, g);
      if (f.v_width == 0) continue;
      for (int j = kSink; j < 130; ++j) {
        const auto expect = [&](float x, Codec codec, float stored, float scale) {
          x = rounded(x, m.full);
          if (!is_quantized(codec)) {
            ASSERT_EQ(stored, rounded(x, codec)) << "row " << j;
          } else {
            ASSERT_NEAR(stored, x, scale * 0.5f + 1e-6f) << "row " << j;
          }
        };
        float scale = 0;
        for (int c = 0; c < f.k_width; ++c) {
          const int id = f.chan < 0 ? c : w.channels[f.chan + c].id;
          const float x = stored_k(w, 1, g, j, c, &scale);
          expect(w.key(j, g)[id], f.k_codec, x, scale);
        }
        for (int c = 0; c < f.v_width; ++c) {
          const float x = stored_v(w, 1, g, j, c, &scale);
          expect(w.value(j, g)[c], f.v_codec, x, scale);
        }
      }
      for (int j : {0, kSink - 1, 130, 191, 200}) {  // nothing was written there
        int r;
        const std::byte* page = w.page_of(1, g, j, &r);
        for (int c = 0; c < f.k_width && f.order == Order::Rows; ++c) {
          const int bits = codec_bits(f.k_codec);
          ASSERT_EQ(bits_of(page + f.k, (int64_t{r} * f.k_width + c) * bits, bits),
                    static_cast<uint32_t>((uint64_t{1} << bits) - 1));
        }
        for (int b = 0; b < f.v_width * codec_bits(f.v_codec) / 8 && f.v_codec != Codec::Bf16; ++b) {
          ASSERT_EQ(page[f.v + int64_t{r} * f.v_width * codec_bits(f.v_codec) / 8 + b], std::byte{0xff});
        }
      }
    }
  }
}

// The bound of attention.h: scales are no larger than the group's range asks for.
TEST(MoveRows, ScalesFitTheirGroups) {
  for (Codec codec : {Codec::I8, Codec::I4, Codec::I2}) {
    World w = mid_world({.d = 64, .full = Codec::F32, .k = codec, .v = codec, .widths = {64}}, 3);
    w.move(ref::attention_kernels(), 1, 0, 256);
    const float levels = static_cast<float>((1 << codec_bits(codec)) - 1);
    for (int first = 0; first < 256; first += 32) {
      for (int c = 0; c < 64; ++c) {
        float lo = 1e30f, hi = -1e30f, scale = 0;
        for (int j = first; j < first + 32; ++j) {
          lo = std::min(lo, w.key(j, 0)[c]);
          hi = std::max(hi, w.key(j, 0)[c]);
        }
        stored_k(w, 1, 0, first, c, &scale);
        EXPECT_GE(scale * levels * (1 + 1e-6f), hi - lo);
        EXPECT_LE(scale * levels, (hi - lo + std::abs(lo) * 0x1p-10f) * (1 + 0x1p-9f) + levels * 0x1p-24f);
      }
    }
  }
}

TEST(AttentionMid, LevelsEqualRefAndRefIsClose) {
  uint32_t seed = 200;
  for (const Mid& m : all_mids()) {
    SCOPED_TRACE(name_of(m));
    World w = mid_world(m, ++seed);
    w.scale = 1.0f / std::sqrt(static_cast<float>(m.d));
    if (seed % 5 == 0) w.softcap = 3.0f;
    const int n_q = seed % 3 == 0 ? 6 : 1, from = seed % 2 == 0 ? 224 : 256;
    w.move(ref::attention_kernels(), 1, kSink, from);
    SegmentPlanData plan = three_runs(w, from, n_q, seed % 4 == 0 ? 8 : 1);
    const int pos = m.rows - n_q;
    AttentionCounters truth_counters;
    const auto expected = run_decode(w, ref::attention_kernels(), plan, pos, &truth_counters);
    for (CpuLevel level : testable_cpu_levels()) {
      AttentionCounters counters;
      EXPECT_TRUE(same_bits(run_decode(w, attention_kernels(level), plan, pos, &counters), expected))
          << cpu_level_name(level);
      EXPECT_EQ(counters.keys_visited, truth_counters.keys_visited) << cpu_level_name(level);
      if (vectored(m) && m.full != Codec::Bf16) {
        EXPECT_EQ(counters.fallbacks, 0u) << cpu_level_name(level);
      }
    }
    for (int i = 0; i < n_q; ++i) {
      for (int h = 0; h < w.shape.heads; ++h) {
        const int g = w.kv_head(h);
        std::vector<OracleKey> keys;
        for (int j = 0; j <= pos + i; ++j) {
          const bool full = j < kSink || j >= from;
          if (!full && mid_format(w, g).v_width == 0) continue;
          keys.push_back(stored_row(w, full ? 0 : 1, g, j));
        }
        double tolerance;
        const auto truth =
            oracle({w.query(pos + i, h), w.query(pos + i, h) + m.d}, keys, w.scale, w.softcap, m.d, &tolerance);
        for (int c = 0; c < m.d; ++c) {
          ASSERT_NEAR(expected[(static_cast<size_t>(i) * w.shape.heads + h) * m.d + c], truth[c], tolerance)
              << "row " << i << " head " << h << " channel " << c;
        }
      }
    }
  }
}

// Dropped channels of rows in the middle, and all of an absent head's, change no bit; kept ones and the rows of the
// full zone do.
TEST(AttentionMid, OnlyWhatIsKeptMatters) {
  for (Codec codec : {Codec::F16, Codec::I8, Codec::I4, Codec::I2}) {
    for (CpuLevel level : testable_cpu_levels()) {
      SCOPED_TRACE(cpu_level_name(level));
      const AttentionKernels& kernels = attention_kernels(level);
      const Mid m{.d = 64, .k = codec, .v = codec, .widths = {32, 0}};
      const World before = mid_world(m, 7, kernels);
      const int from = 256, row = m.rows - 1;
      std::vector<bool> kept(m.d);
      for (int c = 0; c < 32; ++c) kept[before.channels[mid_format(before, 0).chan + c].id] = true;
      const auto run = [&](auto change) {
        World w = before;
        change(w);
        w.append(kernels, 0, m.rows);
        w.move(kernels, 1, kSink, from);
        return run_decode(w, kernels, three_runs(w, from, 1), row);
      };
      const auto noise = [&](World& w, std::vector<float>& x, int j, int g, bool of_kept) {
        for (int c = 0; c < m.d; ++c) {
          if (kept[c] == of_kept) x[(static_cast<size_t>(j) * 2 + g) * m.d + c] += w.normal();
        }
      };
      const auto base = run([](World&) {});
      const auto dropped = run([&](World& w) {
        for (int j = kSink; j < from; ++j) noise(w, w.k, j, 0, false);
      });
      EXPECT_TRUE(same_bits(base, dropped));
      const auto empty = run([&](World& w) {
        for (int j = kSink; j < from; ++j) {
          for (bool which : {false, true}) {
            noise(w, w.k, j, 1, which);
            noise(w, w.v, j, 1, which);
          }
        }
      });
      EXPECT_TRUE(same_bits(base, empty));
      for (int j : {kSink, 100, from - 1}) {
        EXPECT_FALSE(same_bits(base, run([&](World& w) { noise(w, w.k, j, 0, true); }))) << j;
        EXPECT_FALSE(same_bits(base, run([&](World& w) { noise(w, w.v, j, 0, true); }))) << j;
      }
      for (int j : {kSink - 1, from, row}) {  // whole rows
        EXPECT_FALSE(same_bits(base, run([&](World& w) { noise(w, w.k, j, 0, false); }))) << j;
        EXPECT_FALSE(same_bits(base, run([&](World& w) { noise(w, w.v, j, 1, true); }))) << j;
      }
    }
  }
}

TEST(AttentionMid, BytesArePackedBitsAndScales) {
  for (CpuLevel level : testable_cpu_levels()) {
    for (const auto& [codec, bytes] : {std::pair{Codec::I8, 32 + 64}, {Codec::I4, 16 + 32}, {Codec::I2, 8 + 16}}) {
      World w = mid_world({.d = 64, .k = codec, .v = codec, .widths = {32}, .group = 1}, 5);
      w.move(ref::attention_kernels(), 1, 0, 256);
      SegmentPlanData s;
      s.add_seq(0, 1, 255, 1);
      s.add_run({.zone = 1, .page0 = static_cast<uint32_t>(w.page0[1]), .rows = 256}, kSpanRows, false, {0}, 2);
      AttentionCounters counters;
      run_decode(w, attention_kernels(level), s, 255, &counters);
      // A pair is 4 bytes: of K one for 32 channels and 32 rows, of V one for 32 of 64 channels.
      EXPECT_EQ(counters.bytes_read, 256u * (bytes + 32 * 4 / 32 + 2 * 4)) << cpu_level_name(level);
    }
  }
}

}  // namespace
}  // namespace pare::test
