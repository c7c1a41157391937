// Contradictory vocabularies: each is an error that names the key and the place.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "base/limits.h"
#include "io/metadata.h"
#include "text/tokenizer.h"

namespace pare {
namespace {

using Strings = std::vector<std::string>;
using Ints = std::vector<int64_t>;
using Floats = std::vector<double>;
using testing::AllOf;
using testing::HasSubstr;

// "ab" merges from "a" and "b"; token 3 is "<|im_end|>".
Metadata tiny_bpe() {
  Metadata m;
  m.set("tokenizer.ggml.model", std::string("gpt2"));
  m.set("tokenizer.ggml.pre", std::string("gpt-2"));
  m.set("tokenizer.ggml.tokens", Strings{"a", "b", "ab", "<|im_end|>"});
  m.set("tokenizer.ggml.token_type", Ints{1, 1, 1, 3});
  m.set("tokenizer.ggml.merges", Strings{"a b"});
  return m;
}

Metadata tiny_spm() {
  Metadata m;
  m.set("tokenizer.ggml.model", std::string("llama"));
  m.set("tokenizer.ggml.tokens", Strings{"<unk>", "<s>", "\xE2\x96\x81", "a",
                                         "\xE2\x96\x81"
                                         "a"});
  m.set("tokenizer.ggml.token_type", Ints{2, 3, 1, 1, 1});
  m.set("tokenizer.ggml.scores", Floats{0, 0, -3, -2, -1});
  m.set("tokenizer.ggml.bos_token_id", int64_t{1});
  m.set("tokenizer.ggml.unknown_token_id", int64_t{0});
  return m;
}

std::string error_of(const Metadata& metadata) {
  const auto tokenizer = make_tokenizer_from_gguf(metadata);
  return tokenizer.ok() ? "ok" : tokenizer.status().to_string();
}

TEST(TinyVocabulary, LoadsAndMerges) {
  const auto bpe = make_tokenizer_from_gguf(tiny_bpe());
  ASSERT_TRUE(bpe.ok()) << bpe.status().to_string();
  EXPECT_EQ(*(*bpe)->encode("abba<|im_end|>", {}), (std::vector<TokenId>{2, 1, 0, 3}));
  EXPECT_THAT((*bpe)->end_of_generation(), testing::ElementsAre(3));
  const auto spm = make_tokenizer_from_gguf(tiny_spm());
  ASSERT_TRUE(spm.ok()) << spm.status().to_string();
  EXPECT_EQ(*(*spm)->encode("a", {}), (std::vector<TokenId>{1, 4}));
  EXPECT_EQ(*(*spm)->encode("a?", {}), (std::vector<TokenId>{1, 4, 0})) << "no byte tokens: unknown";
}

TEST(TinyVocabulary, MergesNeverBuildAControlToken) {
  Metadata spm = tiny_spm();
  spm.set("tokenizer.ggml.tokens", Strings{"<unk>", "<s>", "<", "s>", "s", ">"});
  spm.set("tokenizer.ggml.token_type", Ints{2, 3, 1, 1, 1, 1});
  spm.set("tokenizer.ggml.scores", Floats{0, 0, -1, -2, -3, -4});
  spm.set("tokenizer.ggml.add_space_prefix", false);
  const auto tokenizer = make_tokenizer_from_gguf(spm);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  EXPECT_EQ(*(*tokenizer)->encode("<s>", {false, false}), (std::vector<TokenId>{2, 3}));
  EXPECT_EQ(*(*tokenizer)->encode("<s>", {false, true}), (std::vector<TokenId>{1}));
}

TEST(TinyVocabulary, DefaultBosNeedsABos) {
  Metadata llama3 = tiny_bpe();
  llama3.set("tokenizer.ggml.pre", std::string("llama3"));
  EXPECT_EQ(*(*make_tokenizer_from_gguf(llama3))->encode("a", {}), (std::vector<TokenId>{0}));
  llama3.set("tokenizer.ggml.bos_token_id", int64_t{3});
  EXPECT_EQ(*(*make_tokenizer_from_gguf(llama3))->encode("a", {}), (std::vector<TokenId>{3, 0}));
}

struct BadCase {
  const char* name;
  std::function<void(Metadata*)> change;
  std::vector<std::string> names;  // what the message holds
};

void expect_errors(const Metadata& good, const std::vector<BadCase>& cases) {
  ASSERT_EQ(error_of(good), "ok");
  for (const BadCase& bad : cases) {
    Metadata m = good;
    bad.change(&m);
    const std::string message = error_of(m);
    EXPECT_NE(message, "ok") << bad.name;
    for (const std::string& part : bad.names) EXPECT_THAT(message, HasSubstr(part)) << bad.name;
  }
}

TEST(BadVocabulary, Gguf) {
  const std::string p = "tokenizer.ggml.";
  const auto set = [p](const char* key, MetaValue value) { return [=](Metadata* m) { m->set(p + key, value); }; };
  expect_errors(tiny_bpe(),
                {
                    {"model", set("model", std::string("t5")), {"unsupported", p + "model", "t5"}},
                    {"pre", set("pre", std::string("nonesuch")), {"unsupported", p + "pre", "nonesuch", "qwen2"}},
                    {"no tokens", set("tokens", Strings{}), {p + "tokens"}},
                    {"tokens of another type", set("tokens", Ints{1}), {p + "tokens"}},
                    {"hole", set("tokens", Strings{"a", "", "ab", "x"}), {p + "tokens[1]", "hole"}},
                    {"duplicate", set("tokens", Strings{"a", "b", "ab", "b"}), {p + "tokens[3]", "'b'", "token 1"}},
                    {"NUL", set("tokens", Strings{"a", "b", std::string("a\0b", 3), "x"}), {p + "tokens[2]", "NUL"}},
                    {"long token",
                     set("tokens", Strings{"a", "b", "ab", std::string(4097, 'x')}),
                     {p + "tokens[3]", "4097", "limit 4096"}},
                    {"short types", set("token_type", Ints{1, 1, 1}), {p + "token_type", "3", "4 tokens"}},
                    {"type out of range", set("token_type", Ints{1, 1, 7, 3}), {p + "token_type[2]", "7"}},
                    {"negative type", set("token_type", Ints{-1, 1, 1, 3}), {p + "token_type[0]", "-1"}},
                    {"short scores", set("scores", Floats{1, 2}), {p + "scores", "2", "4 tokens"}},
                    {"merge of unknown left", set("merges", Strings{"a b", "c b"}), {p + "merges[1]", "left"}},
                    {"merge of unknown right", set("merges", Strings{"a c"}), {p + "merges[0]", "right"}},
                    {"merge to unknown", set("merges", Strings{"b a"}), {p + "merges[0]", "result"}},
                    {"merge without space", set("merges", Strings{"ab"}), {p + "merges[0]"}},
                    {"merge without right part", set("merges", Strings{"a "}), {p + "merges[0]"}},
                    {"merge twice", set("merges", Strings{"a b", "a b"}), {p + "merges[1]", "twice"}},
                    {"bos out of range", set("bos_token_id", int64_t{4}), {p + "bos_token_id"}},
                    {"eos out of range", set("eos_token_id", int64_t{-1}), {p + "eos_token_id"}},
                    {"unk out of range", set("unknown_token_id", uint64_t{1} << 40), {p + "unknown_token_id"}},
                    {"pad out of range", set("padding_token_id", int64_t{99}), {p + "padding_token_id"}},
                    {"add_bos without bos", set("add_bos_token", true), {p + "add_bos_token", p + "bos_token_id"}},
                    {"add_eos without eos", set("add_eos_token", true), {p + "add_eos_token", p + "eos_token_id"}},
                    {"add_bos of another type", set("add_bos_token", std::string("yes")), {p + "add_bos_token"}},
                });
  expect_errors(tiny_spm(),
                {
                    {"NaN score",
                     set("scores", Floats{0, 0, 0, std::numeric_limits<double>::quiet_NaN(), 0}),
                     {p + "scores[3]", "finite"}},
                    {"infinite score",
                     set("scores", Floats{0, 0, 0, 0, -std::numeric_limits<double>::infinity()}),
                     {p + "scores[4]", "finite"}},
                    {"long scores", set("scores", Floats{0, 0, 0, 0, 0, 0}), {p + "scores", "6", "5 tokens"}},
                    {"bert without [CLS]", set("model", std::string("bert")), {p + "cls_token_id"}},
                });
  const Metadata spm = tiny_spm();
  Metadata no_scores;
  for (const auto& [key, value] : spm.values()) {
    if (key != p + "scores") no_scores.set(key, value);
  }
  EXPECT_THAT(error_of(no_scores), AllOf(HasSubstr("not_found"), HasSubstr(p + "scores")));
  EXPECT_THAT(error_of(Metadata()), AllOf(HasSubstr("not_found"), HasSubstr(p + "model")));
}

std::string json_error(const std::string& json, const std::string& config = "") {
  const auto tokenizer = make_tokenizer_from_json(json, config);
  return tokenizer.ok() ? "ok" : tokenizer.status().to_string();
}

// A byte-level BPE file; each part can be replaced.
struct JsonFile {
  std::string vocab = R"({"a":0,"b":1,"ab":2})";
  std::string merges = R"(["a b"])";
  std::string model_extra, added = "[]", normalizer = "null", post = "null";
  std::string pre = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})";
  std::string text() const {
    return R"({"model":{"type":"BPE","vocab":)" + vocab + R"(,"merges":)" + merges + model_extra +
           R"(},"added_tokens":)" + added + R"(,"normalizer":)" + normalizer + R"(,"pre_tokenizer":)" + pre +
           R"(,"post_processor":)" + post + "}";
  }
};

TEST(TokenizerJson, ByteLevelBpe) {
  JsonFile file;
  file.added = R"([{"id":3,"content":"<|im_end|>","special":true},{"id":4,"content":"<tool>","special":false}])";
  const auto tokenizer = make_tokenizer_from_json(file.text(), R"({"eos_token":{"content":"<|im_end|>"}})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  EXPECT_EQ((*tokenizer)->pre_tokenizer(), "gpt-2");
  EXPECT_EQ((*tokenizer)->eos(), 3);
  EXPECT_EQ(*(*tokenizer)->encode("ab<tool>b<|im_end|>", {}), (std::vector<TokenId>{2, 4, 1, 3}));
  EXPECT_EQ(*(*tokenizer)->encode("<tool>b<|im_end|>", {true, false}), (std::vector<TokenId>{4, 1}))
      << "bytes that the vocabulary lacks are dropped";
}

TEST(TokenizerJson, KnownRegexesGetTheirNames) {
  const auto name_of = [](const std::string& pre) {
    JsonFile file;
    file.pre = pre;
    const auto tokenizer = make_tokenizer_from_json(file.text(), "");
    return tokenizer.ok() ? std::string((*tokenizer)->pre_tokenizer()) : tokenizer.status().to_string();
  };
  const std::string level = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
  const auto split = [&](const std::string& regex) {
    return R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":")" + regex +
           R"("},"behavior":"Isolated","invert":false},)" + level + "]}";
  };
  const std::string head = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|)";
  const std::string tail = R"(| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)";
  EXPECT_EQ(name_of(split(head + R"(\\p{N})" + tail)), "qwen2");
  EXPECT_EQ(name_of(split(head + R"(\\p{N}{1,3})" + tail)), "llama-bpe");
  EXPECT_EQ(name_of(split(R"(\\p{Lu}\\p{Ll}*)")), "custom");
  EXPECT_EQ(name_of(R"({"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},)"
                    R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true}]})"),
            "smollm");
  EXPECT_THAT(name_of(split("(unclosed")), HasSubstr("(unclosed"));
}

TEST(TokenizerJson, SentencePieceStyleMergesByRank) {
  const std::string json = R"({"model":{"type":"BPE","byte_fallback":true,"unk_token":"<unk>","vocab":)"
                           R"({"<unk>":0,"<0xC3>":1,"<0xA9>":2,"\u2581":3,"a":4,"b":5,"\u2581a":6,"ab":7},)"
                           R"("merges":[["a","b"],["\u2581","a"]]},"normalizer":{"type":"Sequence","normalizers":)"
                           R"([{"type":"Prepend","prepend":"\u2581"},)"
                           R"({"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]}})";
  const auto tokenizer = make_tokenizer_from_json(json, "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  EXPECT_EQ((*tokenizer)->family(), "spm");
  EXPECT_EQ(*(*tokenizer)->encode("ab a\xC3\xA9?", {}), (std::vector<TokenId>{3, 7, 6, 1, 2, 0}));
  EXPECT_EQ((*tokenizer)->decode({{3, 7, 6, 1, 2}}), "ab a\xC3\xA9");
}

TEST(TokenizerJson, NfcNormalizerComposes) {
  JsonFile file;
  file.vocab = R"({"\u00c3":0,"\u00a9":1,"e":2,"\u00cc":3,"\u0123":4})";  // the bytes C3 A9 and CC 81
  file.merges = "[]";
  const std::string decomposed = "e\xCC\x81";
  const auto as_is = make_tokenizer_from_json(file.text(), "");
  EXPECT_EQ((*(*as_is)->encode(decomposed, {}))[0], 2);
  file.normalizer = R"({"type":"NFC"})";
  const auto nfc = make_tokenizer_from_json(file.text(), "");
  ASSERT_TRUE(nfc.ok()) << nfc.status().to_string();
  EXPECT_EQ(*(*nfc)->encode(decomposed, {}), (std::vector<TokenId>{0, 1}));
}

TEST(TokenizerJson, TemplateProcessingSurroundsTheText) {
  JsonFile file;
  file.post = R"({"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing","single":)"
              R"([{"SpecialToken":{"id":"b"}},{"Sequence":{"id":"A"}}],"special_tokens":{"b":{"ids":[1]}}}]})";
  const auto tokenizer = make_tokenizer_from_json(file.text(), "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  EXPECT_EQ(*(*tokenizer)->encode("a", {}), (std::vector<TokenId>{1, 0}));
  EXPECT_EQ(*(*tokenizer)->encode("a", {false, true}), (std::vector<TokenId>{0}));
}

TEST(BadVocabulary, Json) {
  struct Case {
    std::function<void(JsonFile*)> change;
    std::vector<std::string> names;
  };
  const std::vector<Case> cases = {
      {[](JsonFile* f) { f->vocab = R"({"a":0,"b":2,"ab":3})"; }, {"no token 1", "hole"}},
      {[](JsonFile* f) { f->vocab = R"({"a":0,"b":1,"ab":1})"; }, {"duplicate", "id 1"}},
      {[](JsonFile* f) { f->vocab = R"({"a":0,"b":-1,"ab":1})"; }, {"model.vocab['b']", "-1"}},
      {[](JsonFile* f) { f->vocab = R"({"a":0,"b":1.5,"ab":2})"; }, {"model.vocab['b']", "1.5"}},
      {[](JsonFile* f) { f->vocab = R"({"a":0,"b":1,"ab":99999999})"; }, {"model.vocab['ab']", "99999999"}},
      {[](JsonFile* f) { f->vocab = R"({"a":0,"b":1,"a\u0000b":2})"; }, {"token 2", "NUL"}},
      {[](JsonFile* f) { f->vocab = "[]"; }, {"model.vocab"}},
      {[](JsonFile* f) { f->merges = R"(["a c"])"; }, {"model.merges[0]", "right"}},
      {[](JsonFile* f) { f->merges = R"(["a b","b"])"; }, {"model.merges[1]"}},
      {[](JsonFile* f) { f->merges = R"(["a b c"])"; }, {"model.merges[0]"}},
      {[](JsonFile* f) { f->merges = R"({})"; }, {"model.merges"}},
      {[](JsonFile* f) { f->model_extra = R"(,"dropout":0.1)"; }, {"dropout"}},
      {[](JsonFile* f) { f->model_extra = R"(,"end_of_word_suffix":"</w>")"; }, {"end_of_word_suffix"}},
      {[](JsonFile* f) { f->model_extra = R"(,"unk_token":"[UNK]")"; }, {"unk_token", "[UNK]"}},
      {[](JsonFile* f) { f->added = R"([{"id":0,"content":"z"}])"; }, {"added_tokens[0]", "'z'", "'a'"}},
      {[](JsonFile* f) { f->added = R"([{"id":9,"content":"z"}])"; }, {"hole"}},
      {[](JsonFile* f) { f->added = R"([{"content":"z"}])"; }, {"added_tokens[0]", "id"}},
      {[](JsonFile* f) { f->added = R"([{"id":3,"content":""}])"; }, {"added_tokens[0]", "empty"}},
      {[](JsonFile* f) { f->added = R"([7])"; }, {"added_tokens[0]"}},
      {[](JsonFile* f) { f->added = R"([{"id":3,"content":"z","single_word":true}])"; }, {"single_word"}},
      {[](JsonFile* f) { f->normalizer = R"({"type":"NFKC"})"; }, {"normalizer 'NFKC'"}},
      {[](JsonFile* f) { f->pre = "null"; }, {"ByteLevel"}},
      {[](JsonFile* f) { f->pre = R"({"type":"UnicodeScripts"})"; }, {"pre_tokenizer 'UnicodeScripts'"}},
      {[](JsonFile* f) { f->pre = R"({"type":"ByteLevel","add_prefix_space":true})"; }, {"add_prefix_space"}},
      {[](JsonFile* f) { f->pre = R"({"type":"Split","behavior":"Removed"})"; }, {"Removed"}},
      {[](JsonFile* f) { f->pre = R"({"type":"Split","behavior":"Isolated","pattern":{"String":"x"}})"; }, {"Regex"}},
      {[](JsonFile* f) { f->post = R"({"type":"Odd"})"; }, {"post_processor 'Odd'"}},
      {[](JsonFile* f) { f->post = R"({"type":"BertProcessing","sep":["b",9],"cls":["a",0]})"; }, {"9", "vocabulary"}},
      {[](JsonFile* f) { f->post = R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"q"}}]})"; },
       {"'q'", "special_tokens"}},
  };
  ASSERT_EQ(json_error(JsonFile().text()), "ok");
  for (size_t i = 0; i < cases.size(); ++i) {
    JsonFile file;
    cases[i].change(&file);
    const std::string message = json_error(file.text());
    EXPECT_NE(message, "ok") << i;
    for (const std::string& part : cases[i].names) EXPECT_THAT(message, HasSubstr(part)) << i;
  }
  EXPECT_THAT(json_error("{"), HasSubstr("tokenizer.json"));
  EXPECT_THAT(json_error("[]"), HasSubstr("tokenizer.json"));
  EXPECT_THAT(json_error("{}"), HasSubstr("model"));
  EXPECT_THAT(json_error(R"({"model":{"type":"Unigram"}})"), HasSubstr("'Unigram'"));
  EXPECT_THAT(json_error(JsonFile().text(), R"({"bos_token":"<s>"})"), AllOf(HasSubstr("bos_token"), HasSubstr("<s>")));
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100; ++i) deep += "[";
  for (int i = 0; i < 100; ++i) deep += "]";
  EXPECT_THAT(json_error(deep + "}"), HasSubstr("deeper than 64"));
}

TEST(BadVocabulary, VocabTxt) {
  const auto error = [](const char* text) {
    const auto tokenizer = make_tokenizer_from_vocab_txt(text, "");
    return tokenizer.ok() ? "ok" : tokenizer.status().to_string();
  };
  EXPECT_EQ(error("[UNK]\n[CLS]\r\n[SEP]\na\n"), "ok");
  EXPECT_THAT(error("[UNK]\n[CLS]\n\n"), AllOf(HasSubstr("line 3"), HasSubstr("empty")));
  EXPECT_THAT(error("[UNK]\na\na\n"), AllOf(HasSubstr("line 3"), HasSubstr("duplicate")));
  EXPECT_THAT(error("[UNK]\na\n"), HasSubstr("[CLS]"));
}

}  // namespace
}  // namespace pare
