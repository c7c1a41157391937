// Text of a branch: whole code points, nothing of a stop string, nothing held back without need.
#include "runtime/text_output.h"

#include <gtest/gtest.h>

#include "engine_rig.h"
#include "io/gguf.h"
#include "io/mapped_file.h"
#include "text/utf8.h"

namespace pare::test {
namespace {

struct Shown {
  std::vector<std::string> pushes;
  std::string all;
  bool stopped = false;
};

Shown show(const std::vector<std::string>& pieces, const std::vector<int32_t>& ids,
           const std::vector<std::string>& stop) {
  const PieceTokenizer tokenizer(pieces);
  TextOutput out(&tokenizer, stop);
  Shown shown;
  for (const int32_t id : ids) {
    shown.pushes.emplace_back(out.push(id));
    shown.all += shown.pushes.back();
    if (out.stopped()) break;
  }
  shown.stopped = out.stopped();
  shown.all += out.finish();
  return shown;
}

TEST(TextOutput, StopStringsSplitOverTokens) {
  const std::vector<std::string> pieces = {"a", "EN", "D", "ENDING", "E"};
  Shown s = show(pieces, {0, 1, 2}, {"END"});
  EXPECT_EQ(s.all, "a");
  EXPECT_TRUE(s.stopped);
  EXPECT_EQ(s.pushes, (std::vector<std::string>{"a", "", ""}));
  s = show(pieces, {0, 1, 0}, {"END"});
  EXPECT_EQ(s.pushes, (std::vector<std::string>{"a", "", "ENa"})) << "held only while it may become a stop string";
  s = show(pieces, {0, 3}, {"END"});
  EXPECT_EQ(s.all, "a") << "what follows the stop string in its token goes too";
  s = show(pieces, {0, 1}, {"END"});
  EXPECT_EQ(s.all, "aEN") << "what is held comes at the end";
  EXPECT_FALSE(s.stopped);
  s = show(pieces, {4, 4, 1, 2}, {"EEND", "ND"});
  EXPECT_EQ(s.all, "E");
  s = show({"ab", "c"}, {0, 0, 1}, {"abc", "bab"});
  EXPECT_EQ(s.all, "a") << "of two stop strings the one that is complete first";
}

TEST(TextOutput, CodePointsSplitOverTokens) {
  const std::string euro = "\xE2\x82\xAC";
  const std::vector<std::string> pieces = {euro.substr(0, 1), euro.substr(1, 1), euro.substr(2), "x"};
  Shown s = show(pieces, {3, 0, 1, 2, 3}, {});
  EXPECT_EQ(s.pushes, (std::vector<std::string>{"x", "", "", euro, "x"}));
  s = show(pieces, {0, 1}, {});
  EXPECT_EQ(s.all, "\xEF\xBF\xBD\xEF\xBF\xBD") << "unfinished at the end: replaced, never emitted in part";
  s = show(pieces, {0, 1, 3}, {});
  EXPECT_EQ(s.pushes[2], "\xEF\xBF\xBD\xEF\xBF\xBDx");
  s = show(pieces, {0, 1, 2, 3}, {euro + "x"});
  EXPECT_EQ(s.all, "");
}

// Random pieces and stop strings over a few bytes, so that everything overlaps, against the whole text.
TEST(TextOutput, AgreesWithSearchingTheWholeText) {
  const std::vector<std::string> alphabet = {"a", "b", "\xC3\xA9", "\xE2\x82\xAC"};
  Philox rng(41);
  const auto random_text = [&](uint32_t most) {
    std::string text;
    for (uint32_t n = 1 + rng.below(most); n > 0; --n) text += alphabet[rng.below(4)];
    return text;
  };
  for (int n = 0; n < 3000; ++n) {
    // Pieces are cut anywhere, also inside code points.
    std::string whole = random_text(24);
    std::vector<std::string> pieces;
    std::vector<int32_t> ids;
    for (size_t at = 0; at < whole.size(); at += pieces.back().size()) {
      pieces.push_back(whole.substr(at, 1 + rng.below(4)));
      ids.push_back(static_cast<int32_t>(ids.size()));
    }
    std::vector<std::string> stop;
    for (uint32_t i = rng.below(4); i > 0; --i) stop.push_back(random_text(4));

    std::string known, expected;
    bool stopped = false;
    const Shown s = show(pieces, ids, stop);
    std::string shown;
    for (size_t i = 0; i < s.pushes.size(); ++i) {
      known += pieces[i];
      const std::string text = known.substr(0, known.size() - utf8_unfinished_tail(known));
      size_t cut = std::string::npos;
      for (const std::string& x : stop) cut = std::min(cut, text.find(x));
      stopped = cut != std::string::npos;
      size_t open = 0;  // the longest end of the text that begins a stop string
      for (const std::string& x : stop) {
        for (size_t k = 1; k < x.size() && k <= text.size(); ++k) {
          if (text.ends_with(x.substr(0, k))) open = std::max(open, k);
        }
      }
      shown += s.pushes[i];
      ASSERT_EQ(shown, text.substr(0, stopped ? cut : text.size() - open)) << "case " << n;
      ASSERT_TRUE(utf8_valid(s.pushes[i]));
      expected = stopped ? shown : whole;
    }
    ASSERT_EQ(s.stopped, stopped);
    ASSERT_EQ(s.all, expected);
  }
}

// SentencePiece drops the space before the first word of a text; an answer is no beginning.
TEST(TextOutput, AnAnswerKeepsItsLeadingSpace) {
  const auto file = MappedFile::open(PARE_SOURCE_DIR "/tests/data/tokenizers/llama-spm.gguf");
  ASSERT_TRUE(file.ok());
  const auto contents = read_gguf(file->bytes());
  ASSERT_TRUE(contents.ok());
  const auto tokenizer = make_tokenizer_from_gguf(contents->metadata);
  ASSERT_TRUE(tokenizer.ok());
  const TokenId the = (*tokenizer)->find_token("\xE2\x96\x81the");
  ASSERT_NE(the, kNoToken);
  TextOutput out(tokenizer->get(), {});
  EXPECT_EQ(out.push(the), " the");
}

}  // namespace
}  // namespace pare::test
