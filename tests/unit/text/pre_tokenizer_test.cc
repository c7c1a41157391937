#include "text/pre_tokenizer.h"

#include <gmock/gmock.h>

#include "tokenizer_test_files.h"

namespace pare {
namespace {

using testing::HasSubstr;

std::vector<std::string> pieces(const PreTokenizer& pre, const std::string& text) {
  std::vector<uint32_t> ends;
  EXPECT_TRUE(pre.split(text, &ends).ok());
  std::vector<std::string> out;
  uint32_t begin = 0;
  for (const uint32_t end : ends) {
    out.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return out;
}

// tools/compare_pretokenizers.py compared 100,000 strings with Python's `regex` and recorded the first of
// them.
TEST(PreTokenizer, SplitsEqualPythonsRegex) {
  const auto golden = test::read_json(test::data_path("tokenizers/splits.json"));
  ASSERT_EQ(golden["ends"].size(), pre_tokenizer_names().size());
  for (const auto& [name, ends] : golden["ends"].items()) {
    const auto pre = PreTokenizer::from_name(name);
    ASSERT_TRUE(pre.ok()) << name;
    for (size_t i = 0; i < ends.size(); ++i) {
      const std::string text = golden["strings"][i];
      std::vector<uint32_t> got;
      ASSERT_TRUE(pre->split(text, &got).ok());
      EXPECT_EQ(got, ends[i].get<std::vector<uint32_t>>()) << name << ": " << golden["strings"][i];
    }
  }
}

TEST(PreTokenizer, AliasesAndUnknownNames) {
  for (const char* alias : {"llama3", "llama-v3", "llama-bpe"}) {
    const auto pre = PreTokenizer::from_name(alias);
    ASSERT_TRUE(pre.ok());
    EXPECT_EQ(pre->name(), "llama-bpe");
    EXPECT_TRUE(pre_tokenizer_rules(alias)->ignore_merges);
    EXPECT_TRUE(pre_tokenizer_rules(alias)->add_bos_default);
  }
  EXPECT_FALSE(pre_tokenizer_rules("qwen2")->add_bos_default);
  const auto unknown = PreTokenizer::from_name("nonesuch");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.status().code(), StatusCode::kUnsupported);
  EXPECT_THAT(std::string(unknown.status().message()), testing::AllOf(HasSubstr("nonesuch"), HasSubstr("smollm")));
}

TEST(PreTokenizer, StrayBytesCutLikeTheReplacementCharacter) {
  for (const std::string_view name : pre_tokenizer_names()) {
    const auto pre = PreTokenizer::from_name(name);
    for (const char* before : {"", "a", " ", "1", "!", "\n", "a ", "  "}) {
      for (const char* after : {"", "b", " b", "2", "?", "\n"}) {
        const std::string stray = std::string(before) + "\xFF" + after;
        const std::string replaced = std::string(before) + "\xEF\xBF\xBD" + after;
        const auto got = pieces(*pre, stray), want = pieces(*pre, replaced);
        ASSERT_EQ(got.size(), want.size()) << name << " '" << before << "' '" << after << "'";
        for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i] == "\xFF", want[i] == "\xEF\xBF\xBD");
      }
    }
  }
}

TEST(PreTokenizer, MongolianVowelSeparatorIsNoSpace) {
  const auto pre = PreTokenizer::from_patterns({R"(\s+)"});
  EXPECT_EQ(pieces(*pre,
                   "a\xE1\xA0\x8E"
                   "b c"),
            (std::vector<std::string>{"a\xE1\xA0\x8E"
                                      "b",
                                      " ", "c"}));
  const auto in_class = PreTokenizer::from_patterns({R"([^\s]+)"});
  EXPECT_EQ(pieces(*in_class,
                   "a\xE1\xA0\x8E"
                   "b c"),
            (std::vector<std::string>{"a\xE1\xA0\x8E"
                                      "b",
                                      " ", "c"}));
}

// Inputs on which a backtracking engine could go quadratic; at 1 MiB that would be hours.
TEST(PreTokenizer, LongRunsAreCutInLinearTime) {
  constexpr size_t kBytes = 1 << 20;
  const auto repeat = [](const std::string& unit) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    return text;
  };
  const std::string texts[] = {repeat(" "),  repeat(" ") + "a", repeat("a"),
                               repeat("a "), repeat("\n "),     repeat("1"),
                               repeat("'"),  repeat("!"),       repeat("\xF0\x9F\xA6\x99")};
  // The other names have these patterns, or simpler ones.
  for (const char* name : {"smollm", "llama-bpe", "deepseek-coder", "deepseek-llm", "default"}) {
    const auto pre = PreTokenizer::from_name(name);
    for (const std::string& text : texts) {
      std::vector<uint32_t> ends;
      const Status status = pre->split(text, &ends);
      ASSERT_TRUE(status.ok()) << name << ": " << status.to_string();
      EXPECT_EQ(ends.back(), text.size());
      EXPECT_TRUE(std::ranges::is_sorted(ends));
    }
  }
}

TEST(PreTokenizer, RunawayPatternIsAnError) {
  const auto pre = PreTokenizer::from_patterns({"(a+)+$"});
  ASSERT_TRUE(pre.ok());
  std::vector<uint32_t> ends;
  const Status status = pre->split(std::string(64, 'a') + "b", &ends);
  EXPECT_EQ(status.code(), StatusCode::kLimitExceeded) << status.to_string();
  EXPECT_THAT(std::string(status.message()), HasSubstr("match limit"));
}

TEST(PreTokenizer, PatternsThatMatchNothingCutNothing) {
  const auto pre = PreTokenizer::from_patterns({"x*", "(?=b)"});
  ASSERT_TRUE(pre.ok());
  EXPECT_EQ(pieces(*pre, "abxxb"), (std::vector<std::string>{"ab", "xx", "b"}));
  EXPECT_EQ(pieces(*pre, ""), std::vector<std::string>{});
}

}  // namespace
}  // namespace pare
