// Who gets rows in a step. The store is real, the model is not: every draw is token 7.
#include "runtime/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine_rig.h"
#include "kv/segment_planner.h"

namespace pare::test {
namespace {

class SchedulerRig {
 public:
  // Pages: rows / 64, and one more for each sequence.
  SchedulerRig(const SchedulerLimits& limits, int64_t rows) : tokenizer_({"a"}), layers_(uniform_layer_map(1)) {
    KvStoreConfig c;
    c.layers = &layers_;
    c.n_kv_heads = 1;
    c.head_dim = 16;
    c.max_sequences = limits.max_sequences;
    c.max_context = 1024;
    c.max_step_rows = limits.step_rows;
    c.total_rows = rows;
    c.share_prefixes = false;
    store = KvStore::create(c).value();
    scheduler = std::make_unique<Scheduler>(store.get(), limits);
  }

  // Branches of one request; the first is returned.
  Branch* add(int32_t prompt, int32_t answer, int32_t samples = 1, bool observe = false) {
    auto owner = std::make_shared<ActiveRequest>();
    owner->request.tokens.assign(static_cast<size_t>(prompt), 1);
    owner->request.observe_prompt = observe;
    std::vector<std::unique_ptr<Branch>> branches;
    for (int32_t i = 0; i < samples; ++i) {
      branches.push_back(std::make_unique<Branch>(owner, i, prompt + answer, &tokenizer_));
    }
    Branch* first = branches.front().get();
    scheduler->add(std::move(branches));
    return first;
  }

  // Plans and plays a step; the rows of each branch, in the order of the plan.
  std::vector<std::pair<Branch*, int32_t>> step() {
    scheduler->plan(&plan);
    std::vector<std::pair<Branch*, int32_t>> rows;
    const std::vector<int32_t> ids(1024, 1);
    for (const ScheduledRows& s : plan) {
      rows.emplace_back(s.branch, s.rows);
      store->append(s.branch->seq, std::span(ids).first(static_cast<size_t>(s.rows)), s.branch->prompt_len);
    }
    store->commit_step();
    for (const ScheduledRows& s : plan) {
      s.branch->computed += s.rows;
      if (!s.samples) continue;
      std::vector<Branch*> forks;
      scheduler->waiting_siblings(*s.branch, s.n_forks, &forks);
      for (Branch* fork : forks) {
        scheduler->fork(*s.branch, fork);
        fork->add_token(7);
      }
      s.branch->add_token(7);
    }
    return rows;
  }

  std::unique_ptr<KvStore> store;
  std::unique_ptr<Scheduler> scheduler;
  std::vector<ScheduledRows> plan;

 private:
  PieceTokenizer tokenizer_;
  LayerMap layers_;
};

using Rows = std::vector<std::pair<Branch*, int32_t>>;

TEST(Scheduler, DecodingComesFirstThenPromptsInOrder) {
  SchedulerRig rig({.max_sequences = 4, .step_rows = 32, .logit_rows = 8}, 1024);
  Branch* a = rig.add(10, 5);
  EXPECT_EQ(rig.step(), (Rows{{a, 10}}));
  Branch* b = rig.add(40, 5);
  Branch* c = rig.add(5, 5);
  EXPECT_EQ(rig.step(), (Rows{{a, 1}, {b, 31}}));
  EXPECT_EQ(rig.step(), (Rows{{a, 1}, {b, 9}, {c, 5}}));
  EXPECT_EQ(rig.step(), (Rows{{a, 1}, {b, 1}, {c, 1}}));
}

TEST(Scheduler, ChunksEndOnTheGridOrWithThePrompt) {
  SchedulerRig rig({.max_sequences = 2, .step_rows = 100, .logit_rows = 64, .chunk_grid = 64}, 1024);
  Branch* a = rig.add(150, 5);
  EXPECT_EQ(rig.step(), (Rows{{a, 64}}));
  EXPECT_EQ(rig.step(), (Rows{{a, 86}})) << "the end of the prompt is an end";
}

// The four samples would leave 62 of 66 rows, too few for a chunk, and the prompt would wait for their ends.
TEST(Scheduler, DecodingLeavesTheOldestPromptRoomForAChunk) {
  SchedulerRig rig({.max_sequences = 5, .step_rows = 66, .logit_rows = 64, .chunk_grid = 64}, 1024);
  Branch *a = rig.add(640, 5), *b = rig.add(1, 50, 4);
  Branch* second = rig.scheduler->branches()[2].get();
  EXPECT_EQ(rig.step(), (Rows{{a, 64}, {b, 1}}));
  for (int n = 0; n < 9; ++n) EXPECT_EQ(rig.step(), (Rows{{b, 1}, {second, 1}, {a, 64}}));
  EXPECT_FALSE(a->in_prompt());
  EXPECT_EQ(rig.step().size(), 5u);
}

TEST(Scheduler, AYoungerPromptWaitsForRowsThatTheOldestLeaves) {
  SchedulerRig rig({.max_sequences = 3, .step_rows = 65, .logit_rows = 64, .chunk_grid = 64}, 1024);
  Branch* a = rig.add(256, 5);
  Branch *b = rig.add(1, 50), *c = rig.add(1, 50);
  EXPECT_EQ(rig.step(), (Rows{{a, 64}, {b, 1}}));
  EXPECT_EQ(rig.step(), (Rows{{b, 1}, {a, 64}}));
  rig.step();
  rig.step();
  EXPECT_FALSE(a->in_prompt()) << "four steps of 64";
  EXPECT_FALSE(c->is_running() && !c->in_prompt());
}

TEST(Scheduler, TheYoungestGivesWayAndReplaysItsAnswer) {
  SchedulerRig rig({.max_sequences = 2, .step_rows = 64, .logit_rows = 8}, 64);  // three pages
  Branch *a = rig.add(60, 80), *b = rig.add(4, 80);
  EXPECT_EQ(rig.step(), (Rows{{a, 60}, {b, 4}}));
  while (a->computed < 128) rig.step();
  EXPECT_EQ(b->computed, 64) << "the youngest waits for its second page";
  ASSERT_EQ(rig.store->available_pages(0), 0);
  const int32_t drawn = b->drawn();
  EXPECT_EQ(rig.step(), (Rows{{a, 1}})) << "a needs a third page and takes it from b";
  EXPECT_EQ(rig.scheduler->preemptions(), 1u);
  EXPECT_EQ(b->owner->stats.preemptions, 1);
  EXPECT_EQ(b->computed, 0);
  rig.scheduler->retire(a);
  EXPECT_EQ(rig.step(), (Rows{{b, 4}})) << "the prompt as a prompt";
  EXPECT_FALSE(rig.plan[0].samples) << "its first token is known";
  EXPECT_EQ(rig.plan[0].n_logit_rows, 0);
  int32_t replayed = 4;
  while (b->drawn() == drawn) {
    const auto rows = rig.step();
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_TRUE(rig.plan[0].decode);
    EXPECT_LE(rows[0].second, kMaxDecodeRows);
    replayed += rows[0].second;
  }
  EXPECT_EQ(replayed, drawn);
}

TEST(Scheduler, ABranchWithATokenInFlightIsNotReplayedYet) {
  SchedulerRig rig({.max_sequences = 2, .step_rows = 64, .logit_rows = 8}, 64);
  Branch *a = rig.add(60, 80), *b = rig.add(4, 80);
  while (a->computed < 128) rig.step();
  b->in_flight = 1;
  EXPECT_EQ(rig.step(), (Rows{{a, 1}}));
  rig.scheduler->retire(a);
  EXPECT_TRUE(rig.step().empty()) << "nothing can run before the token has been looked at";
  b->in_flight = 0;
  b->add_token(7);
  EXPECT_EQ(rig.step(), (Rows{{b, 4}}));
}

TEST(Scheduler, SiblingsForkWhereThePromptEndsAndKeepTheirSlotsUntilThen) {
  SchedulerRig rig({.max_sequences = 3, .step_rows = 16, .logit_rows = 2}, 1024);
  Branch* a = rig.add(30, 5, 4);
  Branch* late = rig.add(2, 5);
  EXPECT_EQ(rig.step(), (Rows{{a, 16}}));
  EXPECT_EQ(rig.step(), (Rows{{a, 14}}));
  EXPECT_EQ(rig.plan[0].n_forks, 2) << "a third sibling has no slot; two draws share a's row of logits";
  EXPECT_EQ(rig.plan[0].n_logit_rows, 1);
  EXPECT_FALSE(late->is_running());
  EXPECT_EQ(rig.store->stats().sequences, 3);
  EXPECT_EQ(rig.step().size(), 2u) << "two rows of logits";
  rig.scheduler->retire(a);
  const auto rows = rig.step();
  EXPECT_EQ(rows.back().second, 14) << "the last sibling computes the prompt itself, before the younger request";
  EXPECT_FALSE(late->is_running());
}

TEST(Scheduler, ObservedPromptsAdvanceByRowsOfLogits) {
  SchedulerRig rig({.max_sequences = 2, .step_rows = 64, .logit_rows = 5}, 1024);
  Branch* a = rig.add(12, 3, 1, true);
  EXPECT_EQ(rig.step(), (Rows{{a, 5}}));
  a->observed = 5;
  EXPECT_EQ(rig.step(), (Rows{{a, 5}}));
  a->observed = 10;
  EXPECT_EQ(rig.step(), (Rows{{a, 2}}));
  EXPECT_TRUE(rig.plan[0].samples);
  EXPECT_EQ(rig.plan[0].n_logit_rows, 2);
}

TEST(Scheduler, RetiringReturnsEverything) {
  SchedulerRig rig({.max_sequences = 2, .step_rows = 64, .logit_rows = 8}, 256);
  Branch *a = rig.add(70, 5), *b = rig.add(3, 5), *c = rig.add(3, 5);
  rig.step();
  rig.step();
  for (Branch* branch : {b, c, a}) rig.scheduler->retire(branch);
  EXPECT_TRUE(rig.scheduler->idle());
  EXPECT_EQ(rig.store->stats().sequences, 0);
  EXPECT_EQ(rig.store->stats().bytes_used, 0);
  EXPECT_TRUE(rig.step().empty());
}

}  // namespace
}  // namespace pare::test
