// EngineMemory: everything an engine allocates, sized once from its options: threads, step arena, KV store, policies,
// sampler outputs. A decode step takes no other memory, unless a token's text outgrows std::string's own 15 bytes.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/selector.h"
#include "kv/policy.h"
#include "kv/step_builder.h"
#include "kv/store.h"
#include "ops/sample.h"
#include "ops/step.h"
#include "pare/engine.h"
#include "runtime/loaded_model.h"

namespace pare {

class EngineMemory {
 public:
  // Fills in the options' zeros, checks them, checks that the policies may stand together, allocates.
  static Expected<std::unique_ptr<EngineMemory>> create(const LoadedModel& model, const EngineOptions& options);

  const EngineOptions& options() const { return options_; }  // zeros replaced
  int64_t kv_rows() const { return options_.kv_rows; }
  ExecContext& context() { return *context_; }
  KvStore& store() { return *store_; }
  const SelectorSet& selectors() const { return *selectors_; }
  const std::string& attn_spec() const { return selectors_->canonical(); }
  const std::string& kv_spec() const { return policy_.canonical; }
  const KvPolicy& kv_policy() const { return *policy_.policy; }
  // Query-key pairs of rows at [pos, pos + rows) in all layers and heads when each attends all that its layer can.
  uint64_t causal_keys(int32_t pos, int32_t rows) const;

  // Plans of a step whose rows are reserved. Arrays from the context's tables and arena.
  Status build_plans(std::span<const StepSeq> seqs, StepPlans* plans);

  std::span<ops::SampleRow> sample_rows() { return sample_rows_; }
  const ops::SampleOutput& sample_output(int parity) const { return outputs_[parity]; }
  std::span<const TokenLogprob> top_logprobs(int parity, int32_t row, int32_t n) const;
  Tensor& last_tokens() { return last_tokens_; }  // [max_sequences] i32, where the ops run

 private:
  EngineMemory() = default;
  Status make_policies(const LoadedModel& model);
  Status make_context(const LoadedModel& model);
  Status make_store(const LoadedModel& model);
  Status make_arena(const Model& model);
  Status make_outputs();

  EngineOptions options_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<ExecContext> context_;
  LayerMap layers_;
  std::unique_ptr<SelectorSet> selectors_;
  KvPolicyChoice policy_;
  std::unique_ptr<KvStore> store_;
  SegmentShape shape_;
  uint16_t tile_rows_ = 0;
  std::vector<ops::SampleRow> sample_rows_;
  std::shared_ptr<std::byte> output_memory_;
  ops::SampleOutput outputs_[2];
  mutable std::vector<TokenLogprob> top_view_;
  std::shared_ptr<std::byte> last_tokens_memory_;
  Tensor last_tokens_;
};

}  // namespace pare
