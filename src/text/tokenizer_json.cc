// Reads Hugging Face's tokenizer.json, with the special tokens of tokenizer_config.json.
#include <map>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "text/pre_tokenizer.h"
#include "text/pre_tokenizer_patterns.h"
#include "text/tokenizer_base.h"

namespace pare {
namespace {

using nlohmann::json;

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

Expected<json> parse(std::string_view text, const char* place) {
  if (text.size() > static_cast<size_t>(kMaxJsonBytes)) {
    return data_loss(std::string(place) + ": " + std::to_string(text.size()) + " bytes, limit " +
                     std::to_string(kMaxJsonBytes));
  }
  bool too_deep = false;
  const auto watch_depth = [&too_deep](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kMaxJsonDepth;
    return !too_deep;
  };
  json value = json::parse(text, watch_depth, false);
  if (too_deep) return data_loss(std::string(place) + ": nested deeper than " + std::to_string(kMaxJsonDepth));
  if (!value.is_object()) return data_loss(std::string(place) + " is not a JSON object");
  return value;
}

// Member of an object, or null when absent, JSON null, or `object` is none.
const json* member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string string_or(const json& object, const char* key, std::string_view fallback) {
  const json* value = member(object, key);
  const std::string* text = value == nullptr ? nullptr : value->get_ptr<const std::string*>();
  return text == nullptr ? std::string(fallback) : *text;
}

bool bool_or(const json& object, const char* key, bool fallback) {
  const json* value = member(object, key);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : fallback;
}

// `node` itself, or what is in it when it is a "Sequence".
std::vector<const json*> flatten(const json* node, const char* list_key) {
  if (node == nullptr) return {};
  if (string_or(*node, "type", "") != "Sequence") return {node};
  std::vector<const json*> out;
  if (const json* list = member(*node, list_key); list != nullptr && list->is_array()) {
    for (const json& item : *list) out.push_back(&item);
  }
  return out;
}

Status not_supported(const char* section, const json& node, std::string_view what = "") {
  std::string message = "tokenizer.json: " + std::string(section) + " '" + string_or(node, "type", "?") + "'";
  if (!what.empty()) message.append(" with ").append(what);
  return unsupported(message + " is not supported");
}

struct Spelling {
  std::string text;
  TokenKind kind = TokenKind::kNormal;
};

class Reader {
 public:
  Reader(const json& root, const json& config) : root_(root), config_(config) {}

  Expected<std::unique_ptr<Tokenizer>> read() {
    const json* model = member(root_, "model");
    if (model == nullptr || !model->is_object()) return data_loss("tokenizer.json: model is missing");
    const std::string type = string_or(*model, "type", "?");
    if (type != "BPE" && type != "WordPiece") return not_supported("model", *model);
    byte_fallback_ = bool_or(*model, "byte_fallback", false);
    PARE_RETURN_IF_ERROR(read_vocab(*model));
    PARE_RETURN_IF_ERROR(read_specials(*model));
    return type == "BPE" ? read_bpe(*model) : read_wordpiece(*model);
  }

 private:
  // Ids of model.vocab and added_tokens together are 0 to n-1, each once.
  Status read_vocab(const json& model) {
    const json* vocab = member(model, "vocab");
    if (vocab == nullptr || !vocab->is_object()) return data_loss("tokenizer.json: model.vocab is no object");
    std::map<TokenId, Spelling> tokens;
    for (const auto& [text, value] : vocab->items()) {
      PARE_ASSIGN_OR_RETURN(const TokenId id, id_of(value, "model.vocab['" + text + "']"));
      const bool is_byte = byte_fallback_ && byte_of_spelling(text) >= 0;
      const auto [at, fresh] = tokens.try_emplace(id, Spelling{text, is_byte ? TokenKind::kByte : TokenKind::kNormal});
      if (!fresh) {
        return data_loss("tokenizer.json: model.vocab['" + text + "']: id " + std::to_string(id) +
                         " is a duplicate: '" + at->second.text + "' has it");
      }
    }
    if (const json* added = member(root_, "added_tokens"); added != nullptr) {
      for (size_t i = 0; i < added->size(); ++i) PARE_RETURN_IF_ERROR(read_added((*added)[i], i, &tokens));
    }
    parts_.vocab.reserve(tokens.size());
    for (const auto& [id, spelling] : tokens) {
      if (id != parts_.vocab.size()) {
        return data_loss("tokenizer.json: model.vocab has no token " + std::to_string(parts_.vocab.size()) +
                         ", but token " + std::to_string(id) + ": a hole in the vocabulary");
      }
      const Status status = parts_.vocab.add(spelling.text, spelling.kind);
      if (!status.ok()) return status.with_context("tokenizer.json: token " + std::to_string(id));
    }
    return ok_status();
  }

  Status read_added(const json& token, size_t index, std::map<TokenId, Spelling>* tokens) {
    const std::string place = "added_tokens[" + std::to_string(index) + "]";
    const json* id_value = member(token, "id");
    if (id_value == nullptr) return data_loss("tokenizer.json: " + place + " has no id");
    PARE_ASSIGN_OR_RETURN(const TokenId id, id_of(*id_value, place + ".id"));
    const std::string text = string_or(token, "content", "");
    if (text.empty()) return data_loss("tokenizer.json: " + place + ".content is empty");
    if (bool_or(token, "single_word", false)) {
      return unsupported("tokenizer.json: " + place + ".single_word is not supported");
    }
    Spelling& spelling = (*tokens)[id];
    if (!spelling.text.empty() && spelling.text != text) {
      return data_loss("tokenizer.json: " + place + ": id " + std::to_string(id) + " is '" + text + "' here and '" +
                       spelling.text + "' in model.vocab");
    }
    spelling = {text, bool_or(token, "special", false) ? TokenKind::kControl : TokenKind::kUserDefined};
    parts_.added.push_back({id, text, bool_or(token, "lstrip", false), bool_or(token, "rstrip", false)});
    return ok_status();
  }

  static Expected<TokenId> id_of(const json& value, const std::string& place) {
    if (!value.is_number_integer() || value < 0 || value >= kMaxVocab) {
      return data_loss("tokenizer.json: " + place + ": the id " +
                       value.dump(-1, ' ', true, json::error_handler_t::replace) + " is no integer in 0 to " +
                       std::to_string(kMaxVocab - 1));
    }
    return value.get<TokenId>();
  }

  // A special token by its text; kNoToken when the file names none.
  Expected<TokenId> named(const json& object, const char* key) const {
    const json* value = member(object, key);
    if (value == nullptr) return kNoToken;
    const std::string text = value->is_object() ? string_or(*value, "content", "") : string_or(object, key, "");
    const TokenId id = parts_.vocab.find(text);
    if (id == kNoToken) return data_loss(std::string(key) + " '" + text + "' is not in the vocabulary");
    return id;
  }

  Status read_specials(const json& model) {
    PARE_ASSIGN_OR_RETURN(parts_.bos, named(config_, "bos_token"));
    PARE_ASSIGN_OR_RETURN(parts_.eos, named(config_, "eos_token"));
    PARE_ASSIGN_OR_RETURN(parts_.pad, named(config_, "pad_token"));
    PARE_ASSIGN_OR_RETURN(parts_.unk, named(model, "unk_token"));
    bool templated = false;
    for (const json* processor : flatten(member(root_, "post_processor"), "processors")) {
      PARE_RETURN_IF_ERROR(read_post_processor(*processor, &templated));
    }
    if (!templated && bool_or(config_, "add_bos_token", false) && parts_.bos != kNoToken) parts_.prefix = {parts_.bos};
    if (!templated && bool_or(config_, "add_eos_token", false) && parts_.eos != kNoToken) parts_.suffix = {parts_.eos};
    collect_end_of_generation({parts_.eos}, &parts_);
    return ok_status();
  }

  Status read_post_processor(const json& node, bool* templated) {
    const std::string type = string_or(node, "type", "?");
    if (type == "ByteLevel") return ok_status();  // offsets only
    *templated = true;
    if (type == "BertProcessing" || type == "RobertaProcessing") {
      for (const auto& [key, list] : {std::pair{"cls", &parts_.prefix}, std::pair{"sep", &parts_.suffix}}) {
        const json* pair = member(node, key);
        if (pair == nullptr || !pair->is_array() || pair->size() != 2) {
          return data_loss("tokenizer.json: post_processor." + std::string(key) + " is no pair of text and id");
        }
        PARE_ASSIGN_OR_RETURN(const TokenId id, known_id((*pair)[1], "post_processor"));
        list->push_back(id);
      }
      return ok_status();
    }
    if (type != "TemplateProcessing") return not_supported("post_processor", node);
    const json* single = member(node, "single");
    if (single == nullptr || !single->is_array()) return data_loss("tokenizer.json: post_processor.single is no list");
    std::vector<TokenId>* side = &parts_.prefix;
    for (const json& item : *single) {
      if (member(item, "Sequence") != nullptr) {
        side = &parts_.suffix;
        continue;
      }
      const json* special = member(item, "SpecialToken");
      const std::string text = special == nullptr ? "" : string_or(*special, "id", "");
      const json* known = member(node, "special_tokens");
      const json* entry = known == nullptr ? nullptr : member(*known, text.c_str());
      const json* ids = entry == nullptr ? nullptr : member(*entry, "ids");
      if (ids == nullptr || !ids->is_array()) {
        return data_loss("tokenizer.json: post_processor.single names '" + text + "', which special_tokens lacks");
      }
      for (const json& value : *ids) {
        PARE_ASSIGN_OR_RETURN(const TokenId id, known_id(value, "post_processor.special_tokens['" + text + "'].ids"));
        side->push_back(id);
      }
    }
    return ok_status();
  }

  Expected<TokenId> known_id(const json& value, const std::string& place) const {
    PARE_ASSIGN_OR_RETURN(const TokenId id, id_of(value, place));
    if (!parts_.vocab.contains(id)) {
      return data_loss("tokenizer.json: " + place + ": " + std::to_string(id) + " is outside the vocabulary of " +
                       std::to_string(parts_.vocab.size()));
    }
    return id;
  }

  Expected<std::vector<Merge>> read_merges(const json& model) const {
    const json* list = member(model, "merges");
    if (list == nullptr || !list->is_array()) return data_loss("tokenizer.json: model.merges is no list");
    std::vector<Merge> merges;
    merges.reserve(list->size());
    for (size_t i = 0; i < list->size(); ++i) {
      const json& item = (*list)[i];
      Merge merge;
      if (const auto* line = item.get_ptr<const std::string*>()) {
        const size_t space = line->find(' ');
        if (space != line->npos && line->find(' ', space + 1) == line->npos) {
          merge = {std::string_view(*line).substr(0, space), std::string_view(*line).substr(space + 1)};
        }
      } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
        merge = {*item[0].get_ptr<const std::string*>(), *item[1].get_ptr<const std::string*>()};
      }
      if (merge.left.empty() || merge.right.empty()) {
        return data_loss("tokenizer.json: model.merges[" + std::to_string(i) + "] is not two tokens");
      }
      merges.push_back(merge);
    }
    return merges;
  }

  Expected<std::unique_ptr<Tokenizer>> read_bpe(const json& model) {
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!string_or(model, key, "").empty()) return not_supported("model", model, key);
    }
    if (const json* dropout = member(model, "dropout"); dropout != nullptr && *dropout != 0.0) {
      return not_supported("model", model, "dropout");
    }
    PARE_ASSIGN_OR_RETURN(const std::vector<Merge> merges, read_merges(model));
    if (byte_fallback_) return read_spm(merges);
    BpeOptions options;
    options.ignore_merges = bool_or(model, "ignore_merges", false);
    for (const json* node : flatten(member(root_, "normalizer"), "normalizers")) {
      if (string_or(*node, "type", "") != "NFC") return not_supported("normalizer", *node);
      options.normalize_nfc = true;
    }
    bool byte_level = false;
    for (const json* node : flatten(member(root_, "pre_tokenizer"), "pretokenizers")) {
      PARE_RETURN_IF_ERROR(read_pre_tokenizer(*node, &byte_level, &options.patterns));
    }
    if (!byte_level) return not_supported("model", model, "neither a ByteLevel pre_tokenizer nor byte_fallback");
    return make_bpe(std::move(parts_), options, merges, "tokenizer.json: model.merges");
  }

  static Status read_pre_tokenizer(const json& node, bool* byte_level, std::vector<std::string>* patterns) {
    const std::string type = string_or(node, "type", "?");
    if (type == "ByteLevel") {
      if (bool_or(node, "add_prefix_space", true)) return not_supported("pre_tokenizer", node, "add_prefix_space");
      *byte_level = true;
      if (bool_or(node, "use_regex", true)) patterns->emplace_back(kGpt2Pattern);
    } else if (type == "Digits") {
      patterns->emplace_back(bool_or(node, "individual_digits", false) ? kOneDigitPattern : kDigitsPattern);
    } else if (type == "Punctuation") {
      const std::string behavior = string_or(node, "behavior", "Isolated");
      if (behavior != "Isolated" && behavior != "Contiguous") return not_supported("pre_tokenizer", node, behavior);
      patterns->emplace_back(behavior == "Isolated" ? kOnePunctuationPattern : kPunctuationPattern);
    } else if (type == "Split") {
      const std::string behavior = string_or(node, "behavior", "?");
      if (behavior != "Isolated") return not_supported("pre_tokenizer", node, "behavior " + behavior);
      const json* pattern = member(node, "pattern");
      const std::string regex = pattern == nullptr ? "" : string_or(*pattern, "Regex", "");
      if (regex.empty()) return not_supported("pre_tokenizer", node, "a pattern that is no Regex");
      patterns->push_back(regex);
    } else {
      return not_supported("pre_tokenizer", node);
    }
    return ok_status();
  }

  // SentencePiece-style: spaces become U+2581 by a normalizer or by Metaspace, and merges go by rank.
  Expected<std::unique_ptr<Tokenizer>> read_spm(const std::vector<Merge>& merges) {
    SpmOptions options;
    options.merges = merges;
    options.add_space_prefix = false;
    bool replaces = false;
    for (const json* node : flatten(member(root_, "normalizer"), "normalizers")) {
      const std::string type = string_or(*node, "type", "?");
      const json* pattern = member(*node, "pattern");
      if (type == "Prepend" && string_or(*node, "prepend", "") == kSpace) {
        options.add_space_prefix = true;
      } else if (type == "Replace" && pattern != nullptr && string_or(*pattern, "String", "") == " " &&
                 string_or(*node, "content", "") == kSpace) {
        replaces = true;
      } else {
        return not_supported("normalizer", *node);
      }
    }
    for (const json* node : flatten(member(root_, "pre_tokenizer"), "pretokenizers")) {
      const std::string type = string_or(*node, "type", "?");
      const json* pattern = member(*node, "pattern");
      // With the spaces replaced, a split at spaces has nothing to split.
      if (type == "Split" && replaces && pattern != nullptr && string_or(*pattern, "String", "") == " ") continue;
      if (type != "Metaspace" || string_or(*node, "replacement", kSpace) != kSpace) {
        return not_supported("pre_tokenizer", *node);
      }
      const std::string scheme =
          string_or(*node, "prepend_scheme", bool_or(*node, "add_prefix_space", true) ? "always" : "never");
      if (scheme == "first") return not_supported("pre_tokenizer", *node, "prepend_scheme first");
      options.add_space_prefix = scheme == "always";
      replaces = true;
    }
    if (!replaces)
      return unsupported("tokenizer.json: byte_fallback without spaces replaced by U+2581 is not supported");
    return make_spm(std::move(parts_), options, "tokenizer.json: model.merges");
  }

  Expected<std::unique_ptr<Tokenizer>> read_wordpiece(const json& model) {
    WordPieceOptions options;
    options.continuation_prefix = string_or(model, "continuing_subword_prefix", "##");
    options.word_chars_max = 100;
    if (const json* limit = member(model, "max_input_chars_per_word"); limit != nullptr) {
      if (!limit->is_number_unsigned()) return data_loss("tokenizer.json: model.max_input_chars_per_word is no count");
      options.word_chars_max = limit->get<size_t>();
    }
    const json* pre = member(root_, "pre_tokenizer");
    if (pre == nullptr || string_or(*pre, "type", "?") != "BertPreTokenizer") {
      return not_supported("pre_tokenizer", pre == nullptr ? root_ : *pre, "WordPiece");
    }
    options.clean_text = options.isolate_cjk = options.strip_accents = options.lowercase = false;
    for (const json* node : flatten(member(root_, "normalizer"), "normalizers")) {
      if (string_or(*node, "type", "?") != "BertNormalizer") return not_supported("normalizer", *node);
      options.clean_text = bool_or(*node, "clean_text", true);
      options.isolate_cjk = bool_or(*node, "handle_chinese_chars", true);
      options.lowercase = bool_or(*node, "lowercase", true);
      options.strip_accents = bool_or(*node, "strip_accents", options.lowercase);
    }
    return make_wordpiece(std::move(parts_), options);
  }

  const json& root_;
  const json& config_;
  TokenizerParts parts_;
  bool byte_fallback_ = false;
};

}  // namespace

Expected<std::unique_ptr<Tokenizer>> make_tokenizer_from_json(std::string_view tokenizer_json,
                                                              std::string_view tokenizer_config_json) {
  PARE_ASSIGN_OR_RETURN(const json root, parse(tokenizer_json, "tokenizer.json"));
  json config = json::object();
  if (!tokenizer_config_json.empty()) {
    PARE_ASSIGN_OR_RETURN(config, parse(tokenizer_config_json, "tokenizer_config.json"));
  }
  return Reader(root, config).read();
}

Expected<std::unique_ptr<Tokenizer>> make_tokenizer_from_vocab_txt(std::string_view vocab_txt,
                                                                   std::string_view tokenizer_config_json) {
  json config = json::object();
  if (!tokenizer_config_json.empty()) {
    PARE_ASSIGN_OR_RETURN(config, parse(tokenizer_config_json, "tokenizer_config.json"));
  }
  TokenizerParts parts;
  for (size_t at = 0; at < vocab_txt.size();) {
    const size_t end = std::min(vocab_txt.find('\n', at), vocab_txt.size());
    std::string_view line = vocab_txt.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const bool special = line == "[PAD]" || line == "[UNK]" || line == "[CLS]" || line == "[SEP]" || line == "[MASK]";
    const TokenId id = parts.vocab.size();
    const Status added = parts.vocab.add(line, special ? TokenKind::kControl : TokenKind::kNormal);
    if (!added.ok()) return added.with_context("vocab.txt line " + std::to_string(id + 1));
    if (special) parts.added.push_back({id, std::string(line), false, false});
    at = end + 1;
  }
  const auto special = [&](const char* key, const char* fallback) {
    return parts.vocab.find(string_or(config, key, fallback));
  };
  parts.unk = special("unk_token", "[UNK]");
  parts.bos = special("cls_token", "[CLS]");
  parts.eos = special("sep_token", "[SEP]");
  parts.pad = special("pad_token", "[PAD]");
  if (parts.unk == kNoToken || parts.bos == kNoToken || parts.eos == kNoToken) {
    return data_loss("vocab.txt lacks [UNK], [CLS] or [SEP]");
  }
  parts.prefix = {parts.bos};
  parts.suffix = {parts.eos};
  WordPieceOptions options;
  options.continuation_prefix = "##";
  options.word_chars_max = 100;
  options.lowercase = bool_or(config, "do_lower_case", true);
  options.isolate_cjk = bool_or(config, "tokenize_chinese_chars", true);
  options.strip_accents = bool_or(config, "strip_accents", options.lowercase);
  return make_wordpiece(std::move(parts), options);
}

}  // namespace pare
