// Sampling on CUDA: logits in, token ids and log-probabilities out, by the contract of ops/sample.h up to the rounding
// of probabilities. Greedy ids are exactly those of the CPU.
//
// Probabilities are integers of 2^-41 of the most likely candidate's, so that their sums are exact in any order: a
// row's result is one value, whatever else is in the batch. Where CPU and card may disagree is a cut or a draw that
// falls within 1e-6 of the boundary between two candidates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pare/status.h"
#include "tensor/cuda/stream.h"

namespace pare::cuda {

// As in ops/sample.h, byte for byte.
struct LogitBias {
  int32_t id;
  float bias;
};
struct TokenCount {
  int32_t id, count;
};
struct TopLogprob {
  int32_t id;
  float logprob;
};

// ops::SampleRow with device pointers, and itself in device memory.
struct SampleRow {
  int64_t logits_row = 0;
  float temperature = 0.0f;
  float top_p = 1.0f, min_p = 0.0f, typical_p = 1.0f;
  float repetition = 1.0f, frequency = 0.0f, presence = 0.0f;
  int32_t top_k = 0;
  int32_t n_top = 0;  // at most kSampleTopMax
  uint64_t seed = 0;
  int32_t slot = -1;  // of last_tokens, which takes the id, 0 for a failed draw; -1: none
  int32_t branch = 0, position = 0;
  const TokenCount* counts = nullptr;  // [n_counts] distinct ids
  int32_t n_counts = 0;
  const int32_t* uncounted = nullptr;
  const LogitBias* bias = nullptr;  // [n_bias]
  int32_t n_bias = 0;
  bool wants_logprob = false;
};
inline constexpr int32_t kSampleTopMax = 2048;

struct SampleArgs {
  const SampleRow* rows = nullptr;  // [n]
  const float* logits = nullptr;    // [*, vocab], only read
  int64_t n = 0, vocab = 0;
  int32_t* ids = nullptr;     // [n]
  float* logprobs = nullptr;  // [n] or null
  TopLogprob* top = nullptr;  // [n][top_cap]
  int32_t top_cap = 0;
  int32_t* last_tokens = nullptr;
  void* workspace = nullptr;  // sample_workspace_bytes, 16-byte aligned
  // Of a step that is timed: times[0] takes what *began says when this launch begins, times[1 + i] the card's clock
  // (card_clock.cuh) when everything else of draw i was written. Both null: not wanted.
  const uint64_t* began = nullptr;
  uint64_t* times = nullptr;  // [1 + n]
};
// At most 1,048,576 ids (262,144 on cards without clusters), else kUnsupported.
Status sample(const SampleArgs& args, Stream stream, bool pdl);

// 0 where a row fits into the shared memory of the blocks that draw from it. Fails without a device.
Expected<size_t> sample_workspace_bytes(int64_t n, int64_t vocab);

}  // namespace pare::cuda
