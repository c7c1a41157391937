// Round trips, streaming, stray bytes and linear work.
#include <gmock/gmock.h>

#include <algorithm>

#include "base/limits.h"
#include "base/rng.h"
#include "text/utf8.h"
#include "tokenizer_test_files.h"

namespace pare {
namespace {

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};

// Text from all planes, with runs, spaces and contractions; without U+2581, which SentencePiece reads as a
// space.
std::string random_text(Philox& rng, uint32_t length) {
  std::string text;
  for (uint32_t i = 0; i < length; ++i) {
    char32_t c = ' ';
    switch (rng.below(8)) {
      case 0: c = " \t\n\r'"[rng.below(5)]; break;
      case 1:
      case 2:
      case 3: c = 0x20 + rng.below(0x5F); break;
      case 4: c = 0x80 + rng.below(0x780); break;
      case 5: c = 0x800 + rng.below(0xD000); break;
      case 6: c = 0x10000 + rng.below(0x10000); break;
      default: c = rng.below(0x110000);
    }
    if ((c >= 0xD800 && c < 0xE000) || c == 0x2581) continue;
    for (uint32_t repeat = rng.below(12) == 0 ? rng.below(20) : 1; repeat > 0; --repeat) utf8_append(c, &text);
  }
  return text;
}

std::string stream(const Tokenizer& tokenizer, std::span<const TokenId> ids) {
  StreamDecoder decoder(&tokenizer);
  std::string out;
  for (const TokenId id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_TRUE(utf8_valid(part));
    out += part;
  }
  return out + decoder.finish();
}

class RoundTrip : public testing::TestWithParam<const char*> {};

TEST_P(RoundTrip, DecodeOfEncodeIsTheText) {
  const Tokenizer& tokenizer = *test::vocabulary(GetParam());
  Philox rng(7);
  for (int i = 0; i < 1000; ++i) {
    const std::string text = random_text(rng, rng.below(60));
    const auto ids = tokenizer.encode(text, kPlain);
    ASSERT_TRUE(ids.ok());
    ASSERT_EQ(tokenizer.decode(*ids), text);
    ASSERT_EQ(stream(tokenizer, *ids), text);
  }
}

TEST_P(RoundTrip, LongTextWithoutSpacesTakesTheQueue) {
  const Tokenizer& tokenizer = *test::vocabulary(GetParam());
  Philox rng(8);
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>('a' + rng.below(26));
  EXPECT_EQ(tokenizer.decode(*tokenizer.encode(text, kPlain)), text);
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, RoundTrip, testing::Values("gpt-2", "llama-spm", "phi-3"));

TEST(MissingByte, IsDroppedBecauseTheVocabularyHasNoTokenForIt) {
  const Tokenizer& starcoder = *test::vocabulary("starcoder");
  ASSERT_EQ(starcoder.find_token("\xC3\xB1"), kNoToken) << "the spelling of byte F1";
  EXPECT_EQ(starcoder.decode(*starcoder.encode("a\xF1\x80\x80\x80z", kPlain)), "a\x80\x80\x80z");
}

TEST(StrayBytes, SurviveByteLevelAndByteFallback) {
  for (const char* name : {"gpt-2", "llama-spm"}) {
    const Tokenizer& tokenizer = *test::vocabulary(name);
    Philox rng(9);
    for (int i = 0; i < 500; ++i) {
      std::string text = "x";
      for (uint32_t n = rng.below(40); n > 0; --n) text += static_cast<char>(rng.below(256));
      const auto ids = tokenizer.encode(text, kPlain);
      ASSERT_TRUE(ids.ok());
      if (text.find("\xE2\x96\x81") == text.npos) {
        ASSERT_EQ(tokenizer.decode(*ids), text) << name;
      }
      EXPECT_EQ(stream(tokenizer, *ids), utf8_repair(tokenizer.decode(*ids)));
    }
  }
}

TEST(StrayBytes, WordPieceDropsThemLikeTheReplacementCharacter) {
  const Tokenizer& bert = *test::vocabulary("bert-bge");
  EXPECT_EQ(*bert.encode("he\xFFllo \xC3", kPlain), *bert.encode("hello", kPlain));
}

TEST(StreamDecoder, HoldsBackAnUnfinishedCodePoint) {
  const Tokenizer& spm = *test::vocabulary("llama-spm");
  const auto byte = [&](const char* text) { return spm.find_token(text); };
  StreamDecoder decoder(&spm, false);
  EXPECT_EQ(decoder.push(byte("<0xF0>")), "");
  EXPECT_EQ(decoder.push(byte("<0x9F>")), "");
  EXPECT_EQ(decoder.push(byte("<0xA6>")), "");
  EXPECT_EQ(decoder.push(byte("<0x99>")), "\xF0\x9F\xA6\x99");
  EXPECT_EQ(decoder.push(byte("<0xC3>")), "");
  EXPECT_EQ(decoder.push(byte("<0x41>")),
            "\xEF\xBF\xBD"
            "A");
  EXPECT_EQ(decoder.push(byte("<0xE2>")), "");
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, LeadingSpaceGoesOnlyAtTheStart) {
  const Tokenizer& spm = *test::vocabulary("llama-spm");
  const auto ids = spm.encode("Hello world", {.add_special = true, .parse_special = false});
  EXPECT_EQ(stream(spm, *ids), "Hello world");
  StreamDecoder continued(&spm, false);
  EXPECT_EQ(continued.push((*ids)[1]), " Hello");
  EXPECT_EQ(continued.push(-5), "");
  EXPECT_EQ(continued.push(1 << 30), "");
}

std::string repeat(std::string_view unit, size_t bytes) {
  std::string text;
  text.reserve(bytes + unit.size());
  while (text.size() < bytes) text += unit;
  return text;
}

// Text that a quadratic merge or split would not survive. A merge loop with a queue costs at most about
// log2(n) = 20 steps a byte; measured are below 8.
TEST(LinearWork, AdversarialTextCostsAFewStepsAByte) {
  const auto expect_few = [](const char* name, const std::string& text) {
    const uint64_t steps = test::vocabulary(name)->count_steps(text);
    EXPECT_GT(steps, text.size() / 8) << name << " '" << text.substr(0, 4) << "'";
    EXPECT_LT(steps, 24 * text.size()) << name << " '" << text.substr(0, 4) << "'";
  };
  for (const char* name : {"gpt-2", "llama-spm"}) {
    for (const char* unit : {"a", "\xF0\x9F\xA6\x99", " "}) expect_few(name, repeat(unit, 1 << 20));
    for (const char* unit : {"\n", "ab", "a ", "1", "!"}) expect_few(name, repeat(unit, 1 << 16));
    expect_few(name, repeat(" ", 1 << 16) + "x");
  }
  expect_few("bert-bge", repeat("a", 1 << 20));
  expect_few("deepseek-coder", repeat(" ", 1 << 18));
}

TEST(LinearWork, StepsGrowInProportion) {
  for (const char* name : {"gpt-2", "llama-spm"}) {
    const Tokenizer& tokenizer = *test::vocabulary(name);
    for (const char unit : {'a', ' ', 'z'}) {
      const uint64_t small = tokenizer.count_steps(std::string(1 << 14, unit));
      const uint64_t large = tokenizer.count_steps(std::string(1 << 18, unit));
      EXPECT_GT(small, 0u);
      EXPECT_LT(large, 20 * small) << name << " '" << unit << "'";
    }
  }
}

TEST(Encode, RefusesTextAboveTheLimit) {
  const std::string text(static_cast<size_t>(kMaxPromptBytes) + 1, 'a');
  const auto ids = test::vocabulary("gpt-2")->encode(text, kPlain);
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), testing::HasSubstr("limit 268435456"));
}

TEST(Tokenizer, IdsOutOfRangeAreEmpty) {
  const Tokenizer& gpt2 = *test::vocabulary("gpt-2");
  for (const TokenId id : {-1, 50257, 1 << 30}) {
    EXPECT_EQ(gpt2.token_bytes(id, true), "");
    EXPECT_EQ(gpt2.token_text(id), "");
    EXPECT_EQ(gpt2.decode({{id}}, true), "");
  }
  EXPECT_EQ(gpt2.find_token("no such token"), kNoToken);
  EXPECT_EQ(gpt2.token_bytes(gpt2.find_token("\xC4\xA0the")), " the");
}

}  // namespace
}  // namespace pare
