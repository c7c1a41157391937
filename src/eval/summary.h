// A table row of an evaluation: what a configuration's records come to, with intervals over cases.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/bootstrap.h"
#include "eval/harness.h"

namespace pare {

// KL and agreement of the answer tokens from `first` to `last`, both included, counted from 0.
struct PositionBucket {
  int32_t first = 0, last = 0;
  int64_t tokens = 0;
  double kl_mean = 0, top1 = 0;
};

// Negative log-likelihoods of the second copy at one length and distance, means over cases.
struct CopyBucket {
  int32_t length = 0, distance = 0;
  Interval prompt_nll, decode_nll;
};

struct EvalSummary {
  std::string name, config;
  int32_t cases = 0;
  Interval score;       // mean task score, in [0, 1]
  Interval difference;  // from the reference's, paired
  int32_t reference_solved = 0;
  Interval of_solved;  // share of the cases that the reference solves which this one solves too
  // Over scored tokens; intervals draw cases. NaN for the reference.
  Interval kl_mean;
  double kl_median = 0, kl_p95 = 0;
  Interval first_kl;  // mean over cases, of the first answer token
  double first_kl_median = 0;
  Interval top1;
  // Query-key pairs in percent of the reference's, NaN where pairs are not counted: while prompts are read, and a
  // decode row.
  double prompt_pairs = 0, decode_pairs = 0;
  int64_t kv_bytes_peak = 0, kv_bytes_held = 0;  // the largest of all cases
  double ttft_ms = 0;                            // median
  std::vector<PositionBucket> positions;         // empty for the reference
  std::vector<CopyBucket> copies;                // copy alone
};

// A case counts as solved with everything that was asked for, a copy with nine tokens in ten.
bool is_solved(const CaseRecord& record);

// rows[0] is the reference; all have their records in the same order.
std::vector<EvalSummary> summarize(const std::vector<EvalRow>& rows, const BootstrapOptions& options);

// The mean of a case's values, over cases.
Interval mean_over_cases(const std::vector<CaseRecord>& records, const std::vector<size_t>& which,
                         const std::function<double(const CaseRecord&)>& value, const BootstrapOptions& options);

}  // namespace pare
