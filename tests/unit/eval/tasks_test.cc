// Task generators: the same seed gives the same case, answers stand where they should, lengths are met.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "../../tiny_models.h"
#include "eval/prompt.h"
#include "eval/score.h"
#include "eval/tasks/copy.h"
#include "eval/tasks/haystack.h"
#include "eval/tasks/task.h"

namespace pare {
namespace {

using test::tiny_model;

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

const Haystack kBuiltin;

TaskParams params_of(uint64_t seed) {
  TaskParams p;
  p.seed = seed;
  p.haystack = &kBuiltin;
  return p;
}

std::string all_text(const CaseText& c) {
  std::string text;
  for (const std::string& turn : c.turns) text += turn + "\n";
  for (const std::string& answer : c.answers) text += answer + "\n";
  return text + c.answer_prefix;
}

TEST(Tasks, ASeedIsACase) {
  for (const TaskFamily& family : task_families()) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{7}, UINT64_MAX}) {
      const CaseText a = family.make(params_of(seed), 80), b = family.make(params_of(seed), 80);
      EXPECT_EQ(all_text(a), all_text(b)) << family.name;
      EXPECT_EQ(a.expected, b.expected);
      // Size is filler alone: what is asked stays.
      const CaseText larger = family.make(params_of(seed), 200);
      EXPECT_EQ(a.expected, larger.expected) << family.name;
      EXPECT_EQ(a.answer_prefix, larger.answer_prefix) << family.name;
      EXPECT_GT(all_text(larger).size(), all_text(a).size()) << family.name;
      EXPECT_NE(family.make(params_of(seed + 1), 80).expected, a.expected) << family.name;
      EXPECT_GE(a.max_tokens, 16);
      EXPECT_FALSE(a.answer_prefix.ends_with(' ')) << family.name;
      EXPECT_EQ(a.turns.size(), a.answers.size() + 1);
      EXPECT_EQ(score_answer(a, all_text(a).substr(0, 0)), 0.0);
    }
  }
}

// An answer can be found in exactly one place, and not in what leads to the answer itself.
TEST(Tasks, AnswersStandOnceAndAreNotGivenAway) {
  for (const TaskFamily& family : task_families()) {
    for (uint64_t seed = 0; seed < 12; ++seed) {
      for (const int32_t depth : {0, 33, 100}) {
        TaskParams p = params_of(seed);
        p.depth = depth;
        const CaseText c = family.make(p, 70);
        std::string joined;
        for (const std::string& e : c.expected) joined += e + ", ";
        EXPECT_EQ(score_answer(c, joined), 1.0) << family.name;
        std::string given = c.answer_prefix;
        for (const std::string& answer : c.answers) given += answer;
        EXPECT_EQ(score_answer(c, given), 0.0) << family.name << ": " << given;
        const bool repeats = family.name == "common-words" || family.name == "frequent-words";
        for (const std::string& e : c.expected) {
          const size_t n = count(all_text(c), e);
          if (repeats) {
            EXPECT_GE(n, 2u) << family.name;
          } else if (family.name == "variables") {
            EXPECT_LE(n, 2u) << "set once, read at most once";
            EXPECT_GE(n, 1u);
          } else if (family.name == "qa" && p.hops >= 2) {
            EXPECT_EQ(n, 1u) << family.name << " " << e;
          } else {
            EXPECT_EQ(n, 1u) << family.name << " " << e;
          }
        }
      }
    }
  }
}

TEST(Tasks, DepthIsWhereTheAnswerStands) {
  for (const TaskFamily& family : task_families()) {
    if (!family.uses_depth) continue;
    double last = -1;
    for (const int32_t depth : {0, 25, 50, 75, 100}) {
      TaskParams p = params_of(3);
      p.depth = depth;
      p.hops = 1;
      const CaseText c = family.make(p, 400);
      const double place = static_cast<double>(c.turns[0].find(c.expected[0])) / static_cast<double>(c.turns[0].size());
      EXPECT_GT(place, last) << family.name << " at " << depth;
      EXPECT_NEAR(place, depth / 100.0, 0.15) << family.name;
      last = place;
    }
  }
}

TEST(Tasks, VariablesAreSetBeforeTheyAreRead) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const CaseText c = make_variable_tracking(params_of(seed), 60);
    ASSERT_EQ(c.expected.size(), 4u);
    size_t before = 0;
    for (const std::string& name : c.expected) {
      const size_t at = c.turns[0].find("Set " + name + " to");
      ASSERT_NE(at, std::string::npos);
      EXPECT_GE(at, before);
      before = at;
    }
  }
}

TEST(Tasks, TheMostFrequentWordsAreThoseExpected) {
  const CaseText c = make_frequent_words(params_of(5), 500);
  ASSERT_EQ(c.expected.size(), 3u);
  const size_t first = count(c.turns[0], " " + c.expected[0] + " "),
               third = count(c.turns[0], " " + c.expected[2] + " ");
  EXPECT_GT(first, third);
  EXPECT_GT(third, 20u);
  const CaseText common = make_common_words(params_of(5), 30);
  for (const std::string& word : common.expected) {
    EXPECT_EQ(count(common.turns[0] + " ", ". " + word + " ") + count(common.turns[0], ". " + word + "\n"), 30u)
        << word;
  }
}

TEST(Tasks, LongQuestionsAreLong) {
  TaskParams p = params_of(1);
  p.question = 300;
  const CaseText c = make_long_question(p, 40);
  const std::string tail = c.turns[0].substr(c.turns[0].find("Mind these rules:"));
  EXPECT_GE(std::count(tail.begin(), tail.end(), ' '), 220);
}

TEST(Tasks, ParametersHaveRanges) {
  EXPECT_TRUE(validate(params_of(1)).ok());
  const auto bad = [](auto change) {
    TaskParams p;
    change(&p);
    return validate(p).code() == StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(bad([](TaskParams* p) { p->depth = 101; }));
  EXPECT_TRUE(bad([](TaskParams* p) { p->depth = -1; }));
  EXPECT_TRUE(bad([](TaskParams* p) { p->keys = -1; }));
  EXPECT_TRUE(bad([](TaskParams* p) { p->keys = 257; }));
  EXPECT_TRUE(bad([](TaskParams* p) { p->values = 0; }));
  EXPECT_TRUE(bad([](TaskParams* p) { p->hops = 0; }));
  EXPECT_TRUE(bad([](TaskParams* p) { p->question = INT32_MAX; }));
}

TEST(Haystack, OfAFile) {
  const auto h = Haystack::from_text(
      "One. Two is  here!\nThree? Four\ngoes on. Five.\n\nA heading\n\nSix holds 4821937. Seven. Eight. Nine.");
  ASSERT_TRUE(h.ok()) << h.status().to_string();
  const auto sentences = h->sentences(1, 40);
  EXPECT_EQ(sentences.size(), 40u);
  EXPECT_EQ(std::count(sentences.begin(), sentences.end(), "Four goes on."), 4);
  EXPECT_EQ(std::count(sentences.begin(), sentences.end(), "A heading"), 4);
  EXPECT_EQ(h->identity().size(), 16u);
  EXPECT_NE(h->identity(), Haystack().identity());
  EXPECT_FALSE(Haystack::from_text("One. Two.").ok());
  EXPECT_FALSE(Haystack::from_text("\xFF").ok());
  // A sentence without an end is cut.
  std::string endless;
  for (int i = 0; i < 3000; ++i) endless += "word ";
  for (const std::string& s : Haystack::from_text(endless)->sentences(0, 20)) EXPECT_LE(s.size(), 610u);
  // A file that holds a needle's number by chance does not answer in its place.
  TaskParams p = params_of(9);
  const std::string value = make_needle(p, 20).expected[0];
  std::string text;
  for (int i = 0; i < 10; ++i) text += "The number " + value + " is here. ";
  const Haystack traps = *Haystack::from_text(text);
  p.haystack = &traps;
  EXPECT_EQ(count(make_needle(p, 20).turns[0], value), 1u);
}

TEST(Fit, FillsALengthWithoutOverflowing) {
  for (const TaskFamily& family : task_families()) {
    if (family.name == "frequent-words") continue;  // its shares round to whole words
    for (const int32_t length : {6000, 20000}) {
      const auto c = fit_case(*tiny_model(), family, params_of(2), length, true);
      ASSERT_TRUE(c.ok()) << family.name << ": " << c.status().to_string();
      EXPECT_LE(c->ids.size(), length) << family.name;
      const auto more = render_case(*tiny_model(), family.make(params_of(2), c->units + 3), true);
      EXPECT_GT(more->size(), length) << family.name << " has room for more";
    }
    const auto none = fit_case(*tiny_model(), family, params_of(2), 64, true);
    EXPECT_EQ(none.status().code(), StatusCode::kInvalidArgument) << family.name;
  }
}

TEST(Fit, SearchesAnyMonotoneSize) {
  for (const int64_t length : {100, 1000, 99999}) {
    for (const auto& size : {std::function<int64_t(int64_t)>([](int64_t n) { return 10 + 7 * n; }),
                             std::function<int64_t(int64_t)>([](int64_t n) { return 3 + n * n / 50; }),
                             std::function<int64_t(int64_t)>([](int64_t n) { return n < 40 ? n : 20 + 3 * n; })}) {
      const auto units = fit_units(1, length, [&](int64_t n) -> Expected<int64_t> { return size(n); });
      ASSERT_TRUE(units.ok());
      EXPECT_LE(size(*units), length);
      EXPECT_GT(size(*units + 2), length);
    }
  }
  EXPECT_FALSE(fit_units(1, 10, [](int64_t) -> Expected<int64_t> { return internal_error("x"); }).ok());
}

TEST(Fit, TurnsAreToldAfterTheFirst) {
  const auto ids = render_case(*tiny_model(), make_multi_turn(params_of(4), 10), true);
  ASSERT_TRUE(ids.ok());
  EXPECT_FALSE(ids->told.empty());
  const std::string first = tiny_model()->tokenizer->decode(ids->prompt),
                    rest = tiny_model()->tokenizer->decode(ids->told);
  EXPECT_TRUE(first.ends_with("Answer:")) << first;
  EXPECT_NE(rest.find("And what is the access code"), std::string::npos);
  EXPECT_EQ(first.find("Thank you"), std::string::npos);
}

TEST(Copy, TheSecondCopyIsTheFirst) {
  for (const int32_t distance : {128, 200, 435}) {
    const auto c = make_copy(*tiny_model()->tokenizer, 3, 500, distance);
    ASSERT_TRUE(c.ok()) << c.status().to_string();
    ASSERT_EQ(c->prompt.size(), 500u);
    std::vector<TokenId> whole = c->prompt;
    whole.insert(whole.end(), c->rest.begin(), c->rest.end());
    for (size_t i = 500 - kCopyHalf; i < whole.size(); ++i) EXPECT_EQ(whole[i], whole[i - distance]) << i;
    EXPECT_EQ(c->scored_from, 500 - kCopyHalf + kCopyLead);
    EXPECT_EQ(make_copy(*tiny_model()->tokenizer, 3, 500, distance)->prompt, c->prompt);
    EXPECT_NE(make_copy(*tiny_model()->tokenizer, 4, 500, distance)->prompt, c->prompt);
  }
  EXPECT_FALSE(make_copy(*tiny_model()->tokenizer, 3, 500, 127).ok());
  EXPECT_FALSE(make_copy(*tiny_model()->tokenizer, 3, 500, 436).ok());
}

}  // namespace
}  // namespace pare
