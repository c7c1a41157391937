#include "text/pre_tokenizer_patterns.h"

#include <algorithm>

namespace pare {

using std::string_view;

// clang-format off
#define PARE_GPT2 R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"
#define PARE_CONTRACTIONS R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]))"
#define PARE_CONTRACTIONS_I R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
#define PARE_LETTERS_THEN R"(|[^\r\n\p{L}\p{N}]?\p{L}+|)"
#define PARE_REST R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define PARE_CJK R"([\x{800}-\x{9FA5}\x{AC00}-\x{D7FF}]+)"

const string_view kGpt2Pattern = PARE_GPT2;
const string_view kOneDigitPattern = R"(\p{N})";
const string_view kDigitsPattern = R"(\p{N}+)";
const string_view kOnePunctuationPattern = R"([\p{P}$+<=>^`|~])";
const string_view kPunctuationPattern = R"([\p{P}$+<=>^`|~]+)";

namespace {

// Cased letters as DeepSeek LLM lists them; scripts and blocks that it leaves out are no letters to it.
#define PARE_DEEPSEEK_LETTERS \
  R"(A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF})" \
  R"(\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1})" \
  R"(\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5})" \
  R"(\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77})" \
  R"(\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D})" \
  R"(\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC})" \
  R"(\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC})" \
  R"(\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D})" \
  R"(\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F})" \
  R"(\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE})" \
  R"(\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787})" \
  R"(\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A})" \
  R"(\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2})" \
  R"(\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943})"

constexpr string_view kGpt2[] = {PARE_GPT2};
constexpr string_view kDigitsThenGpt2[] = {R"(\p{N})", PARE_GPT2};
constexpr string_view kLlamaBpe[] = {PARE_CONTRACTIONS PARE_LETTERS_THEN R"(\p{N}{1,3})" PARE_REST};
constexpr string_view kLlamaBpeJson[] = {PARE_CONTRACTIONS_I PARE_LETTERS_THEN R"(\p{N}{1,3})" PARE_REST};
constexpr string_view kQwen2[] = {PARE_CONTRACTIONS PARE_LETTERS_THEN R"(\p{N})" PARE_REST};
constexpr string_view kQwen2Json[] = {PARE_CONTRACTIONS_I PARE_LETTERS_THEN R"(\p{N})" PARE_REST};
constexpr string_view kDeepseekCoder[] = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", PARE_CJK, R"(\p{N})"};
constexpr string_view kDeepseekLlm[] = {
    R"([\r\n])", R"(\s?[)" PARE_DEEPSEEK_LETTERS R"(]+)",
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)",
    // Published as \s+$. The look-behind changes no cut: the leftmost match starts its run of spaces anyway. It
    // keeps the search from trying, and failing, at each space of a long run before a word.
    R"((?<!\s)\s+$)", PARE_CJK, R"(\p{N}+)"};
constexpr string_view kFalcon[] = {R"([\p{P}\$\+<=>\^~\|`]+)", PARE_GPT2, R"([0-9][0-9][0-9])"};
constexpr string_view kDefault[] = {R"([\p{P}\$\+<=>\^~\|]+)", PARE_GPT2, R"(\p{N}+)", R"([0-9][0-9][0-9])"};
// clang-format on

constexpr string_view kLlamaBpeAliases[] = {"llama3",  "llama-v3", "falcon3", "falcon-h1",
                                            "pixtral", "midm-2.0", "lfm2"};
constexpr string_view kDbrxAliases[] = {"smaug-bpe"};
constexpr string_view kQwen2Aliases[] = {"deepseek-r1-qwen", "kormo", "stablelm2", "hunyuan", "megrez"};
constexpr string_view kGpt2Aliases[] = {"phi-2",   "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de",
                                        "a.x-4.0", "mellum",  "olmo",    "jais",     "trillion",   "modern-bert"};
constexpr string_view kRobertaAliases[] = {"jina-v1-en", "jina-v2-code"};
constexpr string_view kStarcoderAliases[] = {"codeshell", "exaone", "minerva-7b"};

constexpr KnownPreTokenizer kKnown[] = {
    {{"gpt-2"}, kGpt2Aliases, kGpt2, {}},
    {{"smollm"}, {}, kDigitsThenGpt2, {}},
    {{"qwen2"}, kQwen2Aliases, kQwen2, kQwen2Json},
    {{"llama-bpe", true, true}, kLlamaBpeAliases, kLlamaBpe, kLlamaBpeJson},
    {{"dbrx"}, kDbrxAliases, kLlamaBpe, {}},
    {{"deepseek-coder"}, {}, kDeepseekCoder, {}},
    {{"deepseek-llm"}, {}, kDeepseekLlm, {}},
    {{"falcon"}, {}, kFalcon, {}},
    {{"starcoder"}, kStarcoderAliases, kDigitsThenGpt2, {}},
    {{"refact"}, {}, kDigitsThenGpt2, {}},
    {{"command-r"}, {}, kDigitsThenGpt2, {}},
    {{"mpt"}, {}, kGpt2, {}},
    {{"roberta-bpe", false, false, true}, kRobertaAliases, kGpt2, {}},
    {{"default"}, {}, kDefault, {}},
};

}  // namespace

std::span<const KnownPreTokenizer> known_pre_tokenizers() { return kKnown; }

const KnownPreTokenizer* find_pre_tokenizer(std::string_view name) {
  for (const KnownPreTokenizer& known : kKnown) {
    if (known.rules.name == name || std::ranges::count(known.aliases, name) > 0) return &known;
  }
  return nullptr;
}

}  // namespace pare
