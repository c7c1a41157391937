// Sampling as an op: logits in, token ids and log-probabilities out, both where the model lives.
#pragma once

#include <cstdint>

#include "ops/exec.h"
#include "tensor/tensor.h"

namespace pare::ops {

struct LogitBias {
  int32_t id;
  float bias;
};

// How often an id stands in the answer; 0: in the prompt alone, where only the repetition penalty sees it.
struct TokenCount {
  int32_t id, count;
};

// What one row's next token is drawn with. Order of application, each step on the result of the one before:
// bias -> repetition penalty -> frequency and presence penalties -> top-k -> typical -> top-p -> min-p ->
// temperature -> draw. Candidates are ordered by logit, ties by the lower id. temperature 0 takes the first.
struct SampleRow {
  int64_t logits_row = 0;                   // which row of the logits; several draws may share one
  float temperature = 0.0f;                 // >= 0
  float top_p = 1.0f;                       // (0, 1]
  float min_p = 0.0f;                       // [0, 1]: keeps p >= min_p * p_max
  float typical_p = 1.0f;                   // (0, 1]
  float repetition = 1.0f;                  // > 0: positive logits divided, negative multiplied, for counted ids
  float frequency = 0.0f, presence = 0.0f;  // subtracted: count * frequency + presence
  int32_t top_k = 0;                        // 0 = all
  int32_t n_top = 0;                        // log-probabilities wanted for the most likely ids
  uint64_t seed = 0;
  int32_t slot = -1;                   // row of the last-token table that takes the id; -1: none
  int32_t branch = 0, position = 0;    // with seed: the counter of the generator, so batch mates change nothing
  const TokenCount* counts = nullptr;  // [n_counts] distinct ids
  int32_t n_counts = 0;
  const int32_t* uncounted = nullptr;  // one more token of the answer, known to the device alone; null: none
  const LogitBias* bias = nullptr;     // [n_bias]
  int32_t n_bias = 0;
  bool wants_logprob = false;
};

struct TopLogprob {
  int32_t id;
  float logprob;
};

// The draws of a step. stage_draws makes one.
struct SampleBatch {
  const SampleRow* rows = nullptr;  // [n], host
  int64_t n = 0;
  const void* device_rows = nullptr;  // the accelerator's own form of them
  uint32_t kinds = 0;                 // which kernels the rows need there
};

// Where sample writes, in host memory (make_output_memory); there when the step is finished.
struct SampleOutput {
  int32_t* ids = nullptr;     // [n]
  float* logprobs = nullptr;  // [n] of the drawn id, natural log of softmax(raw logits); 0 unless wanted
  TopLogprob* top = nullptr;  // [n][top_cap], descending; unused entries id -1
  int32_t top_cap = 0;
};

// Draws rows[0..n) from logits [*, V] fp32, which are only read: log-probabilities are the model's own, whatever the
// edits. A NaN logit never wins; without any candidate above -inf the id is -1 and the caller reports the model's
// failure. A row's result depends on that row alone. Workspace: sample_workspace_bytes from the arena. Cost: O(V) a
// row, and sorting what the filters keep.
// Each drawn id goes to last_tokens[slot] too, 0 for a failed draw: the next step may embed it before the host has
// seen it.
void sample(ExecContext& ctx, const SampleBatch& batch, const Tensor& logits, const SampleOutput& out,
            Tensor& last_tokens);
size_t sample_workspace_bytes(const ExecContext& ctx, int64_t rows, int64_t vocab);
// `rows` with what they point to, brought into ctx.tables where the ops run elsewhere.
SampleBatch stage_draws(ExecContext& ctx, const SampleRow* rows, int64_t n);

// out[t] = slots[t] < 0 ? known[t] : last_tokens[slots[t]]: a step may run before the host has seen the tokens that the
// step before drew. All i32.
void select_tokens(ExecContext& ctx, const Tensor& known, const Tensor& slots, const Tensor& last_tokens, Tensor& out);
// last_tokens[slot] = the id drawn for `row` of the last sample(), 0 for a failed draw: for a branch that got its slot
// only after the draw.
void store_token(ExecContext& ctx, const SampleOutput& out, int64_t row, int32_t slot, Tensor& last_tokens);

}  // namespace pare::ops
