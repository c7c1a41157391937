#include "eval/summary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

namespace pare {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();
constexpr double kCopySolved = 0.9;
constexpr std::array<int32_t, 6> kBucketEnds = {1, 4, 16, 64, 256, INT32_MAX};

double mean(const std::vector<double>& values) {
  return values.empty() ? kUndefined
                        : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// A ratio of sums over cases: of tokens, or of solved cases.
Interval ratio(const std::vector<double>& above, const std::vector<double>& below, const BootstrapOptions& options) {
  return bootstrap(
      static_cast<int32_t>(above.size()),
      [&](std::span<const int32_t> cases) {
        double a = 0, b = 0;
        for (const int32_t i : cases) {
          a += above[static_cast<size_t>(i)];
          b += below[static_cast<size_t>(i)];
        }
        return b > 0 ? a / b : kUndefined;
      },
      options);
}

template <typename Value>
std::vector<double> per_case(const std::vector<CaseRecord>& records, Value value) {
  std::vector<double> out;
  for (const CaseRecord& r : records) out.push_back(value(r));
  return out;
}

void add_divergence(const EvalRow& row, const BootstrapOptions& options, EvalSummary* s) {
  std::vector<double> all, first;
  for (const CaseRecord& r : row.records) {
    all.insert(all.end(), r.kl.begin(), r.kl.end());
    if (!r.kl.empty()) first.push_back(r.kl.front());
  }
  const auto tokens = per_case(row.records, [](const CaseRecord& r) { return static_cast<double>(r.kl.size()); });
  s->kl_mean =
      ratio(per_case(row.records, [](const CaseRecord& r) { return std::accumulate(r.kl.begin(), r.kl.end(), 0.0); }),
            tokens, options);
  s->top1 = ratio(
      per_case(row.records, [](const CaseRecord& r) { return std::accumulate(r.same.begin(), r.same.end(), 0.0); }),
      tokens, options);
  s->kl_median = quantile(all, 0.5);
  s->kl_p95 = quantile(all, 0.95);
  s->first_kl = bootstrap_mean(first, options);
  s->first_kl_median = quantile(first, 0.5);
  int32_t begin = 0;
  for (const int32_t end : kBucketEnds) {
    PositionBucket bucket{begin, end - 1};
    double sum = 0, same = 0;
    for (const CaseRecord& r : row.records) {
      for (size_t i = static_cast<size_t>(begin); i < r.kl.size() && i < static_cast<size_t>(end); ++i) {
        sum += r.kl[i];
        same += r.same[i];
        ++bucket.tokens;
      }
    }
    begin = end;
    if (bucket.tokens == 0) continue;
    bucket.kl_mean = sum / static_cast<double>(bucket.tokens);
    bucket.top1 = same / static_cast<double>(bucket.tokens);
    s->positions.push_back(bucket);
  }
}

void add_copies(const EvalRow& row, const BootstrapOptions& options, EvalSummary* s) {
  std::map<std::pair<int32_t, int32_t>, std::vector<size_t>> groups;
  for (size_t i = 0; i < row.records.size(); ++i) {
    const CaseRecord& r = row.records[i];
    if (!r.prompt_nll.empty()) groups[{r.key.length, r.key.depth}].push_back(i);
  }
  for (const auto& [place, which] : groups) {
    s->copies.push_back({place.first, place.second,
                         mean_over_cases(
                             row.records, which, [](const CaseRecord& r) { return mean(r.prompt_nll); }, options),
                         mean_over_cases(
                             row.records, which, [](const CaseRecord& r) { return mean(r.nll); }, options)});
  }
}

double percent(double part, double whole) { return whole > 0 && part > 0 ? 100.0 * part / whole : kUndefined; }

void add_cost(const EvalRow& row, const EvalRow& reference, EvalSummary* s) {
  double prompt = 0, prompt_reference = 0, decode = 0, rows = 0, decode_reference = 0, rows_reference = 0;
  std::vector<double> ttft;
  for (size_t i = 0; i < row.records.size(); ++i) {
    const ProbeCost &a = row.records[i].cost, &b = reference.records[i].cost;
    prompt += static_cast<double>(a.prompt_pairs);
    prompt_reference += static_cast<double>(b.prompt_pairs);
    decode += static_cast<double>(a.decode_pairs);
    rows += static_cast<double>(a.decode_rows);
    decode_reference += static_cast<double>(b.decode_pairs);
    rows_reference += static_cast<double>(b.decode_rows);
    s->kv_bytes_peak = std::max(s->kv_bytes_peak, a.kv_bytes_peak);
    s->kv_bytes_held = std::max(s->kv_bytes_held, a.kv_bytes_held);
    ttft.push_back(a.ttft_ms);
  }
  s->prompt_pairs = percent(prompt, prompt_reference);
  s->decode_pairs =
      rows > 0 && rows_reference > 0 ? percent(decode / rows, decode_reference / rows_reference) : kUndefined;
  s->ttft_ms = quantile(ttft, 0.5);
}

}  // namespace

bool is_solved(const CaseRecord& record) { return record.score >= (record.key.task == "copy" ? kCopySolved : 1.0); }

Interval mean_over_cases(const std::vector<CaseRecord>& records, const std::vector<size_t>& which,
                         const std::function<double(const CaseRecord&)>& value, const BootstrapOptions& options) {
  std::vector<double> values;
  for (const size_t i : which) {
    const double v = value(records[i]);
    if (!std::isnan(v)) values.push_back(v);
  }
  return bootstrap_mean(values, options);
}

std::vector<EvalSummary> summarize(const std::vector<EvalRow>& rows, const BootstrapOptions& options) {
  std::vector<EvalSummary> out;
  for (const EvalRow& row : rows) {
    const EvalRow& reference = rows.front();
    EvalSummary s;
    s.name = row.name;
    s.config = row.config;
    s.cases = static_cast<int32_t>(row.records.size());
    const auto score = [](const CaseRecord& r) { return r.score; };
    const std::vector<double> scores = per_case(row.records, score);
    s.score = bootstrap_mean(scores, options);
    std::vector<double> difference = scores, both,
                        solved =
                            per_case(reference.records, [](const CaseRecord&r) { return is_solved(r) ? 1.0 : 0.0; });
    for (size_t i = 0; i < difference.size(); ++i) {
      difference[i] -= reference.records[i].score;
#ifdef PARE_FAULT_EVAL_COUNTS_UNSOLVED
      both.push_back(is_solved(row.records[i]) ? 1.0 : 0.0);
#else
      both.push_back(solved[i] > 0 && is_solved(row.records[i]) ? 1.0 : 0.0);
#endif
    }
    s.difference = bootstrap_mean(difference, options);
    s.reference_solved = static_cast<int32_t>(std::accumulate(solved.begin(), solved.end(), 0.0));
    s.of_solved = ratio(both, solved, options);
    add_divergence(row, options, &s);
    add_copies(row, options, &s);
    add_cost(row, reference, &s);
    out.push_back(std::move(s));
  }
  return out;
}

}  // namespace pare
