// No step allocates: reserve, plan, copy, commit, fork and free work in memory taken at start.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "kv/step_builder.h"
#include "kv/store.h"
#include "store_model.h"

namespace {
std::atomic<int64_t> allocations{0};
}

[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  void* p = std::malloc(bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace pare::testing {
namespace {

TEST(KvStore, AStepAllocatesNothing) {
  const LayerMap map = two_class_map(100);
  KvStoreConfig config = small_config(map);
  config.total_rows = 1500;
  config.decode_reach[1] = {4, 200};
  auto store = std::move(KvStore::create(config)).value();
  auto spec = parse_spec("streaming(sink=4,recent=200)", "kv");
  auto kv = make_kv_policy(*spec);
  const SegmentShape shape = {.n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .threads = 2};
  Arena arena(
      std::move(AlignedBuffer::allocate(step_max_bytes(300, 6, 1500, map, *kv->policy, shape).total())).value());
  const std::vector<int32_t> prompt = tokens_of(300), one = tokens_of(1);
  StepPlans plans;
  StepSeq seqs[3];

  const int64_t before = allocations;
  int steps = 0;
  for (int round = 0; round < 20; ++round) {
    const SeqId a = store->create_sequence().value_or(-1);
    const int32_t cached = store->adopt_prefix(a, prompt);
    const std::span<const int32_t> rest = std::span(prompt).subspan(cached);
    bool ok = store->reserve(a, static_cast<int32_t>(rest.size())).ok();
    seqs[0] = {.seq = a, .tokens = rest, .prompt_len = 300};
    arena.reset();
    ok &= build_step({seqs, 1}, map, *kv->policy, shape, *store, arena, arena, plans).ok();
    store->commit_step();
    const SeqId b = store->fork(a).value_or(-1), c = store->fork(a).value_or(-1);
    for (int n = 0; n < 200; ++n, ++steps) {
      int i = 0;
      for (const SeqId seq : {a, b, c}) {
        ok &= store->reserve(seq, 1).ok();
        seqs[i++] = {.seq = seq, .tokens = one, .prompt_len = 300, .decode = true};
      }
      arena.reset();
      ok &= build_step(seqs, map, *kv->policy, shape, *store, arena, arena, plans).ok();
      store->execute_copies();
      store->commit_step();
    }
    for (const SeqId seq : {c, b, a}) store->free_sequence(seq);
    ASSERT_TRUE(ok);
  }
  EXPECT_EQ(allocations - before, 0) << "in " << steps << " decode steps";
}

}  // namespace
}  // namespace pare::testing
