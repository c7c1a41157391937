// Prompt attention through cuDNN against the CPU's fp32 attention, fed with the same rounded inputs. Pages lie
// shuffled, every stored byte that is no row's is part of a NaN, and so is every output before the call. Skipped where
// there is no libcudnn.
#include "kernels/cuda/cudnn_attention.h"

#include <gmock/gmock.h>

#include "kernels/cuda/cudnn_library.h"
#include "plan/causal_plan.h"
#include "plan/step.h"
#include "prefill_store.h"

namespace pare::cuda {
namespace {

using ::testing::HasSubstr;

class CudnnTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    if (const Status loaded = load_cudnn(); !loaded.ok()) GTEST_SKIP() << loaded.message();
  }
};

CudnnAttention::Limits limits_of(const World& w, int64_t max_keys, Codec codec = Codec::Bf16) {
  CudnnAttention::Limits limits;
  limits.heads = w.shape.heads;
  limits.kv_heads = w.shape.kv_heads;
  limits.head_dim = w.shape.d;
  limits.max_keys = max_keys;
  limits.dtype = codec == Codec::Bf16 ? DType::BF16 : DType::F16;
  return limits;
}

// The rows [pos, pos + n) of each part, packed, with a decoding sequence of one row among them whose output must stay
// as it was.
struct CudnnResult {
  std::vector<float> out;  // of the parts' rows
  bool decode_row_kept = true;
};

CudnnResult run_cudnn(CudnnAttention& attention, const std::vector<Part>& parts, Codec codec = Codec::Bf16) {
  const World& w = *parts[0].w;
  const DeviceStore store(parts, codec);
  const size_t row = static_cast<size_t>(w.shape.heads) * w.shape.d;
  std::vector<uint16_t> q(row, narrow(1.0f, codec));  // the decoding sequence's
  std::vector<SeqStep> seqs = {{.q_row = 0, .n_q = 1, .pos = 3, .prompt_len = 3, .page0 = store.page0[0]}};
  seqs[0].flags = kSeqDecode;
  int32_t n_rows = 1;
  for (size_t s = 0; s < parts.size(); ++s) {
    const Part& p = parts[s];
    seqs.push_back({.q_row = n_rows, .n_q = p.n, .pos = p.pos, .prompt_len = p.pos + p.n, .page0 = store.page0[s]});
    for (size_t i = 0; i < p.n * row; ++i) q.push_back(narrow(p.w->q[p.pos * row + i], codec));
    n_rows += p.n;
  }
  const DeviceBuffer q_device = to_device(q);
  const DeviceBuffer out = poisoned<uint16_t>((n_rows + 1) * row);  // and a row behind the last
  AttentionLayer layer = store.layer(w);
  layer.dtype = codec == Codec::Bf16 ? DType::BF16 : DType::F16;
  layer.n_seqs = static_cast<int32_t>(seqs.size());
  layer.n_rows = n_rows;
  layer.q = q_device.data();
  layer.out = out.data();
  cudaStream_t stream;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_TRUE(is_ok(attention.attend(layer, seqs, stream)));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
  cudaStreamDestroy(stream);
  CudnnResult run;
  const auto bits = to_host<uint16_t>(out, (n_rows + 1) * row);
  for (size_t i = 0; i < bits.size(); ++i) {
    if (i < row || i >= n_rows * row) {
      run.decode_row_kept &= bits[i] == 0xffff;
    } else {
      run.out.push_back(widen(bits[i], codec));
    }
  }
  return run;
}

void expect_like_cpu(CudnnAttention& attention, World& w, int pos, int n, Codec codec = Codec::Bf16) {
  round_inputs(w, codec);
  w.append(fastest_fp32(), 0, w.shape.rows);
  BlockPlanData plan = dense_plan(w, pos, n, 128);
  const auto expected = run_prefill(w, fastest_fp32(), plan, pos, n);
  const CudnnResult run = run_cudnn(attention, {{&w, &plan, pos, n, {}}}, codec);
  EXPECT_TRUE(run.decode_row_kept) << "rows of others were written";
  expect_near(w, run.out, expected, codec);
}

class CudnnGather : public CudaTest {};  // the copy alone, without the library

TEST_F(CudnnGather, RowsComeOutOfTheirPages) {
  World w = make_world(6, 3, 64, 517);
  round_inputs(w, Codec::Bf16);
  BlockPlanData plan = dense_plan(w, 0, 517, 128);
  const DeviceStore store({{&w, &plan, 0, 517, {}}}, Codec::Bf16);
  for (const int rows : {1, 63, 64, 65, 517}) {
    const size_t items = static_cast<size_t>(3) * rows * 64;
    const DeviceBuffer k = poisoned<uint16_t>(items + 8), v = poisoned<uint16_t>(items + 8);
    const AttentionLayer layer = store.layer(w);
    GatherPagesArgs args;
    args.kv = layer.kv;
    args.kv_layer = layer.kv_layer;
    args.page0 = store.page0[0];
    args.rows = rows;
    args.k = k.data();
    args.v = v.data();
    ASSERT_TRUE(is_ok(gather_pages(args, nullptr)));
    sync();
    const auto keys = to_host<uint16_t>(k, items + 8), values = to_host<uint16_t>(v, items + 8);
    for (int g = 0; g < 3; ++g) {
      for (int j = 0; j < rows; ++j) {
        for (int c = 0; c < 64; ++c) {
          const size_t at = (static_cast<size_t>(g) * rows + j) * 64 + c;
          ASSERT_EQ(keys[at], narrow(w.key(j, g)[c], Codec::Bf16)) << rows << " rows, head " << g << " row " << j;
          ASSERT_EQ(values[at], narrow(w.value(j, g)[c], Codec::Bf16)) << rows << " rows, head " << g << " row " << j;
        }
      }
    }
    for (size_t i = items; i < items + 8; ++i) ASSERT_TRUE(keys[i] == 0xffff && values[i] == 0xffff);
  }
}

TEST_F(CudnnTest, WholePromptsOfManyLengths) {
  for (const int d : {64, 128}) {
    auto attention = value_of(CudnnAttention::create(limits_of(make_world(4, 2, d, 1), 1200)));
    for (const int rows : {1, 2, 63, 65, 127, 129, 1091}) {
      SCOPED_TRACE(::testing::Message() << "D " << d << " rows " << rows);
      World w = make_world(4, 2, d, rows);
      w.scale = 0.088f;
      expect_like_cpu(attention, w, 0, rows);
    }
  }
}

TEST_F(CudnnTest, HeadDimensionsTypesAndGroups) {
  for (const int d : {16, 64, 96, 128, 256}) {
    for (const Codec codec : {Codec::Bf16, Codec::F16}) {
      if (codec == Codec::F16 && d != 64 && d != 128) continue;  // kernels are compiled for each
      for (const int group : {1, 4, 7, 8}) {
        if (group != 7 && d != 128) continue;
        SCOPED_TRACE(::testing::Message() << "D " << d << " codec " << static_cast<int>(codec) << " group " << group);
        const int kv_heads = group == 1 ? 3 : 2;
        World w = make_world(group * kv_heads, kv_heads, d, 517, d + group);
        auto attention = CudnnAttention::create(limits_of(w, 517, codec));
        if (attention.status().code() == StatusCode::kUnsupported && d != 64 && d != 128) {
          std::printf("D %d: %s\n", d, attention.status().to_string().c_str());
          continue;
        }
        ASSERT_TRUE(is_ok(attention));
        expect_like_cpu(*attention, w, 0, w.shape.rows, codec);
        expect_like_cpu(*attention, w, 300, 217, codec);
      }
    }
  }
}

// The mask is aligned to the last key, whatever the chunk.
TEST_F(CudnnTest, ChunksStartAnywhere) {
  for (const int d : {64, 128}) {
    World w = make_world(7, 1, d, 1091);
    auto attention = value_of(CudnnAttention::create(limits_of(w, 1091)));
    for (const auto& [pos, n] : std::vector<std::pair<int, int>>{{1, 699},
                                                                 {63, 2},
                                                                 {64, 1},
                                                                 {128, 5},
                                                                 {500, 200},
                                                                 {130, 126},
                                                                 {1090, 1},
                                                                 {0, 65},
                                                                 {65, 1026},
                                                                 {512, 512}}) {
      SCOPED_TRACE(::testing::Message() << "D " << d << " rows " << n << " at " << pos);
      expect_like_cpu(attention, w, pos, n);
    }
  }
}

TEST_F(CudnnTest, SequencesOfAStep) {
  std::vector<World> worlds;
  std::vector<BlockPlanData> plans;
  for (const int rows : {300, 1, 129, 64, 500}) worlds.push_back(make_world(4, 2, 128, rows, rows));
  const std::vector<std::pair<int, int>> chunks = {{100, 200}, {0, 1}, {0, 129}, {60, 4}, {257, 243}};
  std::vector<float> expected;
  std::vector<Part> parts;
  plans.reserve(worlds.size());
  for (size_t s = 0; s < worlds.size(); ++s) {
    const auto [pos, n] = chunks[s];
    round_inputs(worlds[s], Codec::Bf16);
    worlds[s].append(fastest_fp32(), 0, worlds[s].shape.rows);
    plans.push_back(dense_plan(worlds[s], pos, n, 128));
    const auto rows = run_prefill(worlds[s], fastest_fp32(), plans[s], pos, n);
    expected.insert(expected.end(), rows.begin(), rows.end());
    parts.push_back({&worlds[s], &plans[s], pos, n, {}});
  }
  auto attention = value_of(CudnnAttention::create(limits_of(worlds[0], 500)));
  const CudnnResult run = run_cudnn(attention, parts);
  EXPECT_TRUE(run.decode_row_kept);
  expect_near(worlds[0], run.out, expected, Codec::Bf16);
  EXPECT_EQ(run_cudnn(attention, parts).out, run.out) << "the same shapes again, from the graphs that were kept";
}

TEST_F(CudnnTest, RefusesWhatItCannotRun) {
  World w = make_world(4, 2, 64, 100);
  BlockPlanData plan = dense_plan(w, 0, 100, 128);
  const DeviceStore store({{&w, &plan, 0, 100, {}}}, Codec::Bf16);
  auto attention = value_of(CudnnAttention::create(limits_of(w, 99)));
  const std::vector<SeqStep> seqs = {{.n_q = 100, .prompt_len = 100, .page0 = store.page0[0]}};
  const auto refusal = [&](auto damage) {
    AttentionLayer layer = store.layer(w);
    damage(layer);
    const Status status = attention.attend(layer, seqs, nullptr);
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    return std::string(status.message());
  };
  float lse = 0;
  RowFormat tiles[2];
  EXPECT_THAT(refusal([](AttentionLayer&) {}), HasSubstr("100 keys"));
  EXPECT_THAT(refusal([&](AttentionLayer& l) { l.lse = &lse; }), HasSubstr("log-sum-exp"));
  EXPECT_THAT(refusal([](AttentionLayer& l) { l.softcap = 30.0f; }), HasSubstr("cap"));
  EXPECT_THAT(refusal([](AttentionLayer& l) { l.qa = 1, l.qb = 2; }), HasSubstr("head map (1, 2)"));
  EXPECT_THAT(refusal([](AttentionLayer& l) { l.head_dim = 128; }), HasSubstr("heads of 128"));
  EXPECT_THAT(refusal([&](AttentionLayer& l) { l.host_formats = tiles; }), HasSubstr("KV head 0"));
  CudnnAttention::Limits odd = limits_of(w, 99);
  odd.head_dim = 20;
  const Status none = CudnnAttention::create(odd).status();
  EXPECT_EQ(none.code(), StatusCode::kUnsupported);
  EXPECT_THAT(std::string(none.message()), HasSubstr("heads of 20"));
}

}  // namespace
}  // namespace pare::cuda
