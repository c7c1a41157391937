#include "text/unicode_normalize.h"

#include <gtest/gtest.h>

#include <functional>

#include "text/utf8.h"

namespace pare {
namespace {

std::string utf8(std::u32string_view text) {
  std::string out;
  for (const char32_t c : text) utf8_append(c, &out);
  return out;
}

// FNV-1a over one line for each code point: tools/make_nfd_table.py --digests prints what Python's
// unicodedata gives.
uint64_t digest(const std::function<std::string(char32_t)>& line) {
  uint64_t state = 0xCBF29CE484222325;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    for (const char byte : line(c) + "\n") state = (state ^ static_cast<unsigned char>(byte)) * 0x100000001B3;
  }
  return state;
}

TEST(UnicodeNormalize, EveryCodePointAsPythonHasIt) {
  EXPECT_EQ(digest([](char32_t c) { return utf8(to_nfd({&c, 1})); }), 0xe436c6916a1c43du);
  EXPECT_EQ(digest([](char32_t c) {
              const std::string text = utf8(std::u32string{U'a', char32_t{0x323}, c, char32_t{0x301}});
              std::string nfc;
              return to_nfc(text, &nfc) ? nfc : text;
            }),
            0x2e29f3a3a6b4a169u);
  EXPECT_EQ(digest([](char32_t c) {
              std::u32string lower;
              append_lower_case(c, &lower);
              return utf8(lower);
            }),
            0x45c0f3d4d1933888u);
}

TEST(UnicodeNormalize, NfcLeavesStrayBytesAndSaysWhetherItChangedAnything) {
  std::string out = "untouched";
  EXPECT_FALSE(to_nfc("plain", &out));
  EXPECT_FALSE(to_nfc("caf\xC3\xA9 \xFF", &out));
  EXPECT_EQ(out, "untouched");
  EXPECT_TRUE(
      to_nfc("\xFF"
             "e\xCC\x81\xFE",
             &out));
  EXPECT_EQ(out, "\xFF\xC3\xA9\xFE");
}

TEST(UnicodeNormalize, LongRunsOfMarksStayLinear) {
  std::u32string marks = U"a";
  for (int i = 0; i < 200'000; ++i) marks += i % 2 == 0 ? char32_t{0x301} : char32_t{0x323};
  const std::u32string nfd = to_nfd(marks);
  EXPECT_EQ(nfd[1], char32_t{0x323});
  EXPECT_EQ(nfd.back(), char32_t{0x301});
}

TEST(Utf8, StepsRefuseWhatIsNoCodePoint) {
  for (const char* bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xC3", "\xE2\x82", "\xF0\x9F\xA6", "\xC3(", "\xFF"}) {
    const Utf8Step step = utf8_step(bad, 0);
    EXPECT_FALSE(step.valid);
    EXPECT_EQ(step.size, 1);
    EXPECT_FALSE(utf8_valid(bad));
  }
  for (const char32_t c : {U'\0', U'a', char32_t{0x7FF}, char32_t{0x800}, char32_t{0xFFFF}, char32_t{0x10FFFF}}) {
    const std::string text = utf8({&c, 1});
    const Utf8Step step = utf8_step(text, 0);
    EXPECT_TRUE(step.valid);
    EXPECT_EQ(step.code_point, c);
    EXPECT_EQ(step.size, text.size());
  }
}

TEST(Utf8, UnfinishedTail) {
  EXPECT_EQ(utf8_unfinished_tail(""), 0u);
  EXPECT_EQ(utf8_unfinished_tail("abc"), 0u);
  EXPECT_EQ(utf8_unfinished_tail("a\xC3"), 1u);
  EXPECT_EQ(utf8_unfinished_tail("a\xE2\x82"), 2u);
  EXPECT_EQ(utf8_unfinished_tail("\xF0\x9F\xA6"), 3u);
  EXPECT_EQ(utf8_unfinished_tail("\xF0\x9F\xA6\x99"), 0u);
  EXPECT_EQ(utf8_unfinished_tail("\xE2\x82\xC3"), 1u);
  EXPECT_EQ(utf8_unfinished_tail("\xE0\x80"), 0u) << "can never become valid";
}

}  // namespace
}  // namespace pare
