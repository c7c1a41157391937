// The prefill kernels against the CPU's fp32 attention, fed with the same rounded inputs, and against the meaning of
// the plan, key by key. Pages lie shuffled; every stored byte that no row attends is part of a NaN, and so is every
// output before the call.
#include "kernels/cuda/prefill_attention.h"

#include "prefill_store.h"

namespace pare::cuda {
namespace {

struct Result {
  std::vector<float> out, lse;  // of all parts' rows
};

// The parts' plans as one.
BlockPlanData join(const std::vector<Part>& parts) {
  if (parts.size() == 1) return *parts[0].plan;
  BlockPlanData all;
  all.tile_rows = parts[0].plan->tile_rows;
  int32_t row = 0;
  for (size_t s = 0; s < parts.size(); ++s) {
    const BlockPlanData& p = *parts[s].plan;
    for (QTile t : p.tiles) {
      t.seq = static_cast<int32_t>(s);
      t.row0 += row;
      t.list0 += static_cast<int32_t>(all.lists.size());
      all.tiles.push_back(t);
    }
    for (KeyList l : p.lists) {
      l.abs0 += static_cast<int32_t>(all.ranges.size());
      l.rel0 += static_cast<int32_t>(all.ranges.size());
      all.lists.push_back(l);
    }
    all.ranges.insert(all.ranges.end(), p.ranges.begin(), p.ranges.end());
    row += parts[s].n;
  }
  return all;
}

struct RunOptions {
  Codec codec = Codec::Bf16;
  bool plain = false, lse = false;
  int repeats = 1;  // launches, each must leave the same bits
  int active_heads = 0;
};

Result run_device(const std::vector<Part>& parts, const RunOptions& options) {
  const World& w = *parts[0].w;
  const DType dtype = options.codec == Codec::Bf16 ? DType::BF16 : DType::F16;
  const DeviceStore store(parts, options.codec);
  const size_t row = static_cast<size_t>(w.shape.heads) * w.shape.d;
  std::vector<uint16_t> q;
  std::vector<SeqStep> seqs;
  int32_t n_rows = 0;
  for (size_t s = 0; s < parts.size(); ++s) {
    const Part& p = parts[s];
    SeqStep seq{.q_row = n_rows, .n_q = p.n, .pos = p.pos, .prompt_len = p.pos + p.n, .page0 = store.page0[s]};
    seq.heads = static_cast<uint16_t>(options.active_heads);
    seqs.push_back(seq);
    for (size_t i = 0; i < p.n * row; ++i) q.push_back(narrow(p.w->q[p.pos * row + i], options.codec));
    n_rows += p.n;
  }
  const BlockPlanData host = join(parts);
  const int32_t n_tiles = static_cast<int32_t>(host.tiles.size());
  const DeviceBuffer tiles = to_device(host.tiles), count = to_device(std::vector<int32_t>{n_tiles}),
                     lists = to_device(host.lists), ranges = to_device(host.ranges), cols = to_device(host.cols),
                     bits = to_device(host.bits), row_ids = to_device(host.row_ids), claimed = to_device(host.claimed),
                     limit = to_device(host.limit), q_device = to_device(q), seqs_device = to_device(seqs);
  BlockPlan plan;
  plan.tiles = tiles.as<QTile>();
  plan.n_tiles = count.as<int32_t>();
  plan.lists = lists.as<KeyList>();
  plan.ranges = ranges.as<Range>();
  plan.cols = cols.as<int32_t>();
  plan.bits = bits.as<uint32_t>();
  plan.row_ids = row_ids.as<int32_t>();
  plan.claimed = host.claimed.empty() ? nullptr : claimed.as<uint32_t>();
  plan.limit = host.limit.empty() ? nullptr : limit.as<int32_t>();
  plan.tiles_cap = n_tiles;
  plan.tile_rows = host.tile_rows;

  AttentionLayer layer = store.layer(w);
  layer.dtype = dtype;
  layer.seqs = seqs_device.as<SeqStep>();
  layer.n_seqs = static_cast<int32_t>(seqs.size());
  layer.n_rows = n_rows;
  layer.q = q_device.data();
  Expected<KvTensorMap> map = make_kv_tensor_map(store.pool().data(), store.pool().size(), w.shape.d, dtype);
  const DeviceBuffer workspace = to_device(std::vector<uint8_t>(kPrefillWorkspaceBytes, 0));
  Result result;
  std::vector<uint16_t> first;
  for (int i = 0; i < options.repeats; ++i) {
    const DeviceBuffer out = poisoned<uint16_t>(n_rows * row);
    const DeviceBuffer lse = poisoned<float>(static_cast<size_t>(n_rows) * w.shape.heads);
    layer.out = out.data();
    layer.lse = options.lse ? lse.as<float>() : nullptr;
    const Status status =
        prefill_attention(layer, plan, map.ok() ? &*map : nullptr, workspace.data(), {.plain = options.plain}, nullptr);
    EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
    const auto bits16 = to_host<uint16_t>(out, n_rows * row);
    if (i > 0) {
      EXPECT_EQ(std::memcmp(bits16.data(), first.data(), 2 * bits16.size()), 0) << "launch " << i;
    }
    first = bits16;
    result.lse = to_host<float>(lse, static_cast<size_t>(n_rows) * w.shape.heads);
  }
  for (uint16_t x : first) result.out.push_back(widen(x, options.codec));
  return result;
}

void expect_like_cpu(World& w, BlockPlanData& plan, int pos, int n, const RunOptions& options = {}) {
  round_inputs(w, options.codec);
  w.append(fastest_fp32(), 0, w.shape.rows);
  const auto expected = run_prefill(w, fastest_fp32(), plan, pos, n);
  expect_near(w, run_device({{&w, &plan, pos, n, {}}}, options).out, expected, options.codec);
}

class PrefillAttention : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    cudaDeviceProp device;
    ASSERT_EQ(cudaGetDeviceProperties(&device, 0), cudaSuccess);
    kinds_ = {true};
    if (device.major == 9) kinds_.push_back(false);
  }
  std::vector<bool> kinds_;  // RunOptions::plain of the kernels that this card runs
};

TEST_F(PrefillAttention, DenseOfManyLengths) {
  for (bool plain : kinds_) {
    for (int rows : {1, 63, 65, 127, 129, 1091}) {
      SCOPED_TRACE(::testing::Message() << "rows " << rows << (plain ? " plain" : " hopper"));
      World w = make_world(4, 2, 128, rows);
      w.scale = 0.088f;
      BlockPlanData plan = dense_plan(w, 0, rows, 128);
      expect_like_cpu(w, plan, 0, rows, {.plain = plain, .repeats = plain ? 1 : 3});
    }
  }
}

TEST_F(PrefillAttention, HeadDimensionsTypesAndGroups) {
  for (bool plain : kinds_) {
    for (int d : {64, 96, 128, 256}) {
      for (Codec codec : {Codec::Bf16, Codec::F16}) {
        for (int group : {1, 4, 7, 8}) {
          SCOPED_TRACE(::testing::Message() << "D " << d << " codec " << static_cast<int>(codec) << " group " << group);
          const int kv_heads = group == 1 ? 3 : 1, tile_rows = group == 4 ? 32 : group == 7 ? 64 : 128;
          World w = make_world(group * kv_heads, kv_heads, d, plain ? 150 : 517, d + group);
          BlockPlanData plan = dense_plan(w, 0, w.shape.rows, tile_rows);
          expect_like_cpu(w, plan, 0, w.shape.rows, {.codec = codec, .plain = plain});
        }
      }
    }
  }
}

TEST_F(PrefillAttention, ChunksStartAnywhere) {
  World w = make_world(4, 1, 128, 700);
  for (bool plain : kinds_) {
    for (const auto& [pos, n] :
         std::vector<std::pair<int, int>>{{1, 699}, {128, 5}, {500, 200}, {130, 126}, {699, 1}}) {
      SCOPED_TRACE(pos);
      BlockPlanData plan = dense_plan(w, pos, n, 128);
      expect_like_cpu(w, plan, pos, n, {.plain = plain});
    }
  }
}

TEST_F(PrefillAttention, SinkWindowAndLastRowsDense) {
  World w = make_world(4, 2, 128, 1091);
  for (bool plain : kinds_) {
    for (int tile_rows : {128, 32}) {
      BlockPlanData plan = grid_plan(w, 0, 1091, tile_rows);
      plan.ranges = {{0, 8}, {0, 200}, {0, INT32_MAX}};
      plan.lists = {{.abs0 = 0, .n_abs = 1, .rel0 = 1, .n_rel = 1, .sink = 8, .window = 200, .dense_from = 1000},
                    {.abs0 = 2, .n_abs = 1, .sink = 8, .window = 200, .dense_from = 1000}};
      for (QTile& t : plan.tiles) t.list0 = t.pos_hi > 1000 ? 1 : 0;
      expect_like_cpu(w, plan, 0, 1091, {.plain = plain});
    }
  }
}

TEST_F(PrefillAttention, RaggedBatch) {
  for (bool plain : kinds_) {
    std::vector<World> worlds;
    std::vector<BlockPlanData> plans;
    for (int rows : {300, 1, 129, 64, 500}) worlds.push_back(make_world(4, 2, 128, rows, rows));
    const std::vector<std::pair<int, int>> chunks = {{100, 200}, {0, 1}, {0, 129}, {60, 4}, {257, 243}};
    std::vector<float> expected;
    for (size_t s = 0; s < worlds.size(); ++s) {
      round_inputs(worlds[s], Codec::Bf16);
      worlds[s].append(fastest_fp32(), 0, worlds[s].shape.rows);
      plans.push_back(dense_plan(worlds[s], chunks[s].first, chunks[s].second, 128));
      const auto rows = run_prefill(worlds[s], fastest_fp32(), plans[s], chunks[s].first, chunks[s].second);
      expected.insert(expected.end(), rows.begin(), rows.end());
    }
    std::vector<Part> parts;
    for (size_t s = 0; s < worlds.size(); ++s) {
      parts.push_back({&worlds[s], &plans[s], chunks[s].first, chunks[s].second, {}});
    }
    expect_near(worlds[0], run_device(parts, {.plain = plain, .repeats = 2}).out, expected, Codec::Bf16);
  }
}

TEST_F(PrefillAttention, SoftcapAndLogSumExp) {
  for (bool plain : kinds_) {
    for (float softcap : {0.0f, 5.0f}) {
      World w = make_world(2, 1, 64, 200);
      w.softcap = softcap;
      round_inputs(w, Codec::Bf16);
      w.append(fastest_fp32(), 0, 200);
      BlockPlanData plan = dense_plan(w, 0, 200, 128);
      const auto expected = run_prefill(w, fastest_fp32(), plan, 0, 200);
      const Result got = run_device({{&w, &plan, 0, 200, {}}}, {.plain = plain, .lse = true});
      expect_near(w, got.out, expected, Codec::Bf16, softcap == 0 ? 0 : softcap * 0x1p-18);
      for (int i : {0, 1, 77, 199}) {
        for (int h = 0; h < 2; ++h) {
          double sum = 0;
          for (int j = 0; j <= i; ++j) {
            double s = 0;
            for (int c = 0; c < 64; ++c) s += static_cast<double>(w.query(i, h)[c]) * w.key(j, 0)[c];
            s *= w.scale;
            if (softcap != 0) s = softcap * std::tanh(s / softcap);
            sum += std::exp(s);
          }
          EXPECT_NEAR(got.lse[i * 2 + h], std::log(sum), 1e-4);
        }
      }
    }
  }
}

// Logits of +-10,000 that bf16 holds exactly: weights are one-hot or tied, and nothing overflows.
TEST_F(PrefillAttention, ExtremeLogits) {
  for (bool plain : kinds_) {
    World w = make_world(2, 1, 128, 400);
    w.scale = 1.0f;
    std::fill(w.q.begin(), w.q.end(), 0.0f);
    std::fill(w.k.begin(), w.k.end(), 0.0f);
    for (int i = 0; i < 400; ++i) {
      for (int h = 0; h < 2; ++h) w.q[(i * 2 + h) * 128] = h == 0 ? 100.0f : -100.0f;
      w.k[i * 128] = static_cast<float>(w.random(-2, 3)) * 50.0f;
    }
    BlockPlanData plan = dense_plan(w, 0, 400, 128);
    expect_like_cpu(w, plan, 0, 400, {.plain = plain});
  }
}

TEST_F(PrefillAttention, HeadsBeyondTheSequencesAreLeftAlone) {
  for (bool plain : kinds_) {
    World w = make_world(4, 2, 64, 100);
    round_inputs(w, Codec::Bf16);
    w.append(fastest_fp32(), 0, 100);
    BlockPlanData plan = dense_plan(w, 0, 100, 64);
    auto expected = run_prefill(w, fastest_fp32(), plan, 0, 100);
    for (size_t i = 0; i < expected.size(); ++i) {
      if (i / 64 % 4 == 3) expected[i] = NAN;
    }
    expect_near(w, run_device({{&w, &plan, 0, 100, {}}}, {.plain = plain, .active_heads = 3}).out, expected,
                Codec::Bf16);
  }
}

// Random plans: numbers as on the CPU; and with q = 0 every attended key weighs the same, so that values that are
// one-hot in their position show which keys a row attended: none missing, doubled or seen too early.
TEST_F(PrefillAttention, RandomPlansAttendExactlyTheirKeys) {
  test::TrialShapes shapes;
  shapes.d = {64, 128, 128, 96, 256};
  shapes.tile_rows = {16, 32, 64, 128, 128};
  shapes.codecs = {Codec::F32};
  shapes.max_queries = 200;
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    test::Trial t = test::random_trial(seed, shapes);
    World& w = t.w;
    const int d = w.shape.d, heads = w.shape.heads, rows = w.shape.rows;
    const Codec codec = seed % 3 == 0 ? Codec::F16 : Codec::Bf16;
    SCOPED_TRACE(::testing::Message() << "seed " << seed << " D " << d << " heads " << heads << "/" << w.shape.kv_heads
                                      << " tile rows " << t.plan.tile_rows << " pos " << t.pos << " rows " << t.n << "/"
                                      << rows);
    std::vector<std::vector<int>> keys;
    std::vector<bool> used(static_cast<size_t>(rows) * w.shape.kv_heads, false);
    for (int i = 0; i < t.n; ++i) {
      for (int h = 0; h < heads; ++h) {
        keys.push_back(test::attended_keys(t, i, h));
        for (int j : keys.back()) used[static_cast<size_t>(j) * w.shape.kv_heads + w.kv_head(h)] = true;
      }
    }
    round_inputs(w, codec);
    w.append(fastest_fp32(), 0, rows);
    const auto expected = run_prefill(w, fastest_fp32(), t.plan, t.pos, t.n);
    for (bool plain : kinds_) {
      if (plain && seed % 4 != 0) continue;
      const Part part{&w, &t.plan, t.pos, t.n, used};
      expect_near(w, run_device({part}, {.codec = codec, .plain = plain}).out, expected, codec);
      World probe = w;
      std::fill(probe.q.begin(), probe.q.end(), 0.0f);
      const int first = w.random(0, (rows + d - 1) / d) * d;  // positions first...first + d - 1 show
      std::fill(probe.v.begin(), probe.v.end(), 0.0f);
      for (int j = first; j < std::min(rows, first + d); ++j) {
        for (int g = 0; g < w.shape.kv_heads; ++g) {
          probe.v[(static_cast<size_t>(j) * w.shape.kv_heads + g) * d + j - first] = 1.0f;
        }
      }
      const auto shown = run_device({{&probe, &t.plan, t.pos, t.n, used}}, {.codec = codec, .plain = plain}).out;
      for (size_t r = 0; r < keys.size(); ++r) {
        for (int c = 0; c < d; ++c) {
          const bool attended = std::binary_search(keys[r].begin(), keys[r].end(), first + c);
          const float weight = attended ? test::rounded(1.0f / static_cast<float>(keys[r].size()), codec) : 0.0f;
          ASSERT_EQ(shown[r * d + c], weight) << "row " << r / heads << " head " << r % heads << " key " << first + c;
        }
      }
    }
    if (HasFailure()) return;
  }
}

TEST_F(PrefillAttention, RefusesWhatItCannotRun) {
  AttentionLayer layer;
  layer.head_dim = 72;  // no multiple of 16
  layer.n_heads = layer.kv.n_kv_heads = 1;
  BlockPlan plan;
  plan.tile_rows = 128;
  EXPECT_EQ(prefill_attention(layer, plan, nullptr, nullptr, {}, nullptr).code(), StatusCode::kUnsupported);
  RowFormat format;  // Order::Tiles
  layer.head_dim = 128;
  layer.host_formats = &format;
  EXPECT_EQ(prefill_attention(layer, plan, nullptr, nullptr, {}, nullptr).code(), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace pare::cuda
