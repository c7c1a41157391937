// A paged store of Order::Rows on the host and on the card, and runners of SegmentPlans over both: kernels/ref as the
// oracle, decode_attention as what is tested. Pages lie shuffled, and every byte that no test wrote is part of a NaN.
#pragma once

#include "../unit/kernels/attention_world.h"
#include "cuda_test.h"
#include "kernels/attention_walk.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/ref/attention_ref.h"

namespace pare::cuda {

struct DecodeShape {
  int heads = 4, kv_heads = 1, d = 128;
  Codec codec = Codec::Bf16;
  bool tiled_heads = false;  // head map (1, K) instead of (R, 1)
};

// Everything that a launch gives back, bit for bit.
struct DecodeResult {
  std::vector<uint16_t> out;
  std::vector<float> lse;
  bool operator==(const DecodeResult& other) const {
    return out == other.out && std::memcmp(lse.data(), other.lse.data(), lse.size() * sizeof(float)) == 0;
  }
};

class DecodeWorld {
 public:
  DecodeWorld(const DecodeShape& s, int q_rows, uint32_t seed) : shape(s), rng_(seed) {
    q.resize(static_cast<size_t>(q_rows) * s.heads * s.d);
    for (float& x : q) x = test::rounded(normal(), s.codec);
  }

  int group() const { return shape.heads / shape.kv_heads; }
  int random(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi - 1)(rng_); }
  float normal() { return std::normal_distribution<float>()(rng_); }

  // A zone whose K keeps widths[g] channels of KV head g.
  int add_zone(const Zone& zone, const std::vector<int>& widths, bool log_weights = false, int chan = -1) {
    uint64_t at = 0;
    for (int g = 0; g < shape.kv_heads; ++g) {
      RowFormat f;
      f.k = at;
      f.v = f.k + zone.page_rows * uint64_t{2} * widths[g];
      at = f.v + zone.page_rows * uint64_t{2} * shape.d;
      if (log_weights) f.lw = at;
      at += zone.page_rows * uint64_t{4};
      f.k_width = static_cast<uint16_t>(widths[g]);
      f.v_width = static_cast<uint16_t>(shape.d);
      f.k_codec = f.v_codec = shape.codec;
      f.order = Order::Rows;
      f.chan = chan;
      f.pool = static_cast<uint8_t>(pools.size());
      formats.push_back(f);
    }
    for (int g = 0; g < shape.kv_heads; ++g) formats[formats.size() - 1 - g].page_bytes = static_cast<uint32_t>(at);
    zones.push_back(zone);
    pools.emplace_back();
    return static_cast<int>(zones.size()) - 1;
  }
  // A zone whose heads keep rows as `heads` says (widths, codecs, groups, chan); planes are placed here.
  int add_zone(const Zone& zone, std::vector<RowFormat> heads) {
    uint64_t at = 0;
    const auto take = [&at](uint64_t bytes) {
      const uint64_t begin = at;
      at += (bytes + 15) / 16 * 16;
      return begin;
    };
    for (RowFormat& f : heads) {
      f.k = take(uint64_t{zone.page_rows} * f.k_width * codec_bits(f.k_codec) / 8);
      f.v = take(uint64_t{zone.page_rows} * f.v_width * codec_bits(f.v_codec) / 8);
      f.ks = is_quantized(f.k_codec) ? take(uint64_t{4} * zone.page_rows / f.k_group * f.k_width) : kNoPlane;
      f.vs = is_quantized(f.v_codec) ? take(uint64_t{4} * zone.page_rows * (f.v_width / f.v_group)) : kNoPlane;
      f.order = Order::Rows;
      f.pool = static_cast<uint8_t>(pools.size());
    }
    for (RowFormat& f : heads) f.page_bytes = static_cast<uint32_t>(at);
    formats.insert(formats.end(), heads.begin(), heads.end());
    zones.push_back(zone);
    pools.emplace_back();
    return static_cast<int>(zones.size()) - 1;
  }
  // Estimated rows for the heads that zone `mid` has no rows of: behind its planes, in its pages. Before any page is
  // added to it.
  int add_sum_zone(int mid) {
    const size_t mid0 = static_cast<size_t>(mid) * shape.kv_heads;
    uint64_t at = formats[mid0].page_bytes;
    std::vector<RowFormat> sums(shape.kv_heads);
    for (int g = 0; g < shape.kv_heads; ++g) {
      RowFormat& f = sums[g];
      f.pool = formats[mid0].pool;
      if (formats[mid0 + g].v_width != 0) continue;
      f.k = f.v = at;
      f.lw = at + uint64_t{kSumPageRows} * shape.d * 2;
      at = f.lw + kSumPageRows * 4;
      f.v_width = static_cast<uint16_t>(shape.d);
      f.k_codec = f.v_codec = shape.codec;
      f.order = Order::Rows;
    }
    formats.insert(formats.end(), sums.begin(), sums.end());
    for (size_t i = mid0; i < formats.size(); ++i) formats[i].page_bytes = static_cast<uint32_t>(at);
    zones.push_back({.page_rows = kSumPageRows, .span = kSpanRows});
    return static_cast<int>(zones.size()) - 1;
  }
  int add_full_zone() {
    return add_zone({.page_rows = kPageRows, .span = kSpanRows}, std::vector<int>(shape.kv_heads, shape.d));
  }

  // Room for `rows` rows of a zone: fresh pages in random order. Returns where their list begins in page_ids.
  uint32_t add_pages(int zone, int rows) {
    const auto page_rows = static_cast<int>(zones[zone].page_rows);
    const uint32_t page_bytes = formats[static_cast<size_t>(zone) * shape.kv_heads].page_bytes;
    const int n = (rows + page_rows - 1) / page_rows, first = static_cast<int>(pools[zone].size() / page_bytes);
    pools[zone].resize(pools[zone].size() + static_cast<size_t>(n) * page_bytes, std::byte{0xff});
    const auto begin = static_cast<uint32_t>(page_ids.size());
    for (int i = 0; i < n; ++i) page_ids.push_back(first + i);
    std::shuffle(page_ids.begin() + begin, page_ids.end(), rng_);
    return begin;
  }
  // Random rows [lo, hi) of the list that begins at page0.
  void fill_rows(int zone, uint32_t page0, int lo, int hi) {
    const auto page_rows = static_cast<int>(zones[zone].page_rows);
    for (int row = lo; row < hi; ++row) {
      for (int g = 0; g < shape.kv_heads; ++g) {
        const RowFormat& f = formats[static_cast<size_t>(zone) * shape.kv_heads + g];
        std::byte* base = pools[zone].data() + static_cast<size_t>(page_ids[page0 + row / page_rows]) * f.page_bytes;
        const int in_page = row % page_rows;
        for (int c = 0; c < f.k_width; ++c) put(base + f.k, in_page * f.k_width + c, normal());
        for (int c = 0; c < shape.d; ++c) put(base + f.v, in_page * shape.d + c, normal());
        if (f.lw == kNoPlane) continue;
        const float lw = row % 9 == 4 ? -std::numeric_limits<float>::infinity() : std::log(1.0f + row % 30);
        std::memcpy(base + f.lw + in_page * 4, &lw, 4);
      }
    }
  }
  // A sequence of `length` rows in the full zone.
  uint32_t add_rows(int zone, int length) {
    const uint32_t page0 = add_pages(zone, length);
    fill_rows(zone, page0, 0, length);
    return page0;
  }

  template <typename Layer>
  void describe(Layer& layer) const {
    layer.kv.n_kv_layers = 1;
    layer.kv.n_kv_heads = shape.kv_heads;
    layer.kv.head_dim = shape.d;
    layer.n_heads = shape.heads;
    layer.head_dim = shape.d;
    layer.qa = shape.tiled_heads ? 1 : group();
    layer.qb = shape.tiled_heads ? shape.kv_heads : 1;
    layer.scale = scale;
    layer.softcap = softcap;
    layer.n_rows = static_cast<int32_t>(q.size()) / (shape.heads * shape.d);
  }

  DecodeShape shape;
  float scale = 0.125f, softcap = 0.0f;
  std::vector<float> q;  // [T][H][D], values of the codec
  std::vector<RowFormat> formats;
  std::vector<Zone> zones;
  std::vector<Channel> channels;
  std::vector<int32_t> page_ids;
  std::vector<std::vector<std::byte>> pools;

 private:
  void put(std::byte* plane, int index, float x) const {
    const uint16_t bits = shape.codec == Codec::F16 ? float_to_half(x) : float_to_bfloat(x);
    std::memcpy(plane + index * 2, &bits, 2);
  }
  std::mt19937 rng_;
};

struct OracleResult {
  std::vector<float> out;   // [T][H][D]; NaN where nothing is written
  std::vector<double> lse;  // [T][H]
};
inline OracleResult run_oracle(const DecodeWorld& w, test::SegmentPlanData data) {
  pare::AttentionLayer layer;
  w.describe(layer);
  for (size_t i = 0; i < w.pools.size(); ++i) layer.kv.pools[i] = w.pools[i].data();
  layer.kv.formats = w.formats.data();
  layer.kv.zones = w.zones.data();
  layer.kv.channels = w.channels.data();
  layer.kv.page_ids = w.page_ids.data();
  layer.seqs = data.seqs.data();
  layer.q = w.q.data();
  OracleResult result;
  result.out.assign(w.q.size(), std::numeric_limits<float>::quiet_NaN());
  result.lse.assign(w.q.size() / w.shape.d, std::numeric_limits<double>::quiet_NaN());
  layer.out = result.out.data();
  const SegmentPlan plan = data.view(w.shape.heads, w.shape.d);
  const AttentionKernels& kernels = ref::attention_kernels();
  std::vector<std::byte> workspace(kernels.decode_workspace_bytes(kDecodeRowsMax * w.group(), w.shape.d) + 64);
  AttentionCounters counters;
  for (int32_t item = 0; item < data.item_prefix.back(); ++item) {
    for (int32_t g = 0; g < w.shape.kv_heads; ++g)
      kernels.decode_item(layer, plan, item, g, workspace.data(), &counters);
  }
  for (size_t s = 0; s < data.seqs.size(); ++s) {
    const SeqStep& seq = data.seqs[s];
    for (int32_t g = 0; g < w.shape.kv_heads; ++g) {
      kernels.decode_fold(layer, plan, static_cast<int32_t>(s), g);
      for (int32_t row = 0; row < seq.n_q * w.group(); ++row) {
        double sum = 0, best = -std::numeric_limits<double>::infinity();
        const auto each_part = [&](auto use) {
          for (const Fold& fold : data.folds_of[s]) {
            for (int32_t p = 0; p < fold.n_parts; ++p) {
              const float* part = decode_part(plan, w.shape.kv_heads, w.group(), w.shape.d, seq.n_q,
                                              fold.part0 + static_cast<int64_t>(p) * seq.n_q, g, row);
              if (part[1] > 0) use(part[0] + std::log2(static_cast<double>(part[1])));
            }
          }
        };
        each_part([&](double x) { best = std::max(best, x); });
        each_part([&](double x) { sum += std::exp2(x - best); });
        const int head = g * layer.qa + row % w.group() * layer.qb;
        result.lse[static_cast<size_t>(seq.q_row + row / w.group()) * w.shape.heads + head] =
            (best + std::log2(sum)) * std::log(2.0);
      }
    }
  }
  return result;
}

inline DecodeResult run_device(const DecodeWorld& w, test::SegmentPlanData data, const DecodeOptions& options = {},
                               int launches = 1) {
  data.place_folds();
  std::vector<uint16_t> q(w.q.size());
  for (size_t i = 0; i < q.size(); ++i) {
    q[i] = w.shape.codec == Codec::F16 ? float_to_half(w.q[i]) : float_to_bfloat(w.q[i]);
  }
  AttentionLayer layer;
  w.describe(layer);
  std::vector<DeviceBuffer> pools;
  for (size_t i = 0; i < w.pools.size(); ++i) {
    pools.push_back(to_device(w.pools[i]));
    layer.kv.pools[i] = pools.back().data();
  }
  const auto formats = to_device(w.formats), zones = to_device(w.zones), channels = to_device(w.channels),
             page_ids = to_device(w.page_ids), seqs = to_device(data.seqs), queries = to_device(q);
  const auto out = poisoned<uint16_t>(q.size());
  const auto lse = poisoned<float>(q.size() / w.shape.d);
  layer.kv.formats = formats.as<RowFormat>();
  layer.kv.zones = zones.as<Zone>();
  layer.kv.channels = channels.as<Channel>();
  layer.kv.page_ids = page_ids.as<int32_t>();
  layer.host_formats = w.formats.data();
  if (w.zones.size() > kZoneMid) layer.host_mid = w.formats.data() + w.shape.kv_heads;
  layer.dtype = w.shape.codec == Codec::F16 ? DType::F16 : DType::BF16;
  layer.seqs = seqs.as<SeqStep>();
  layer.n_seqs = static_cast<int32_t>(data.seqs.size());
  layer.q = queries.data();
  layer.out = out.data();
  layer.lse = lse.as<float>();

  const size_t n_done = data.seqs.size() * w.shape.kv_heads;
  const size_t n_octets = static_cast<size_t>(data.n_parts / kOctetSpans + 1) * w.shape.kv_heads;
  const auto runs = to_device(data.runs), n_runs = to_device(std::vector<int32_t>{data.n_runs}),
             prefix = to_device(data.item_prefix), members = to_device(data.members), folds = to_device(data.folds),
             picks = to_device(data.picks), pick_n = to_device(data.pick_n), scores = to_device(data.scores),
             done = to_device(std::vector<uint32_t>(n_done, 0)),
             octet_done = to_device(std::vector<uint32_t>(n_octets, 0));
  const auto parts = poisoned<float>(static_cast<size_t>(data.n_parts) * w.shape.heads * (w.shape.d + 2));
  SegmentPlan plan;
  plan.runs = runs.as<Run>();
  plan.n_runs = n_runs.as<int32_t>();
  plan.item_prefix = prefix.as<int32_t>();
  plan.members = members.as<Member>();
  plan.folds = folds.as<Fold>();
  plan.picks = picks.as<Range>();
  plan.pick_n = pick_n.as<int32_t>();
  plan.scores = scores.as<float>();
  plan.parts = parts.as<float>();
  plan.done = done.as<uint32_t>();
  plan.octet_done = octet_done.as<uint32_t>();
  plan.runs_cap = data.n_runs;
  plan.items_cap = data.item_prefix.back();
  plan.parts_cap = data.n_parts;
  plan.window = data.window;
  for (int i = 0; i < launches; ++i) {
    const Status status = decode_attention(layer, plan, options, nullptr);
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
  if (options.blocks == 0) {
    // The same bits with the jobs that blocks begin with at hand.
    const auto alone = to_host<uint16_t>(out, q.size());
    int blocks = 0;
    EXPECT_EQ(cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, 0), cudaSuccess);
    const auto first_jobs = poisoned<std::byte>(first_jobs_bytes(blocks));
    Status status = resolve_first_jobs(layer, plan, first_jobs.data(), blocks, nullptr);
    EXPECT_TRUE(status.ok()) << status.to_string();
    DecodeOptions with = options;
    with.first_jobs = first_jobs.data();
    status = decode_attention(layer, plan, with, nullptr);
    EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(to_host<uint16_t>(out, q.size()), alone);
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
  EXPECT_EQ(to_host<uint32_t>(done, n_done), std::vector<uint32_t>(n_done, 0));
  EXPECT_EQ(to_host<uint32_t>(octet_done, n_octets), std::vector<uint32_t>(n_octets, 0));
  return {to_host<uint16_t>(out, q.size()), to_host<float>(lse, q.size() / w.shape.d)};
}

// Checks a launch against the oracle. What fp32 products in another order, an approximate exp2, and weights and results
// of 16 bits may differ by: the logits' error moves every weight, and the rounding of weights is measured in
// sum |p v| / l, which is what the oracle gives for values without their signs.
inline void expect_close(DecodeWorld& w, const test::SegmentPlanData& data, const DecodeResult& got) {
  const OracleResult expected = run_oracle(w, data);
  DecodeWorld unsigned_values = w;
  for (size_t zone = 0; zone < w.zones.size(); ++zone) {
    const auto page_rows = static_cast<size_t>(w.zones[zone].page_rows);
    for (int g = 0; g < w.shape.kv_heads; ++g) {
      const RowFormat& f = w.formats[zone * w.shape.kv_heads + g];
      auto& pool = unsigned_values.pools[f.pool];
      for (size_t page = 0; page * f.page_bytes < pool.size(); ++page) {
        std::byte* values = pool.data() + page * f.page_bytes + f.v;
        for (size_t i = 0; i < page_rows * f.v_width; ++i) values[2 * i + 1] &= std::byte{0x7f};
      }
    }
  }
  const OracleResult magnitude = run_oracle(unsigned_values, data);
  const double u16 = w.shape.codec == Codec::F16 ? 0x1p-11 : 0x1p-8;
  // |q . k| of normal values stays below 6 sqrt(D) a factor, its parts' magnitudes below 1.3 D; both terms of a scaled
  // query keep 2^-16.
  const double dot = w.scale * 2.0 * w.shape.d;
  const double logit_error =
      dot * (w.shape.d * 0x1p-24 + (w.channels.empty() ? 0.0 : 0x1p-16)) + 0x1p-20 * (1 + w.softcap);
  const int d = w.shape.d;
  int wrong = 0;
  for (size_t row = 0; row < expected.lse.size() && wrong < 4; ++row) {
    if (std::isnan(expected.out[row * d])) {
      for (int c = 0; c < d; ++c) wrong += got.out[row * d + c] != 0xffff;
      EXPECT_EQ(wrong, 0) << "row " << row << " is not of this plan";
      continue;
    }
    if (std::isinf(expected.lse[row])) {
      EXPECT_EQ(got.lse[row], expected.lse[row]);
    } else if (!(std::abs(got.lse[row] - expected.lse[row]) <=
                 logit_error + 0x1p-20 * (8 + std::abs(expected.lse[row])))) {
      ADD_FAILURE() << "lse " << got.lse[row] << " not " << expected.lse[row] << " of row " << row / w.shape.heads
                    << " head " << row % w.shape.heads;
      ++wrong;
    }
    for (int c = 0; c < d; ++c) {
      const uint16_t bits = got.out[row * d + c];
      const float x = w.shape.codec == Codec::F16 ? half_to_float(bits) : bfloat_to_float(bits);
      const double want = expected.out[row * d + c];
      const double tolerance =
          magnitude.out[row * d + c] * (u16 + 2 * logit_error + 0x1p-18) + u16 * std::abs(want) + 0x1p-24;
      if (std::abs(x - want) <= tolerance) continue;
      ADD_FAILURE() << x << " not " << want << " +- " << tolerance << " in row " << row / w.shape.heads << " head "
                    << row % w.shape.heads << " channel " << c;
      ++wrong;
      break;
    }
  }
}

}  // namespace pare::cuda
