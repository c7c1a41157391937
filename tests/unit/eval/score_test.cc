// Scorers and parsers of what a model or a file says: right on plain answers, harmless on hostile ones.
#include "eval/score.h"

#include <gtest/gtest.h>

#include <string>

#include "base/rng.h"
#include "eval/tasks/gsm8k.h"

namespace pare {
namespace {

using Text = std::optional<std::string>;

TEST(Score, WholeWordsAlone) {
  EXPECT_TRUE(contains_whole("The code is 4821.", "4821"));
  EXPECT_TRUE(contains_whole("4821", "4821"));
  EXPECT_FALSE(contains_whole("14821", "4821"));
  EXPECT_FALSE(contains_whole("48213", "4821"));
  EXPECT_TRUE(contains_whole("48213, 4821", "4821")) << "a later place counts";
  EXPECT_TRUE(contains_whole("in OSTREL!", "Ostrel"));
  EXPECT_FALSE(contains_whole("Ostreland", "Ostrel"));
  EXPECT_FALSE(contains_whole("Ostrel\xC3\xA9", "Ostrel")) << "a letter beyond ASCII";
  EXPECT_TRUE(contains_whole("\"a-b\": \"c-d\"", "c-d"));
  EXPECT_FALSE(contains_whole("anything", ""));
  EXPECT_FALSE(contains_whole("", "x"));
}

TEST(Score, NumbersInCanonicalForm) {
  EXPECT_EQ(final_number("so she has 18 left"), Text("18"));
  EXPECT_EQ(final_number("#### NUMBER 10\n2 + 3 = 5.\nThe answer is 5."), Text("5")) << "a mark before the answer";
  EXPECT_EQ(final_number("#### $1,250.00"), Text("1250"));
  EXPECT_EQ(final_number("####-3"), Text("-3"));
  EXPECT_EQ(final_number("#### -$3"), Text("-3"));
  EXPECT_EQ(final_number("10-3"), Text("3")) << "a minus between numbers is no sign";
  EXPECT_EQ(final_number("007.500"), Text("7.5"));
  EXPECT_EQ(final_number("-0.0"), Text("0"));
  EXPECT_EQ(final_number("1,2,3"), Text("3")) << "a list";
  EXPECT_EQ(final_number("12,345,678"), Text("12345678"));
  EXPECT_EQ(final_number("12,3456"), Text("3456"));
  EXPECT_EQ(final_number("it is 5."), Text("5"));
  EXPECT_EQ(final_number("none"), std::nullopt);
  EXPECT_EQ(final_number(""), std::nullopt);
  EXPECT_EQ(final_number("#### none, but 4 before"), Text("4"));
  EXPECT_EQ(marked_number("5"), std::nullopt);
}

TEST(Score, HostileAnswersAreBounded) {
  EXPECT_EQ(final_number("#### " + std::string(1'000'000, '9')), std::nullopt) << "too long for a number";
  EXPECT_EQ(final_number("7 " + std::string(1'000'000, '9')), Text("7"));
  EXPECT_EQ(final_number(std::string(3 << 20, '#') + "5"), std::nullopt) << "beyond what is looked at";
  EXPECT_EQ(final_number(std::string("3\0 4", 4)), Text("4"));
  EXPECT_EQ(final_number(std::string(100'000, ',')), std::nullopt);
  EXPECT_FALSE(contains_whole(std::string(2 << 20, 'a') + " key", "key"));
  Philox rng(7);
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    const uint32_t n = rng.below(40);
    for (uint32_t k = 0; k < n; ++k) text += "0123456789,.-$# \xFF"[rng.below(17)];
    const Text number = final_number(text);
    if (!number) continue;
    EXPECT_EQ(final_number(*number), number) << text << ": canonical form is stable";
  }
}

TEST(Score, ShareOfWhatWasAskedFor) {
  CaseText c;
  c.expected = {"111", "222", "333", "444"};
  EXPECT_EQ(score_answer(c, "333 and 111"), 0.5);
  EXPECT_EQ(score_answer(c, ""), 0.0);
  c.scoring = Scoring::kFinalNumber;
  EXPECT_EQ(score_answer(c, "#### 111"), 1.0);
  EXPECT_EQ(score_answer(c, "111 then 5"), 0.0);
  c.expected.clear();
  EXPECT_EQ(score_answer(c, "5"), 0.0);
}

TEST(Gsm8k, ReadsProblemsAndNamesBadLines) {
  const auto good = read_gsm8k(R"({"question": "How many?", "answer": "<<1+1=2>>2\n#### 1,002"}

{"question": "And?", "answer": "#### 5", "more": [1]})");
  ASSERT_TRUE(good.ok()) << good.status().to_string();
  ASSERT_EQ(good->size(), 2u);
  EXPECT_EQ((*good)[0].question, "How many?");
  EXPECT_EQ((*good)[0].answer, "1002");
  EXPECT_EQ(score_answer(gsm8k_case((*good)[1]), "I think #### 5"), 1.0);
  const std::string first = R"({"question": "a", "answer": "#### 1"})";
  for (const char* bad : {"[]", "{", R"({"question": "a"})", R"({"question": 1, "answer": "#### 2"})",
                          R"({"question": "a", "answer": "2"})", R"({"question": "a", "answer": "####"})", "\x01"}) {
    const auto result = read_gsm8k(first + "\n" + bad);
    EXPECT_FALSE(result.ok()) << bad;
    EXPECT_NE(result.status().message().find("line 2"), std::string::npos) << result.status().to_string();
  }
  EXPECT_FALSE(read_gsm8k("").ok());
  EXPECT_FALSE(read_gsm8k("\n \n").ok());
  EXPECT_EQ(read_gsm8k("{\"question\": \"" + std::string(1 << 17, 'x') + "\"}").status().code(),
            StatusCode::kLimitExceeded);
}

}  // namespace
}  // namespace pare
