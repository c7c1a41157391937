// Attention of one layer over a prompt under a selector, beside dense attention of the same shape measured in turn.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"
#include "plan/block_plan.h"
#include "tensor/tensor.h"

namespace pare {

class SelectorSet;

struct AttentionShape {
  int32_t heads = 32, kv_heads = 8, head_dim = 128;
};
// "32/8/128": 1 to kMaxHeads heads, a multiple of the KV heads; head_dim a multiple of 16 up to kMaxHeadDim.
Expected<AttentionShape> parse_attention_shape(std::string_view text);

struct AttentionBenchOptions {
  std::string attn = "triangle";
  AttentionShape shape;
  std::vector<int32_t> lengths;   // of prompts, in tokens; each is read as a whole
  int32_t dense_max = INT32_MAX;  // longer prompts are read under the selector alone
  int32_t repetitions = 5;        // pairs; on a card each side of a pair is a median of its own number of launches
  int32_t threads = 0;
  Device device;
  bool gate = false;  // where the selector begins to pay is what is measured: it must have a gate, and none in force
  std::function<bool(std::string_view name)> next;  // hears of every length; false ends the run (kCancelled)
};

struct AttentionBenchLine {
  int32_t tokens = 0;
  double seconds = 0, dense_seconds = 0;  // medians; dense 0: not measured
  double ratio = 0;                       // median over pairs of time over that of dense; 0: not measured
  double pairs = 0, dense_pairs = 0;      // query-key pairs of all heads that the plans attend
  double pair_share() const { return pairs / dense_pairs; }
  double time_share() const { return dense_seconds > 0 ? seconds / dense_seconds : 0; }
  // 1: a pair costs what a pair of dense attention costs; above: more.
  double cost_of_pair() const { return time_share() / pair_share(); }
};

struct AttentionBench {
  std::string attn, machine;  // canonical; the CPU level and threads, or the card
  std::string device_class;
  AttentionShape shape;
  int32_t repetitions = 0;
  double gemm_rate = 0;  // of a card, FLOP a second in bf16, measured in the same run
  std::vector<AttentionBenchLine> lines;
  // d log(seconds) / d log(tokens): from each length to the next, and of the straight line through all of them. 1:
  // linear, 2: quadratic. Empty and 0 with fewer than two lengths.
  std::vector<double> slopes;
  double slope = 0;
};

// Random keys and values, one sequence, chunks of 4,096 tokens on the CPU and the whole prompt on a card; planning is
// part of the CPU's time and takes none of a card's. Selector and dense take turns. Errors: a length or shape out of
// range, the spec, memory; kUnsupported for a card without CUDA.
Expected<AttentionBench> bench_attention(const AttentionBenchOptions& options);

// Errors where a gate is asked for: a selector that takes none, or one that already reads a length densely.
Status check_gate_options(const AttentionBenchOptions& options, const SelectorSet& selectors);

// Query-key pairs that a plan attends for the rows in `seqs`, over the heads that its tiles name. Cost: granules
// visited times rows of a tile.
double attended_pairs(const BlockPlan& plan, std::span<const SeqStep> seqs);

// Slopes of (tokens, seconds).
void fit_slopes(AttentionBench* bench);

}  // namespace pare
