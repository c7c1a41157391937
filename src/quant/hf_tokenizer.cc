#include "quant/hf_tokenizer.h"

#include <fmt/format.h>

#include <vector>

#include "base/limits.h"
#include "io/json.h"
#include "io/quote_name.h"

namespace pare {
namespace {

using Json = nlohmann::ordered_json;

enum TokenType : int64_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

const Json* member(const Json& object, std::string_view name) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(name);
  return it == object.end() ? nullptr : &*it;
}

bool is_type(const Json* object, std::string_view type) {
  const Json* const value = object ? member(*object, "type") : nullptr;
  return value && value->is_string() && value->get_ref<const std::string&>() == type;
}

// Whether a step, or one of a sequence's, is ByteLevel.
bool has_byte_level(const Json* step) {
  if (!step || is_type(step, "ByteLevel")) return step != nullptr;
  for (const char* list : {"pretokenizers", "decoders"}) {
    const Json* const steps = member(*step, list);
    if (!steps || !steps->is_array()) continue;
    for (const Json& inner : *steps) {
      if (is_type(&inner, "ByteLevel")) return true;
    }
  }
  return false;
}

class Vocabulary {
 public:
  explicit Vocabulary(int64_t size)
      : tokens_(static_cast<size_t>(size)),
        types_(static_cast<size_t>(size), kUnused),
        set_(static_cast<size_t>(size)) {}

  Status add(const std::string& text, const Json& id, int64_t type) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= tokens_.size()) {
      return data_loss(
          fmt::format("token {} has the id {}, the model has {} rows", quote_name(text), id.dump(), tokens_.size()));
    }
    const auto at = id.get<size_t>();
    // Added tokens may repeat an entry of the vocabulary to give it a type.
    if (set_[at] && tokens_[at] != text) {
      return data_loss(fmt::format("tokens {} and {} share the id {}", quote_name(tokens_[at]), quote_name(text), at));
    }
    if (static_cast<int64_t>(text.size()) > kMaxTokenBytes) {
      return data_loss(fmt::format("token {} has {} bytes, limit {}", at, text.size(), kMaxTokenBytes));
    }
    tokens_[at] = text;
    types_[at] = type;
    set_[at] = true;
    return ok_status();
  }

  void store(Metadata* out) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (!set_[i]) tokens_[i] = fmt::format("[PAD{}]", i);
    }
    out->set("tokenizer.ggml.tokens", std::move(tokens_));
    out->set("tokenizer.ggml.token_type", std::move(types_));
  }

  // -1 when there is none.
  int64_t find(std::string_view text) const {
    for (size_t i = tokens_.size(); i-- > 0;) {
      if (set_[i] && tokens_[i] == text) return static_cast<int64_t>(i);
    }
    return -1;
  }

 private:
  std::vector<std::string> tokens_;
  std::vector<int64_t> types_;
  std::vector<bool> set_;
};

Status read_vocabulary(const Json& root, const Json& model, Vocabulary* vocabulary) {
  const Json* const vocab = member(model, "vocab");
  if (!vocab || !vocab->is_object()) return data_loss("'model.vocab' is missing or not a JSON object");
  for (const auto& [text, id] : vocab->get_ref<const Json::object_t&>()) {
    PARE_RETURN_IF_ERROR(vocabulary->add(text, id, kNormal));
  }
  const Json* const added = member(root, "added_tokens");
  if (!added) return ok_status();
  if (!added->is_array()) return data_loss("'added_tokens' is not an array");
  for (const Json& token : *added) {
    const Json *id = member(token, "id"), *content = member(token, "content"), *special = member(token, "special");
    if (!id || !content || !content->is_string()) return data_loss("'added_tokens' has an item without id or content");
    const bool control = special && special->is_boolean() && special->get<bool>();
    PARE_RETURN_IF_ERROR(
        vocabulary->add(content->get_ref<const std::string&>(), *id, control ? kControl : kUserDefined));
  }
  return ok_status();
}

Expected<std::vector<std::string>> read_merges(const Json& model) {
  const Json* const list = member(model, "merges");
  if (!list || !list->is_array()) return data_loss("'model.merges' is missing or not an array");
  if (list->size() > static_cast<size_t>(kMaxMerges)) {
    return limit_exceeded(fmt::format("{} merges, limit {}", list->size(), kMaxMerges));
  }
  std::vector<std::string> merges;
  merges.reserve(list->size());
  for (const Json& merge : *list) {
    // Older files write "a b", newer ones ["a", "b"].
    if (merge.is_string()) {
      merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      return data_loss(fmt::format("merge {} is neither a string nor a pair", merges.size()));
    }
  }
  return merges;
}

// tokenizer_config.json's text of a special token: a string, or an object with "content".
std::string special_text(const Json& config, std::string_view name) {
  const Json* value = member(config, name);
  if (value && value->is_object()) value = member(*value, "content");
  return value && value->is_string() ? value->get<std::string>() : std::string();
}

Status add_special_ids(const Json& tokenizer_config, const Metadata& config, const Vocabulary& vocabulary,
                       int64_t vocab, Metadata* out) {
  struct Special {
    std::string_view text_key, id_key, gguf_key;
  };
  constexpr Special kSpecials[] = {
      {"bos_token", "bos_token_id", "bos_token_id"},
      {"eos_token", "eos_token_id", "eos_token_id"},
      {"pad_token", "pad_token_id", "padding_token_id"},
      {"unk_token", "unk_token_id", "unknown_token_id"},
  };
  for (const Special& special : kSpecials) {
    int64_t id = -1;
    if (const std::string text = special_text(tokenizer_config, special.text_key); !text.empty())
      id = vocabulary.find(text);
    if (id < 0) {
      if (const auto said = config.get_int(special.id_key, 0, vocab - 1); said.ok()) id = *said;
    }
    if (id >= 0) out->set(fmt::format("tokenizer.ggml.{}", special.gguf_key), static_cast<uint64_t>(id));
  }
  const Json* const add_bos = member(tokenizer_config, "add_bos_token");
  out->set("tokenizer.ggml.add_bos_token", add_bos && add_bos->is_boolean() && add_bos->get<bool>());
  return ok_status();
}

}  // namespace

Status add_tokenizer_keys(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                          const Metadata& config, std::string_view pre_tokenizer, int64_t vocab, Metadata* out) {
  auto root = parse_json(tokenizer_json);
  if (!root.ok()) return root.status().with_context("tokenizer.json");
  const Json* const model = member(*root, "model");
  if (!model) return data_loss("tokenizer.json: 'model' is missing");
  // Older files leave the type out; only BPE has merges.
  const bool is_bpe = is_type(model, "BPE") || (!member(*model, "type") && member(*model, "merges"));
  if (!is_bpe || !has_byte_level(member(*root, "pre_tokenizer"))) {
    return unsupported("tokenizer.json: only byte-level BPE can be written to GGUF");
  }
  if (pre_tokenizer.empty())
    return invalid_argument("the name of the pre-tokenizer is needed to write GGUF's tokenizer.ggml.pre");
  Json tokenizer_config = Json::object();
  if (!tokenizer_config_json.empty()) {
    auto parsed = parse_json(tokenizer_config_json);
    if (!parsed.ok()) return parsed.status().with_context("tokenizer_config.json");
    tokenizer_config = std::move(*parsed);
  }
  Vocabulary vocabulary(vocab);
  PARE_RETURN_IF_ERROR(read_vocabulary(*root, *model, &vocabulary).with_context("tokenizer.json"));
  auto merges = read_merges(*model);
  if (!merges.ok()) return merges.status().with_context("tokenizer.json");
  out->set("tokenizer.ggml.model", std::string("gpt2"));
  out->set("tokenizer.ggml.pre", std::string(pre_tokenizer));
  out->set("tokenizer.ggml.merges", std::move(*merges));
  PARE_RETURN_IF_ERROR(add_special_ids(tokenizer_config, config, vocabulary, vocab, out));
  vocabulary.store(out);
  return ok_status();
}

}  // namespace pare
