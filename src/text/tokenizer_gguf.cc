// Reads the "tokenizer.ggml.*" keys of GGUF metadata.
#include <cmath>
#include <limits>

#include "base/limits.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_base.h"

namespace pare {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";

std::string key_of(std::string_view name) { return std::string(kPrefix) + std::string(name); }

std::string item(std::string_view name, size_t index) { return key_of(name) + "[" + std::to_string(index) + "]"; }

Status wrong_length(std::string_view name, size_t have, size_t tokens) {
  return data_loss(key_of(name) + " has " + std::to_string(have) + " items for " + std::to_string(tokens) + " tokens");
}

// GGUF's token types 1 to 6; 0 ("undefined") counts as normal.
Expected<TokenKind> kind_of(int64_t type, size_t index) {
  constexpr TokenKind kKinds[] = {TokenKind::kNormal,      TokenKind::kNormal, TokenKind::kUnknown, TokenKind::kControl,
                                  TokenKind::kUserDefined, TokenKind::kUnused, TokenKind::kByte};
  if (type < 0 || type > 6) return data_loss(item("token_type", index) + " is " + std::to_string(type) + ", limit 6");
  return kKinds[type];
}

Status read_vocab(const Metadata& metadata, TokenizerParts* parts) {
  PARE_ASSIGN_OR_RETURN(const std::vector<std::string>* tokens, metadata.get_string_array(key_of("tokens")));
  if (tokens->empty()) return data_loss(key_of("tokens") + " is empty");
  std::vector<int64_t> types;
  if (metadata.has(key_of("token_type"))) {
    PARE_ASSIGN_OR_RETURN(types, metadata.get_int_array(key_of("token_type")));
    if (types.size() != tokens->size()) return wrong_length("token_type", types.size(), tokens->size());
  }
  parts->vocab.reserve(tokens->size());
  for (size_t i = 0; i < tokens->size(); ++i) {
    TokenKind kind = TokenKind::kNormal;
    if (!types.empty()) {
      PARE_ASSIGN_OR_RETURN(kind, kind_of(types[i], i));
    }
    if (is_control_spelling((*tokens)[i])) kind = TokenKind::kControl;
    const Status added = parts->vocab.add((*tokens)[i], kind);
    if (!added.ok()) return added.with_context(item("tokens", i));
  }
  if (metadata.has(key_of("scores"))) {
    PARE_ASSIGN_OR_RETURN(const std::vector<double> scores, metadata.get_float_array(key_of("scores")));
    if (scores.size() != tokens->size()) return wrong_length("scores", scores.size(), tokens->size());
    parts->scores.reserve(scores.size());
    for (size_t i = 0; i < scores.size(); ++i) {
      if (!(std::abs(scores[i]) <= std::numeric_limits<float>::max())) {
        return data_loss(item("scores", i) + " is not finite");
      }
      parts->scores.push_back(static_cast<float>(scores[i]));
    }
  }
  return ok_status();
}

// The id under `name`, kNoToken when absent.
Expected<TokenId> read_id(const Metadata& metadata, std::string_view name, int32_t vocab_size) {
  const std::string key = key_of(name);
  if (!metadata.has(key)) return kNoToken;
  PARE_ASSIGN_OR_RETURN(const int64_t id, metadata.get_int(key, 0, vocab_size - 1));
  return static_cast<TokenId>(id);
}

// Every token that is cut out of the text first. Phi-3's files do not say that its control tokens swallow the
// white space that follows, except after the three that start or stand for a text.
void collect_added(std::string_view model_name, TokenizerParts* parts) {
  const bool phi3 = model_name.find("phi-3") != model_name.npos || model_name.find("phi3") != model_name.npos;
  for (TokenId id = 0; id < parts->vocab.size(); ++id) {
    const TokenKind kind = parts->vocab.kind(id);
    if (kind != TokenKind::kControl && kind != TokenKind::kUserDefined && kind != TokenKind::kUnknown) continue;
    const std::string_view text = parts->vocab.text(id);
    const bool strip_right = phi3 && text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
    parts->added.push_back({id, std::string(text), false, strip_right});
  }
}

std::string lower_ascii(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

Expected<std::vector<Merge>> read_merges(const Metadata& metadata) {
  PARE_ASSIGN_OR_RETURN(const std::vector<std::string>* lines, metadata.get_string_array(key_of("merges")));
  std::vector<Merge> merges;
  merges.reserve(lines->size());
  for (size_t i = 0; i < lines->size(); ++i) {
    const std::string_view line = (*lines)[i];
    // Neither part is empty, and GGUF spells spaces inside tokens otherwise; a left part may start with one.
    const size_t space = line.find(' ', 1);
    if (line.size() < 3 || space == line.npos || space + 1 == line.size()) {
      return data_loss(item("merges", i) + " '" + std::string(line) + "' is not two tokens with a space between");
    }
    merges.push_back({line.substr(0, space), line.substr(space + 1)});
  }
  return merges;
}

struct Defaults {
  bool add_bos = false, add_eos = false;
};

Status read_specials(const Metadata& metadata, const Defaults& defaults, TokenizerParts* parts) {
  const int32_t size = parts->vocab.size();
  PARE_ASSIGN_OR_RETURN(parts->bos, read_id(metadata, "bos_token_id", size));
  PARE_ASSIGN_OR_RETURN(parts->eos, read_id(metadata, "eos_token_id", size));
  PARE_ASSIGN_OR_RETURN(parts->pad, read_id(metadata, "padding_token_id", size));
  PARE_ASSIGN_OR_RETURN(parts->unk, read_id(metadata, "unknown_token_id", size));
  PARE_ASSIGN_OR_RETURN(const TokenId eot, read_id(metadata, "eot_token_id", size));
  PARE_ASSIGN_OR_RETURN(const TokenId eom, read_id(metadata, "eom_token_id", size));
  // A default holds only where there is a token to add; a file that asks for one that it lacks contradicts
  // itself.
  const bool default_bos = defaults.add_bos && parts->bos != kNoToken;
  const bool default_eos = defaults.add_eos && parts->eos != kNoToken;
  PARE_ASSIGN_OR_RETURN(const bool add_bos, metadata.get_bool_or(key_of("add_bos_token"), default_bos));
  PARE_ASSIGN_OR_RETURN(const bool add_eos, metadata.get_bool_or(key_of("add_eos_token"), default_eos));
  if (add_bos && parts->bos == kNoToken) {
    return data_loss(key_of("add_bos_token") + " is true, but there is no " + key_of("bos_token_id"));
  }
  if (add_eos && parts->eos == kNoToken) {
    return data_loss(key_of("add_eos_token") + " is true, but there is no " + key_of("eos_token_id"));
  }
  if (add_bos) parts->prefix = {parts->bos};
  if (add_eos) parts->suffix = {parts->eos};
  PARE_ASSIGN_OR_RETURN(const std::string_view name, metadata.get_string_or("general.name", ""));
  collect_added(lower_ascii(name), parts);
  collect_end_of_generation({parts->eos, eot, eom}, parts);
  return ok_status();
}

Expected<std::unique_ptr<Tokenizer>> read_bpe(const Metadata& metadata, TokenizerParts parts) {
  PARE_ASSIGN_OR_RETURN(const std::string_view pre, metadata.get_string_or(key_of("pre"), "default"));
  const Expected<PreTokenizerRules> rules = pre_tokenizer_rules(pre);
  if (!rules.ok()) return PreTokenizer::from_name(pre).status().with_context(key_of("pre"));
  PARE_RETURN_IF_ERROR(read_specials(metadata, {rules->add_bos_default, rules->add_sep_default}, &parts));
  PARE_ASSIGN_OR_RETURN(const std::vector<Merge> merges, read_merges(metadata));
  BpeOptions options;
  options.pre = pre;
  options.ignore_merges = rules->ignore_merges;
  return make_bpe(std::move(parts), options, merges, key_of("merges"));
}

Expected<std::unique_ptr<Tokenizer>> read_spm(const Metadata& metadata, TokenizerParts parts) {
  if (parts.scores.empty()) return not_found(key_of("scores") + " is missing: this family merges by score");
  PARE_RETURN_IF_ERROR(read_specials(metadata, {.add_bos = true}, &parts));
  SpmOptions options;
  PARE_ASSIGN_OR_RETURN(options.add_space_prefix, metadata.get_bool_or(key_of("add_space_prefix"), true));
  return make_spm(std::move(parts), options, key_of("scores"));
}

// BERT's vocabulary in GGUF spells the start of a word with U+2581 and leaves "##" out.
Expected<std::unique_ptr<Tokenizer>> read_wordpiece(const Metadata& metadata, TokenizerParts parts) {
  PARE_RETURN_IF_ERROR(read_specials(metadata, {}, &parts));
  const int32_t size = parts.vocab.size();
  PARE_ASSIGN_OR_RETURN(TokenId cls, read_id(metadata, "cls_token_id", size));
  // Both spellings are in use; the misspelled one came first.
  PARE_ASSIGN_OR_RETURN(TokenId sep, read_id(metadata, "seperator_token_id", size));
  if (sep == kNoToken) {
    PARE_ASSIGN_OR_RETURN(sep, read_id(metadata, "separator_token_id", size));
  }
  if (cls == kNoToken) cls = parts.bos;
  if (sep == kNoToken) sep = parts.eos;
  if (cls == kNoToken || sep == kNoToken || parts.unk == kNoToken) {
    return not_found("a WordPiece vocabulary needs " + key_of("cls_token_id") + ", " + key_of("seperator_token_id") +
                     " and " + key_of("unknown_token_id"));
  }
  parts.prefix = {cls};
  parts.suffix = {sep};
  if (parts.bos == kNoToken) parts.bos = cls;
  if (parts.eos == kNoToken) parts.eos = sep;
  WordPieceOptions options;
  options.word_prefix = "\xE2\x96\x81";
  return make_wordpiece(std::move(parts), options);
}

}  // namespace

Expected<std::unique_ptr<Tokenizer>> make_tokenizer_from_gguf(const Metadata& metadata) {
  PARE_ASSIGN_OR_RETURN(const std::string_view model, metadata.get_string(key_of("model")));
  TokenizerParts parts;
  PARE_RETURN_IF_ERROR(read_vocab(metadata, &parts));
  if (model == "gpt2") return read_bpe(metadata, std::move(parts));
  if (model == "llama") return read_spm(metadata, std::move(parts));
  if (model == "bert") return read_wordpiece(metadata, std::move(parts));
  return unsupported(key_of("model") + " '" + std::string(model) +
                     "' is not supported; supported are gpt2, llama, bert");
}

}  // namespace pare
