// Aggregation over the whole context: the words that a list holds most often, and the most frequent words of a text
// whose frequencies follow a power law.
#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "eval/tasks/haystack.h"
#include "eval/tasks/needles.h"

namespace pare {
namespace {

constexpr int64_t kCommon = 10;    // words asked for
constexpr int64_t kRareTimes = 3;  // how often every other word stands in the list
constexpr int64_t kCommonTimes = 30;
constexpr int64_t kFrequent = 3;
constexpr uint32_t kLawWords = 64;
constexpr double kLawExponent = 2.0;

void shuffle(Philox& rng, std::vector<std::string>* words) {
  for (size_t i = words->size(); i > 1; --i) std::swap((*words)[i - 1], (*words)[rng.below(static_cast<uint32_t>(i))]);
}

std::vector<std::string> draw_words(uint64_t seed, int64_t n) {
  Philox rng = task_rng(seed, TaskStream::kContent);
  std::vector<std::string> words;
  for (int64_t i = 0; i < n; ++i) draw_word(rng, &words);
  return words;
}

}  // namespace

CaseText make_common_words(const TaskParams& params, int64_t units) {
  std::vector<std::string> common = draw_words(params.seed, kCommon), words = common, list;
  Philox rng = task_rng(params.seed, TaskStream::kFiller);
  for (int64_t i = 0; i < units; ++i) {
    const std::string word = draw_word(rng, &words);
    for (int64_t k = 0; k < kRareTimes; ++k) list.push_back(word);
  }
  for (const std::string& word : common) {
    for (int64_t k = 0; k < kCommonTimes; ++k) list.push_back(word);
  }
  shuffle(rng, &list);
  std::string text;
  for (size_t i = 0; i < list.size(); ++i) text += fmt::format("{}{}. {}", i > 0 ? " " : "", i + 1, list[i]);
  CaseText c;
  c.turns = {
      fmt::format("Below is a numbered list of words, in which some words stand more often than others.\n\n{}\n\n"
                  "Which {} words stand in the list most often?",
                  text, kCommon)};
  c.answer_prefix = fmt::format("The {} most common words are", kCommon);
  c.expected = std::move(common);
  c.max_tokens = 96;
  return c;
}

CaseText make_frequent_words(const TaskParams& params, int64_t units) {
  const std::vector<std::string> words = draw_words(params.seed, kLawWords);
  double total = 0;
  for (uint32_t rank = 1; rank <= kLawWords; ++rank) total += std::pow(rank, -kLawExponent);
  // Exact shares of the law instead of draws: which words are the most frequent is never left to chance.
  std::vector<std::string> list;
  for (uint32_t rank = 1; rank <= kLawWords; ++rank) {
    const double share = std::pow(rank, -kLawExponent) / total;
    const auto times = std::max<int64_t>(1, std::llround(share * static_cast<double>(units)));
    list.insert(list.end(), static_cast<size_t>(times), words[rank - 1]);
  }
  Philox rng = task_rng(params.seed, TaskStream::kFiller);
  shuffle(rng, &list);
  std::string text;
  for (const std::string& word : list) text += (text.empty() ? "" : " ") + word;
  CaseText c;
  c.turns = {
      fmt::format("The text below is in code; every code word stands for something.\n\n{}\n\nWhich {} code words are "
                  "the most frequent in the text?",
                  text, kFrequent)};
  c.answer_prefix = "The three most frequent code words are";
  c.expected.assign(words.begin(), words.begin() + kFrequent);
  c.max_tokens = 48;
  return c;
}

}  // namespace pare
