// What was measured, one record a case and configuration, and the file that keeps it: an evaluation that was stopped
// goes on where it was. The file is JSON (docs/eval.md), written whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "eval/probe.h"
#include "pare/status.h"

namespace pare {

inline constexpr int64_t kMaxEvalFileBytes = 256 << 20;
inline constexpr int64_t kMaxEvalRecords = 1 << 20;

// Everything that the values of a record depend on.
struct CaseKey {
  std::string task, variant;  // variant: parameters and haystack, canonical
  uint64_t seed = 0;
  int32_t length = 0, depth = 0;  // tokens; percent, or tokens of distance (copy)
  std::string config, against;    // "attn=...; kv=...", canonical
  std::string model;              // hash of the weights, and the device
  std::string prompt;             // hash of the ids
  auto operator<=>(const CaseKey&) const = default;
};

struct CaseRecord {
  CaseKey key;
  int32_t prompt_tokens = 0, answer_tokens = 0;
  double score = 0;        // in [0, 1]
  std::string answer;      // at most kMaxAnswerBytes of it
  std::vector<double> kl;  // one a scored token
  std::vector<uint8_t> same;
  // Negative log-likelihoods of the tokens told in decode steps and, for copy, of those in the prompt.
  std::vector<double> nll, prompt_nll;
  ProbeCost cost;
};
inline constexpr size_t kMaxAnswerBytes = 4096;

// "attn=dense; kv=dense" of an engine.
std::string config_of(const Engine& engine);
std::string model_identity(const LoadedModel& model);
std::string prompt_hash(const PromptIds& ids);

class EvalRecords {
 public:
  // Those of a file; none when it does not exist. Errors name the record and field.
  static Expected<EvalRecords> read(const std::filesystem::path& path);
  Status write(const std::filesystem::path& path) const;

  const CaseRecord* find(const CaseKey& key) const;
  // Replaces one with the same key. kLimitExceeded beyond kMaxEvalRecords.
  Status add(CaseRecord record);
  const std::vector<CaseRecord>& all() const { return records_; }

 private:
  std::vector<CaseRecord> records_;
  std::map<CaseKey, size_t> index_;  // places in records_
};

// The text of a file and back; parse bounds and checks every field.
std::string print_records(const EvalRecords& records);
Expected<EvalRecords> parse_records(std::string_view text);

}  // namespace pare
