// Calibration prompts of tune_triangle.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/rng.h"
#include "eval/tune_triangle.h"

namespace pare {
namespace {

// Short common words, so that a key is a few tokens in any vocabulary.
constexpr std::array<std::string_view, 16> kWords = {"apple", "river", "stone",  "cloud", "green", "paper",
                                                     "light", "house", "silver", "table", "music", "winter",
                                                     "road",  "glass", "forest", "bread"};

Expected<std::vector<TokenId>> encode(const LoadedModel& model, std::string_view text, bool first) {
  return model.tokenizer->encode(text, {.add_special = first, .parse_special = false});
}

struct Line {
  std::string key, value, text;
};
Line random_line(Philox& rng, int32_t number) {
  Line line;
  const auto word = [&] { return kWords[rng.below(kWords.size())]; };
  const std::string_view first = word(), second = word();
  line.key = fmt::format("{}-{}-{}", first, second, number);
  line.value = fmt::format("{}", 10'000 + rng.below(90'000));
  line.text = fmt::format("The code of {} is {}.\n", line.key, line.value);
  return line;
}

// Lines until the prompt is full; the question is about one in the middle, out of reach of sinks and window.
Expected<TuneSample> retrieval(const LoadedModel& model, Philox& rng, const TuneOptions& o) {
  struct Entry {
    Line line;
    size_t end;  // tokens up to it
  };
  std::vector<Entry> lines;
  PARE_ASSIGN_OR_RETURN(std::vector<TokenId> ids, encode(model, "Remember these codes.\n", true));
  const size_t full = static_cast<size_t>(o.tokens);
  while (ids.size() < full) {
    Line line = random_line(rng, static_cast<int32_t>(lines.size()));
    PARE_ASSIGN_OR_RETURN(const std::vector<TokenId> more, encode(model, line.text, false));
    if (more.empty()) return invalid_argument("the tokenizer gives no tokens");
    ids.insert(ids.end(), more.begin(), more.end());
    lines.push_back({std::move(line), ids.size()});
  }
  std::vector<const Entry*> middle;
  for (const Entry& e : lines) {
    if (e.end > full / 8 && e.end < full * 5 / 8) middle.push_back(&e);
  }
  if (middle.empty()) return invalid_argument(fmt::format("{} tokens hold no line to ask for", o.tokens));
  const Entry& chosen = *middle[rng.below(static_cast<uint32_t>(middle.size()))];
  const Line& asked = chosen.line;
  PARE_ASSIGN_OR_RETURN(const auto question,
                        encode(model, fmt::format("\nWhat is the code of {0}?\nThe code of {0} is", asked.key), false));
  PARE_ASSIGN_OR_RETURN(const auto answer, encode(model, " " + asked.value, false));
  if (answer.empty() || chosen.end + question.size() > full) {
    return invalid_argument(fmt::format("{} tokens do not hold a line and the question for it", o.tokens));
  }
  TuneSample sample;
  sample.kind = "retrieval";
  sample.answer = std::min(o.answer, static_cast<int32_t>(answer.size()));
  sample.tokens.assign(ids.begin(), ids.begin() + static_cast<int64_t>(full - question.size()));
  sample.tokens.insert(sample.tokens.end(), question.begin(), question.end());
  sample.tokens.insert(sample.tokens.end(), answer.begin(), answer.begin() + sample.answer - 1);
  return sample;
}

// A window of a text, its last tokens in the place of the answer.
TuneSample window_of(const std::vector<TokenId>& ids, TokenId bos, Philox& rng, const TuneOptions& o) {
  TuneSample sample;
  sample.kind = "text";
  sample.answer = o.answer;
  const size_t length = static_cast<size_t>(o.tokens) + static_cast<size_t>(o.answer) - 1;
  const auto begin = ids.begin() + rng.below(static_cast<uint32_t>(ids.size() - length + 1));
  sample.tokens.assign(begin, begin + static_cast<int64_t>(length));
  if (bos != kNoToken) sample.tokens[0] = bos;
  return sample;
}

}  // namespace

Expected<std::vector<TuneSample>> triangle_samples(const LoadedModel& model, std::span<const std::string> texts,
                                                   const TuneOptions& o) {
  const int64_t kept = int64_t{o.sink} + o.window + o.last, room = model.model->config().context_max;
  if (o.samples < 1 || o.answer < 1) return invalid_argument("samples and answer tokens: at least one of each");
  if (o.tokens < 64 || o.tokens <= kept) {
    return invalid_argument(fmt::format(
        "prompts of {} tokens: sink, window and last rows leave nothing out of fewer than {}", o.tokens, kept + 1));
  }
  if (int64_t{o.tokens} + o.answer > room) {
    return invalid_argument(fmt::format("prompts of {} tokens, the context holds {}", o.tokens, room));
  }
  const size_t length = static_cast<size_t>(o.tokens) + static_cast<size_t>(o.answer) - 1;
  std::vector<std::vector<TokenId>> ids;
  TokenId bos = kNoToken;
  for (const std::string& text : texts) {
    PARE_ASSIGN_OR_RETURN(std::vector<TokenId> of_text, encode(model, text, true));
    if (of_text.size() < length) {
      return invalid_argument(fmt::format("a text has {} tokens, a prompt takes {}", of_text.size(), length));
    }
    if (of_text.front() == model.tokenizer->bos()) bos = of_text.front();
    ids.push_back(std::move(of_text));
  }
  std::vector<TuneSample> samples;
  for (int32_t i = 0; i < o.samples; ++i) {
    Philox rng(o.seed, static_cast<uint64_t>(i));
    if (!ids.empty() && i % 2 == 1) {
      samples.push_back(window_of(ids[static_cast<size_t>(i / 2) % ids.size()], bos, rng, o));
      continue;
    }
    PARE_ASSIGN_OR_RETURN(TuneSample sample, retrieval(model, rng, o));
    samples.push_back(std::move(sample));
  }
  return samples;
}

}  // namespace pare
