// Pruned and quantized rows on the card: moving them equals kernels/ref bit for bit, and decode over quantized rows
// equals decode over the same values in 16 bits, bit for bit, which in turn is close to kernels/ref. So for estimated
// rows of heads that keep no channel.
#include <numeric>

#include "../unit/kernels/stored_row.h"
#include "decode_world.h"
#include "kernels/cuda/row_ops.h"

namespace pare::cuda {
namespace {

using test::SegmentPlanData;

constexpr int kSink = 6;  // within a group of kSumRows rows

struct Mid {
  DecodeShape shape;
  Codec k = Codec::Bf16, v = Codec::Bf16;
  std::vector<int> widths;  // by KV head; 0: absent
  int k_group = 32, v_group = 32;
  bool means = false;  // absent heads leave estimated rows
};

std::vector<RowFormat> mid_formats(DecodeWorld& w, const Mid& m) {
  std::vector<RowFormat> formats;
  for (int width : m.widths) {
    RowFormat f;
    f.k_width = static_cast<uint16_t>(width);
    f.v_width = static_cast<uint16_t>(width == 0 ? 0 : m.shape.d);
    f.k_codec = m.k;
    f.v_codec = m.v;
    f.k_group = static_cast<uint16_t>(m.k_group);
    f.v_group = static_cast<uint16_t>(m.v_group);
    if (width != m.shape.d) {
      f.chan = static_cast<int32_t>(w.channels.size());
      std::vector<uint16_t> ids(m.shape.d);
      std::iota(ids.begin(), ids.end(), uint16_t{0});
      for (int c = 0; c < width; ++c) {
        std::swap(ids[c], ids[w.random(c, m.shape.d)]);
        w.channels.push_back({ids[c], 0.5f + 0.01f * static_cast<float>(c)});
      }
    }
    formats.push_back(f);
  }
  return formats;
}

// Moves [kSink, from) of a list of the full zone into a list of zone mid, page by page.
std::vector<RowMove> moves_of(const DecodeWorld& w, uint32_t full0, uint32_t mid0, int from) {
  std::vector<RowMove> moves;
  for (int row = kSink; row < from;) {
    const int page = row / kPageRows, last = std::min(from, (page + 1) * kPageRows);
    moves.push_back({.cls = 0,
                     .src = w.page_ids[full0 + page],
                     .dst = w.page_ids[mid0 + page],
                     .row0 = row % kPageRows,
                     .rows = last - row});
    row = last;
  }
  return moves;
}

void move_by_ref(DecodeWorld& w, const std::vector<RowMove>& moves) {
  std::byte* pools[kMaxPools] = {};
  for (size_t i = 0; i < w.pools.size(); ++i) pools[i] = w.pools[i].data();
  const pare::MoveRowsArgs args{.pools = pools,
                                .full = w.formats.data(),
                                .mid = w.formats.data() + w.shape.kv_heads,
                                .sum = w.zones.size() > kZoneSum ? w.formats.data() + 2 * w.shape.kv_heads : nullptr,
                                .channels = w.channels.data(),
                                .moves = moves.data(),
                                .head_dim = w.shape.d};
  for (int32_t i = 0; i < static_cast<int32_t>(moves.size()); ++i) {
    for (int32_t g = 0; g < w.shape.kv_heads; ++g) ref::move_rows(args, i, g);
  }
}

// Sequences of several lengths whose rows [kSink, from) are in zone mid and, stale, in the full zone too.
struct MidWorld {
  MidWorld(const Mid& m, const std::vector<int>& lengths, int n_q, uint32_t seed)
      : w(m.shape, n_q * static_cast<int>(lengths.size()), seed), coded(m.k != m.shape.codec || m.v != m.shape.codec) {
    w.add_full_zone();
    const std::vector<RowFormat> formats = mid_formats(w, m);
    w.add_zone({.page_rows = kPageRows, .span = kSpanRows}, formats);
    if (m.means) w.add_sum_zone(kZoneMid);
    w.scale = 1.0f / std::sqrt(static_cast<float>(m.shape.d));
    for (size_t s = 0; s < lengths.size(); ++s) {
      const int length = lengths[s], from = (length - n_q - 40) / 32 * 32, seq = static_cast<int>(s);
      const uint32_t full0 = w.add_rows(0, length), mid0 = w.add_pages(1, from);
      for (const RowMove& move : moves_of(w, full0, mid0, from)) moves.push_back(move);
      plan.add_seq(seq * n_q, n_q, length - n_q, m.shape.heads);
      // Two runs of the full zone, which meet in one span where the sequence is short.
      plan.add_run({.page0 = full0, .rows = kSink}, kSpanRows, false, {seq}, kZoneFull);
      plan.add_run({.flags = kRunCausal, .page0 = full0, .row0 = from, .rows = length - from, .pos0 = from}, kSpanRows,
                   false, {seq}, kZoneFull);
      pare::Run mid{.zone = kZoneMid, .page0 = mid0, .row0 = kSink, .rows = from - kSink, .pos0 = kSink};
      mid.item_spans = from > 2048 ? 8 : 1;
      plan.add_run(mid, kSpanRows, false, {seq}, 2);
      if (!m.means) continue;
      pare::Run sum{.zone = kZoneSum, .page0 = mid0, .row0 = kSink / kSumRows, .pos0 = -1};
      sum.rows = from / kSumRows - sum.row0;
      sum.item_spans = mid.item_spans;
      plan.add_run(sum, kSpanRows, false, {seq}, 3);
    }
  }

  // The same world with zone mid in the queries' type: every value as the kernel must see it.
  DecodeWorld widened() const {
    DecodeWorld out = w;
    const int heads = w.shape.kv_heads;
    const std::vector<RowFormat> coded_formats(w.formats.begin() + heads, w.formats.begin() + 2 * heads);
    out.formats.resize(heads);
    out.zones.resize(1);
    out.pools.resize(1);
    std::vector<RowFormat> formats = coded_formats;
    for (RowFormat& f : formats) f.k_codec = f.v_codec = w.shape.codec;
    out.add_zone({.page_rows = kPageRows, .span = kSpanRows}, formats);
    const bool means = w.zones.size() > kZoneSum;
    if (means) out.add_sum_zone(kZoneMid);
    const size_t pages = w.pools[1].size() / coded_formats[0].page_bytes;
    out.pools[1].assign(pages * out.formats.back().page_bytes, std::byte{0xff});
    for (size_t page = 0; page < pages; ++page) {
      for (int g = 0; g < heads; ++g) {
        const RowFormat &from = coded_formats[g], &to = out.formats[heads + g];
        const std::byte* src = w.pools[1].data() + page * from.page_bytes;
        std::byte* dst = out.pools[1].data() + page * to.page_bytes;
        if (means && from.v_width == 0) {
          const RowFormat &sum = w.formats[2 * heads + g], &out_sum = out.formats[2 * heads + g];
          std::memcpy(dst + out_sum.v, src + sum.v, sum.lw + kSumPageRows * 4 - sum.v);
        }
        const auto put = [&](uint64_t plane, int index, float x) {
          const uint16_t bits = w.shape.codec == Codec::F16 ? float_to_half(x) : float_to_bfloat(x);
          std::memcpy(dst + plane + index * 2, &bits, 2);
        };
        for (int r = 0; r < kPageRows; ++r) {
          for (int c = 0; c < from.k_width; ++c) put(to.k, r * to.k_width + c, test::k_in_page(from, src, r, c));
          for (int c = 0; c < from.v_width; ++c) put(to.v, r * to.v_width + c, test::v_in_page(from, src, r, c));
        }
      }
    }
    return out;
  }

  DecodeWorld w;
  bool coded;
  SegmentPlanData plan;
  std::vector<RowMove> moves;
};

std::vector<Mid> all_mids() {
  std::vector<Mid> out;
  const DecodeShape eight{.heads = 8, .kv_heads = 4, .d = 128}, seven{.heads = 14, .kv_heads = 2, .d = 64};
  for (Codec k : {Codec::Bf16, Codec::I8, Codec::I4, Codec::I2}) {
    for (Codec v : {Codec::Bf16, Codec::I8, Codec::I4, Codec::I2}) {
      out.push_back({.shape = eight, .k = k, .v = v, .widths = {16, 128, 0, 96}, .means = k != v});
      out.push_back({.shape = seven, .k = k, .v = v, .widths = {48, 64}, .k_group = 16, .v_group = 64});
    }
  }
  // Whole pages of one scale, the most scales of V, and rows so large that few are staged.
  for (Codec codec : {Codec::I8, Codec::I4}) {
    out.push_back({.shape = eight, .k = codec, .v = codec, .widths = {128, 64, 0, 32}, .k_group = 64, .v_group = 16});
  }
  // Every head of a layer empty; estimated rows beside quantized ones in a layer of two heads.
  out.push_back({.shape = seven, .widths = {0, 0}, .means = true});
  out.push_back({.shape = seven, .k = Codec::I4, .v = Codec::I4, .widths = {0, 64}, .means = true});
  for (Codec codec : {Codec::F16, Codec::I4}) {
    out.push_back({.shape = {.heads = 8, .kv_heads = 2, .d = 256, .codec = Codec::F16},
                   .k = codec,
                   .v = codec,
                   .widths = {0, 128},
                   .means = true});
    out.push_back({.shape = {.heads = 8, .kv_heads = 2, .d = 256, .codec = Codec::F16},
                   .k = codec,
                   .v = codec,
                   .widths = {256, 208},
                   .k_group = 64,
                   .v_group = 128});
    out.push_back({.shape = {.heads = 4, .kv_heads = 2, .d = 80, .codec = Codec::F16},
                   .k = codec,
                   .v = codec,
                   .widths = {80, 32},
                   .v_group = 16});
  }
  return out;
}

std::string name_of(const Mid& m) {
  static constexpr const char* kNames[] = {"F32", "F16", "Bf16", "I8", "I4", "I2"};
  return std::string(kNames[static_cast<int>(m.k)]) + "/" + kNames[static_cast<int>(m.v)] + ", D " +
         std::to_string(m.shape.d);
}

class MidRowsTest : public CudaTest {};

TEST_F(MidRowsTest, MovesEqualReferenceBitForBit) {
  uint32_t seed = 0;
  for (const Mid& m : all_mids()) {
    SCOPED_TRACE(name_of(m));
    MidWorld mid(m, {300, 133, 110, 9000}, 1, ++seed);
    DecodeWorld& w = mid.w;
    // Some values that are not finite, some far too large, and a stretch of zeros of both signs.
    auto* full = reinterpret_cast<uint16_t*>(w.pools[0].data());
    const size_t n = w.pools[0].size() / 2;
    for (size_t i = 7; i < n; i += 4099) full[i] = static_cast<uint16_t>(w.random(0, 1 << 16));
    for (size_t i = n / 2; i < n / 2 + 3000; ++i) full[i] = i % 3 == 0 ? 0x8000 : 0;

    std::vector<DeviceBuffer> pools;
    MoveRowsArgs args;
    for (size_t i = 0; i < w.pools.size(); ++i) {
      pools.push_back(to_device(w.pools[i]));
      args.pools[i] = pools.back().data();
    }
    const DeviceBuffer formats = to_device(w.formats), channels = to_device(w.channels);
    args.moves = mid.moves.data();
    args.n_moves = static_cast<int32_t>(mid.moves.size());
    ASSERT_GT(args.n_moves, kMovesPerLaunch);
    args.full = formats.as<RowFormat>();
    args.mid = args.full + w.shape.kv_heads;
    if (m.means) args.sum = args.mid + w.shape.kv_heads;
    if (m.means) args.host_sum = w.formats.data() + 2 * w.shape.kv_heads;
    args.host_full = w.formats.data();
    args.host_mid = w.formats.data() + w.shape.kv_heads;
    args.n_formats = w.shape.kv_heads;
    args.channels = channels.as<Channel>();
    const Status status = move_rows(args, nullptr, seed % 2 == 0);
    ASSERT_TRUE(status.ok()) << status.to_string();
    sync();
    move_by_ref(w, mid.moves);
    EXPECT_EQ(to_host<std::byte>(pools[1], w.pools[1].size()), w.pools[1]);
    EXPECT_EQ(to_host<std::byte>(pools[0], w.pools[0].size()), w.pools[0]);
  }
}

TEST_F(MidRowsTest, DecodeSeesTheSameValuesWhateverTheCodec) {
  uint32_t seed = 100;
  for (const Mid& m : all_mids()) {
    for (const int n_q : {1, 5}) {
      SCOPED_TRACE(name_of(m) + ", " + std::to_string(n_q) + " query rows");
      MidWorld mid(m, {110, 300, 700, 2600}, n_q, ++seed);
      move_by_ref(mid.w, mid.moves);
      if (seed % 4 == 0) mid.w.softcap = 5.0f;
      DecodeWorld plain = mid.widened();
      const DecodeResult result = run_device(mid.w, mid.plan);
      expect_close(plain, mid.plan, run_device(plain, mid.plan));
      EXPECT_EQ(result, run_device(plain, mid.plan)) << "quantized and widened rows differ";
      // Neither the number of blocks nor how the work is dealt to them, nor what ran before.
      EXPECT_EQ(result, run_device(mid.w, mid.plan, {.blocks = 1}));
      EXPECT_EQ(result, run_device(mid.w, mid.plan, {.blocks = 7}, 3));
      EXPECT_EQ(result, run_device(mid.w, mid.plan, {.query_rows = 16}));
    }
  }
}

// Noise in rows that no run names, in dropped channels and in absent heads is not read at all: zone mid does not hold
// it. What is left to show is that moved rows depend on kept channels alone.
TEST_F(MidRowsTest, DroppedChannelsChangeNothing) {
  const Mid m{.shape = {.heads = 4, .kv_heads = 2, .d = 64}, .k = Codec::I4, .v = Codec::I4, .widths = {32, 0}};
  MidWorld before(m, {300}, 1, 7), after(m, {300}, 1, 7);
  std::vector<bool> kept(64);
  for (int c = 0; c < 32; ++c) kept[before.w.channels[before.w.formats[2].chan + c].id] = true;
  const auto disturb = [&](DecodeWorld& w, bool of_kept) {
    const RowFormat& f = w.formats[0];
    std::byte* page = w.pools[0].data() + static_cast<size_t>(before.moves[1].src) * f.page_bytes;
    auto* row = reinterpret_cast<uint16_t*>(page + f.k) + 5 * 64;
    for (int c = 0; c < 64; ++c) {
      if (kept[c] == of_kept) row[c] = float_to_bfloat(w.normal());
    }
  };
  const auto run = [&](MidWorld& mid) {
    move_by_ref(mid.w, mid.moves);
    return run_device(mid.w, mid.plan);
  };
  const DecodeResult base = run(before);
  disturb(after.w, false);
  EXPECT_EQ(run(after), base);
  disturb(after.w, true);
  EXPECT_FALSE(run(after) == base);
}

}  // namespace
}  // namespace pare::cuda
