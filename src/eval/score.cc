#include "eval/score.h"

#include <algorithm>

namespace pare {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
// Bytes of code points beyond ASCII count as letters: a word of another script is not cut either.
bool is_word(char c) {
  return is_digit(c) || (lower(c) >= 'a' && lower(c) <= 'z') || static_cast<unsigned char>(c) >= 0x80;
}

struct Number {
  std::string canonical;
  size_t end = 0;
};

// The number whose first digit is at `at`.
std::optional<Number> number_at(std::string_view text, size_t at) {
  size_t i = at;
  std::string whole, fraction;
  for (; i < text.size(); ++i) {
    if (is_digit(text[i])) {
      whole += text[i];
    } else if (text[i] == ',' && i + 3 < text.size() && is_digit(text[i + 1]) && is_digit(text[i + 2]) &&
               is_digit(text[i + 3]) && (i + 4 >= text.size() || !is_digit(text[i + 4]))) {
      continue;
    } else {
      break;
    }
  }
  if (i + 1 < text.size() && text[i] == '.' && is_digit(text[i + 1])) {
    for (++i; i < text.size() && is_digit(text[i]); ++i) fraction += text[i];
  }
  Number n;
  n.end = i;
  if (i - at > kMaxNumberBytes) return n;
  const size_t nonzero = std::min(whole.find_first_not_of('0'), whole.size() - 1);
  while (!fraction.empty() && fraction.back() == '0') fraction.pop_back();
  n.canonical = whole.substr(nonzero) + (fraction.empty() ? "" : "." + fraction);
  size_t before = at;
  if (before > 0 && text[before - 1] == '$') --before;
  const bool minus = before > 0 && text[before - 1] == '-' && (before == 1 || !is_word(text[before - 2]));
  if (minus && n.canonical != "0") n.canonical.insert(0, "-");
  return n;
}

std::string_view bounded(std::string_view text) { return text.substr(0, kMaxScoredBytes); }

// The first or the last number of `text`.
std::optional<std::string> find_number(std::string_view text, bool last) {
  std::optional<std::string> found;
  for (size_t i = 0; i < text.size();) {
    if (!is_digit(text[i])) {
      ++i;
      continue;
    }
    const auto number = number_at(text, i);
    if (!number->canonical.empty()) {
      found = number->canonical;
      if (!last) return found;
    }
    i = number->end;
  }
  return found;
}

}  // namespace

bool contains_whole(std::string_view text, std::string_view expected) {
  if (expected.empty()) return false;
  text = bounded(text);
  const auto same = [](char a, char b) { return lower(a) == lower(b); };
  for (auto at = text.begin();; ++at) {
    at = std::search(at, text.end(), expected.begin(), expected.end(), same);
    if (at == text.end()) return false;
#ifdef PARE_FAULT_EVAL_PART_OF_A_WORD
    return true;
#else
    const auto after = at + static_cast<std::ptrdiff_t>(expected.size());
    const bool left = at == text.begin() || !is_word(*(at - 1)) || !is_word(expected.front());
    const bool right = after == text.end() || !is_word(*after) || !is_word(expected.back());
    if (left && right) return true;
#endif
  }
}

std::optional<std::string> marked_number(std::string_view text) {
  text = bounded(text);
  const size_t mark = text.find("####");
  return mark == std::string_view::npos ? std::nullopt : find_number(text.substr(mark + 4), false);
}

std::optional<std::string> final_number(std::string_view text) { return find_number(bounded(text), true); }

double score_answer(const CaseText& asked, std::string_view answer) {
  if (asked.expected.empty()) return 0.0;
  if (asked.scoring == Scoring::kFinalNumber) return final_number(answer) == asked.expected.front() ? 1.0 : 0.0;
  int64_t found = 0;
  for (const std::string& expected : asked.expected) found += contains_whole(answer, expected);
  return static_cast<double>(found) / static_cast<double>(asked.expected.size());
}

}  // namespace pare
