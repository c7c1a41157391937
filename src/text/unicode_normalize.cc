#include "text/unicode_normalize.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "text/utf8.h"
#include "text/vocab.h"

namespace pare {
namespace {

struct Decomposition {
  char32_t from, first, second;
  bool composes;
};
struct ClassRange {
  char32_t first, last;
  uint8_t combining_class;
};
struct Range {
  char32_t first, last;
};
struct CasePair {
  char32_t from, to;
};

#include "text/unicode_nfd_table.inc"

// Below this, NFC changes nothing and no character combines.
constexpr char32_t kFirstInteresting = 0xC0;

constexpr char32_t kHangulBase = 0xAC00, kHangulL = 0x1100, kHangulV = 0x1161, kHangulT = 0x11A7;
constexpr uint32_t kHangulLs = 19, kHangulVs = 21, kHangulTs = 28, kHangulSyllables = kHangulLs * kHangulVs * kHangulTs;

// The entry whose range holds c, or null. Ranges are sorted by `last`.
template <typename Entry, size_t n>
const Entry* find_range(const Entry (&table)[n], char32_t c) {
  const Entry* entry = std::lower_bound(std::begin(table), std::end(table), c,
                                        [](const Entry& e, char32_t value) { return e.last < value; });
  return entry != std::end(table) && entry->first <= c ? entry : nullptr;
}

template <typename Entry, size_t n>
const Entry* find_from(const Entry (&table)[n], char32_t c) {
  const Entry* entry = std::lower_bound(std::begin(table), std::end(table), c,
                                        [](const Entry& e, char32_t value) { return e.from < value; });
  return entry != std::end(table) && entry->from == c ? entry : nullptr;
}

uint8_t combining_class(char32_t c) {
  const ClassRange* range = c < kFirstInteresting ? nullptr : find_range(kCombiningClasses, c);
  return range == nullptr ? 0 : range->combining_class;
}

void decompose(char32_t c, std::u32string* out) {
  if (c - kHangulBase < kHangulSyllables) {
    const uint32_t index = c - kHangulBase;
    out->push_back(kHangulL + index / (kHangulVs * kHangulTs));
    out->push_back(kHangulV + index / kHangulTs % kHangulVs);
    if (index % kHangulTs != 0) out->push_back(kHangulT + index % kHangulTs);
    return;
  }
  const Decomposition* entry = c < kFirstInteresting ? nullptr : find_from(kDecompositions, c);
  if (entry == nullptr) {
    out->push_back(c);
    return;
  }
  decompose(entry->first, out);  // a chain of at most four in Unicode
  if (entry->second != 0) decompose(entry->second, out);
}

// The primary composite of two code points, or 0.
char32_t compose(char32_t a, char32_t b) {
  static const PairTable kTable = [] {
    PairTable table;
    for (const Decomposition& d : kDecompositions) {
      if (d.composes) table.insert(d.first, d.second, {0, static_cast<int32_t>(d.from)});
    }
    return table;
  }();
  if (a - kHangulL < kHangulLs && b - kHangulV < kHangulVs) {
    return kHangulBase + ((a - kHangulL) * kHangulVs + (b - kHangulV)) * kHangulTs;
  }
  if (a - kHangulBase < kHangulSyllables && (a - kHangulBase) % kHangulTs == 0 && b - kHangulT - 1 < kHangulTs - 1) {
    return a + (b - kHangulT);
  }
  const PairTable::Value* found = kTable.find(a, b);
  return found == nullptr ? 0 : static_cast<char32_t>(found->id);
}

// In place on a decomposed text.
void compose_all(std::u32string* text) {
  size_t starter = 0, out = 0;
  bool have_starter = false;
  uint8_t last_class = 0;  // of the last character kept after the starter
  for (size_t i = 0; i < text->size(); ++i) {
    const char32_t c = (*text)[i];
    const uint8_t cc = combining_class(c);
    const bool blocked = out > starter + 1 && last_class >= cc;
    const char32_t joined = have_starter && !blocked ? compose((*text)[starter], c) : 0;
    if (joined != 0) {
      (*text)[starter] = joined;
      continue;
    }
    if (cc == 0) {
      starter = out;
      have_starter = true;
    }
    last_class = cc;
    (*text)[out++] = c;
  }
  text->resize(out);
}

void normalize_run(std::u32string_view run, std::string* out) {
  std::u32string text = to_nfd(run);
  compose_all(&text);
  for (const char32_t c : text) utf8_append(c, out);
}

}  // namespace

std::u32string to_nfd(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (const char32_t c : text) decompose(c, &out);
  for (size_t i = 0; i < out.size();) {
    if (combining_class(out[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < out.size() && combining_class(out[end]) != 0) ++end;
    std::stable_sort(out.begin() + static_cast<std::ptrdiff_t>(i), out.begin() + static_cast<std::ptrdiff_t>(end),
                     [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
  return out;
}

bool to_nfc(std::string_view text, std::string* out) {
  if (std::ranges::all_of(text, [](char c) { return static_cast<signed char>(c) >= 0; })) return false;
  std::string result;
  result.reserve(text.size());
  std::u32string run;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (step.valid) {
      run.push_back(step.code_point);
    } else {
      normalize_run(run, &result);
      run.clear();
      result.push_back(text[at]);
    }
    at += step.size;
  }
  normalize_run(run, &result);
  if (result == text) return false;
  *out = std::move(result);
  return true;
}

bool is_nonspacing_mark(char32_t c) { return c >= kFirstInteresting && find_range(kMarks, c) != nullptr; }

bool is_punctuation(char32_t c) { return find_range(kPunctuation, c) != nullptr; }

bool is_control(char32_t c) { return find_range(kControls, c) != nullptr; }

bool is_white_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

void append_lower_case(char32_t c, std::u32string* out) {
  if (c < 0x80) {
    out->push_back(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  } else if (c == 0x130) {
    out->append({'i', 0x307});
  } else {
    const CasePair* pair = find_from(kLowerCase, c);
    out->push_back(pair == nullptr ? c : pair->to);
  }
}

}  // namespace pare
