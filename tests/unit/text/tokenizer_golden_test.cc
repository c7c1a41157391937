// Ids that other implementations recorded: llama.cpp for GGUF vocabularies, the `tokenizers` library for
// tokenizer.json. tests/data/tokenizers/README.md says where each file comes from.
#include <sstream>

#include "io/store.h"
#include "tokenizer_test_files.h"

namespace pare {
namespace {

using test::data_path;

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};
constexpr EncodeOptions kParsed{.add_special = false, .parse_special = true};

struct GoldenCase {
  std::string text;
  std::vector<TokenId> ids;
};

// NAME.gguf.inp holds texts between separator lines, NAME.gguf.out the ids of each on a line.
std::vector<GoldenCase> golden_cases(const std::string& name) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string texts = test::read_text(data_path("tokenizers/" + name + ".gguf.inp"));
  std::istringstream lines(test::read_text(data_path("tokenizers/" + name + ".gguf.out")));
  std::vector<GoldenCase> cases;
  size_t at = 0;
  for (std::string line; std::getline(lines, line);) {
    const size_t end = std::min(texts.find(separator, at), texts.size());
    GoldenCase one{texts.substr(at, end - at), {}};
    std::istringstream ids(line);
    for (TokenId id; ids >> id;) one.ids.push_back(id);
    cases.push_back(std::move(one));
    at = std::min(end + separator.size(), texts.size());
  }
  return cases;
}

void expect_golden(const Tokenizer& tokenizer, const std::string& name) {
  const auto cases = golden_cases(name);
  ASSERT_EQ(cases.size(), 46u);
  for (const GoldenCase& one : cases) {
    const auto ids = tokenizer.encode(one.text, kPlain);
    ASSERT_TRUE(ids.ok()) << ids.status().to_string();
    EXPECT_EQ(*ids, one.ids) << name << ": '" << one.text << "'";
    if (tokenizer.family() != "wordpiece") {
      EXPECT_EQ(tokenizer.decode(*ids), one.text) << name;
    }
  }
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, IdsEqualLlamaCpp) {
  const Tokenizer* tokenizer = test::vocabulary(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  expect_golden(*tokenizer, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, Golden,
                         testing::Values("gpt-2", "deepseek-coder", "starcoder", "llama-spm", "phi-3", "bert-bge"));

TEST(GoldenSpecials, BosAndEosAsTheFilesSay) {
  const EncodeOptions with_special{.add_special = true, .parse_special = false};
  EXPECT_EQ(*test::vocabulary("llama-spm")->encode("", with_special), (std::vector<TokenId>{1}));
  EXPECT_EQ(*test::vocabulary("deepseek-coder")->encode("", with_special), (std::vector<TokenId>{32013}));
  EXPECT_EQ(*test::vocabulary("gpt-2")->encode("", with_special), std::vector<TokenId>{});
  EXPECT_EQ(*test::vocabulary("bert-bge")->encode("", with_special), (std::vector<TokenId>{101, 102}));
}

TEST(GoldenSpecials, ControlTokensAreParsedOnlyWhenAsked) {
  const Tokenizer& gpt2 = *test::vocabulary("gpt-2");
  EXPECT_EQ(*gpt2.encode("a<|endoftext|>b", kParsed), (std::vector<TokenId>{64, 50256, 65}));
  const auto plain = gpt2.encode("a<|endoftext|>b", kPlain);
  EXPECT_EQ(std::ranges::count(*plain, 50256), 0);
  EXPECT_EQ(gpt2.decode(*plain), "a<|endoftext|>b");
  EXPECT_EQ(gpt2.decode({{64, 50256, 65}}), "ab");
  EXPECT_EQ(gpt2.decode({{64, 50256, 65}}, true), "a<|endoftext|>b");
}

TEST(GoldenSpecials, TextThatSpellsAControlTokenNeverBecomesIt) {
  const Tokenizer& spm = *test::vocabulary("llama-spm");
  for (const char* text : {"<s>", "</s>", "<unk>", "<0x41>"}) {
    const auto ids = spm.encode(text, kPlain);
    for (const TokenId id : *ids) EXPECT_EQ(spm.kind(id), TokenKind::kNormal) << text;
    EXPECT_EQ(spm.decode(*ids), text);
  }
}

TEST(GoldenSpecials, Phi3ControlTokensSwallowTheSpaceBehindThem) {
  const Tokenizer& phi3 = *test::vocabulary("phi-3");
  const auto with = phi3.encode("<|user|> \n hi", kParsed), without = phi3.encode("<|user|>hi", kParsed);
  EXPECT_EQ(*with, *without);
  EXPECT_NE(*phi3.encode("<s> hi", kParsed), *phi3.encode("<s>hi", kParsed));
}

TEST(GoldenSpecials, EndOfGeneration) {
  const auto ends = [](const char* name) {
    const auto ids = test::vocabulary(name)->end_of_generation();
    return std::vector<TokenId>(ids.begin(), ids.end());
  };
  EXPECT_EQ(ends("gpt-2"), (std::vector<TokenId>{50256}));
  EXPECT_EQ(ends("phi-3"), (std::vector<TokenId>{2, 32000, 32007}));
  EXPECT_EQ(ends("deepseek-coder"), (std::vector<TokenId>{32014, 32021}));
}

// Vocabularies inside models are compared where the model is in the store.
class ModelGolden : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Tokenizer> open() {
    const auto path = resolve_model(GetParam());
    return path.ok() ? test::open_tokenizer(path->string()) : nullptr;
  }
};

TEST_P(ModelGolden, IdsEqualLlamaCpp) {
  const auto tokenizer = open();
  if (tokenizer == nullptr) GTEST_SKIP() << GetParam() << " is not in the store";
  const auto reference = test::read_json(data_path("reference/" + std::string(GetParam()) + ".json"))["tokenize"];
  ASSERT_FALSE(reference["strings"].empty());
  for (const auto& one : reference["strings"]) {
    const std::string text = one["text"];
    EXPECT_EQ(*tokenizer->encode(text, kPlain), one["plain"].get<std::vector<TokenId>>()) << text;
    EXPECT_EQ(*tokenizer->encode(text, kParsed), one["special"].get<std::vector<TokenId>>()) << text;
  }
  const auto empty = tokenizer->encode("", {});
  EXPECT_EQ(!empty->empty(), reference["adds_bos"].get<bool>());
}

INSTANTIATE_TEST_SUITE_P(Models, ModelGolden,
                         testing::Values("smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct",
                                         "qwen2.5-coder-1.5b-instruct"));

TEST(ModelVocabulary, Qwen2GoldenWithTheVocabularyOfQwen25Coder) {
  const auto path = resolve_model("qwen2.5-coder-0.5b-instruct");
  if (!path.ok()) GTEST_SKIP() << "qwen2.5-coder-0.5b-instruct is not in the store";
  const auto tokenizer = test::open_tokenizer(path->string());
  ASSERT_NE(tokenizer, nullptr);
  expect_golden(*tokenizer, "qwen2");
}

TEST(MiniLm, IdsEqualTheTokenizersLibrary) {
  const std::string json = test::read_text(data_path("tokenizers/all-minilm-tokenizer.json"));
  const auto tokenizer = make_tokenizer_from_json(json, "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  EXPECT_EQ((*tokenizer)->family(), "wordpiece");
  const auto golden = test::read_json(data_path("tokenizers/all-minilm-ids.json"));
  ASSERT_EQ(golden["strings"].size(), golden["ids"].size());
  ASSERT_GE(golden["strings"].size(), 300u);
  for (size_t i = 0; i < golden["strings"].size(); ++i) {
    const std::string text = golden["strings"][i];
    const auto ids = (*tokenizer)->encode(text, {.add_special = true, .parse_special = false});
    EXPECT_EQ(*ids, golden["ids"][i].get<std::vector<TokenId>>()) << text;
  }
}

TEST(MiniLm, SentencesOfThePublishedModel) {
  const auto tokenizer =
      make_tokenizer_from_json(test::read_text(data_path("tokenizers/all-minilm-tokenizer.json")), "");
  ASSERT_TRUE(tokenizer.ok());
  const auto golden = test::read_json(data_path("reference/all-minilm-l6-v2.json"));
  for (const auto& sentence : golden["sentences"]) {
    EXPECT_EQ(*(*tokenizer)->encode(sentence["text"].get<std::string>(), {}),
              sentence["ids"].get<std::vector<TokenId>>());
  }
}

TEST(MiniLm, VocabTxtGivesTheSameIds) {
  const auto root = test::read_json(data_path("tokenizers/all-minilm-tokenizer.json"));
  std::vector<std::string> lines(root["model"]["vocab"].size());
  for (const auto& [text, id] : root["model"]["vocab"].items()) lines[id.get<size_t>()] = text;
  std::string vocab_txt;
  for (const std::string& line : lines) vocab_txt += line + "\n";
  const auto tokenizer = make_tokenizer_from_vocab_txt(vocab_txt, R"({"do_lower_case": true})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  const auto golden = test::read_json(data_path("tokenizers/all-minilm-ids.json"));
  for (size_t i = 0; i < golden["strings"].size(); ++i) {
    const auto ids = (*tokenizer)->encode(golden["strings"][i].get<std::string>(), {true, false});
    EXPECT_EQ(*ids, golden["ids"][i].get<std::vector<TokenId>>());
  }
}

}  // namespace
}  // namespace pare
