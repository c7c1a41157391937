// Tokenizers on hostile text and hostile files. The first byte picks what the rest is: text for one of the
// families (encoded, decoded, streamed), or a tokenizer.json, or a vocab.txt.
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "io/metadata.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace {

using namespace pare;

// Every byte as a token, some merges, and tokens of every kind.
Metadata byte_level() {
  std::vector<std::string> tokens;
  int next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    std::string spelled;
    utf8_append(static_cast<char32_t>(printable ? b : next++), &spelled);
    tokens.push_back(spelled);
  }
  std::vector<int64_t> types(256, 1);
  for (const char* merged : {"aa", "aaaa", "ab", "the"}) tokens.push_back(merged), types.push_back(1);
  tokens.insert(tokens.end() - 1, "th");
  types.push_back(1);
  tokens.push_back("<|im_end|>"), types.push_back(3);
  tokens.push_back("<tool>"), types.push_back(4);
  Metadata m;
  m.set("tokenizer.ggml.model", std::string("gpt2"));
  m.set("tokenizer.ggml.tokens", tokens);
  m.set("tokenizer.ggml.token_type", types);
  m.set("tokenizer.ggml.merges", std::vector<std::string>{"a a", "aa aa", "a b", "t h", "th e"});
  return m;
}

Metadata sentence_piece() {
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  std::vector<int64_t> types{2, 3, 3};
  for (int b = 0; b < 256; ++b) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    tokens.push_back(std::string("<0x") + kDigits[b / 16] + kDigits[b % 16] + ">");
    types.push_back(6);
  }
  std::vector<double> scores(tokens.size(), 0);
  double score = -1;
  for (const char* text : {"\xE2\x96\x81", "\xE2\x96\x81\xE2\x96\x81", "a", "b", "aa", "ab",
                           "\xE2\x96\x81"
                           "a",
                           "\xC3\xA9"}) {
    tokens.push_back(text), types.push_back(1), scores.push_back(score--);
  }
  Metadata m;
  m.set("tokenizer.ggml.model", std::string("llama"));
  m.set("tokenizer.ggml.tokens", tokens);
  m.set("tokenizer.ggml.token_type", types);
  m.set("tokenizer.ggml.scores", scores);
  m.set("tokenizer.ggml.bos_token_id", int64_t{1});
  m.set("tokenizer.ggml.unknown_token_id", int64_t{0});
  return m;
}

void exercise(const Tokenizer& tokenizer, std::string_view text, bool lossless) {
  for (const bool parse : {false, true}) {
    const auto ids = tokenizer.encode(text, {.add_special = true, .parse_special = parse});
    if (!ids.ok()) continue;
    for (const TokenId id : *ids) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    }
    const std::string decoded = tokenizer.decode(*ids);
    if (lossless && !parse && decoded != text) std::abort();
    StreamDecoder decoder(&tokenizer);
    std::string streamed;
    for (const TokenId id : *ids) {
      const std::string part = decoder.push(id);
      if (!utf8_valid(part)) std::abort();
      streamed += part;
    }
    streamed += decoder.finish();
    if (streamed != utf8_repair(decoded)) std::abort();
  }
}

const Tokenizer& tokenizer_of(const Metadata& metadata, const char* pre) {
  Metadata m = metadata;
  if (*pre != '\0') m.set("tokenizer.ggml.pre", std::string(pre));
  auto tokenizer = make_tokenizer_from_gguf(m);
  if (!tokenizer.ok()) std::abort();
  return *std::move(tokenizer).value().release();  // lives as long as the process
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer* const kByteLevel[] = {
      &tokenizer_of(byte_level(), "gpt-2"),          &tokenizer_of(byte_level(), "qwen2"),
      &tokenizer_of(byte_level(), "llama3"),         &tokenizer_of(byte_level(), "deepseek-llm"),
      &tokenizer_of(byte_level(), "deepseek-coder"), &tokenizer_of(byte_level(), "falcon"),
      &tokenizer_of(byte_level(), "smollm"),         &tokenizer_of(byte_level(), "default")};
  static const Tokenizer& kSentencePiece = tokenizer_of(sentence_piece(), "");
  constexpr uint8_t kFamilies = std::size(kByteLevel);
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const uint8_t choice = data[0] % (kFamilies + 3);
  if (choice < kFamilies) {
    exercise(*kByteLevel[choice], rest, true);
  } else if (choice == kFamilies) {
    exercise(kSentencePiece, rest, rest.find("\xE2\x96\x81") == rest.npos);
  } else {
    const auto tokenizer =
        choice == kFamilies + 1 ? make_tokenizer_from_json(rest, "") : make_tokenizer_from_vocab_txt(rest, "");
    if (tokenizer.ok()) exercise(**tokenizer, "Hello <|im_end|> w\xC3\xB6rld\xFF  12", false);
  }
  return 0;
}
