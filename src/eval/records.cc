#include "eval/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "io/atomic_file.h"
#include "io/json.h"
#include "io/sha256.h"
#include "text/utf8.h"

namespace pare {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kFormat = 1;
constexpr size_t kScoredMax = 1 << 16;

// Six digits: what a table or figure can show, and files of half the size.
Json rounded(const std::vector<double>& values) {
  Json array = Json::array();
  for (const double v : values) array.push_back(std::stod(fmt::format("{:.6g}", v)));
  return array;
}

Json to_json(const CaseRecord& r) {
  const CaseKey& k = r.key;
  return {{"task", k.task},
          {"variant", k.variant},
          {"seed", k.seed},
          {"length", k.length},
          {"depth", k.depth},
          {"config", k.config},
          {"against", k.against},
          {"model", k.model},
          {"prompt", k.prompt},
          {"prompt_tokens", r.prompt_tokens},
          {"answer_tokens", r.answer_tokens},
          {"score", r.score},
          {"answer", utf8_repair(r.answer)},
          {"kl", rounded(r.kl)},
          {"same", r.same},
          {"nll", rounded(r.nll)},
          {"prompt_nll", rounded(r.prompt_nll)},
          {"prompt_pairs", r.cost.prompt_pairs},
          {"decode_pairs", r.cost.decode_pairs},
          {"decode_rows", r.cost.decode_rows},
          {"kv_bytes_peak", r.cost.kv_bytes_peak},
          {"kv_bytes_held", r.cost.kv_bytes_held},
          {"ttft_ms", r.cost.ttft_ms}};
}

// Reads the fields of one record; the first that is wrong is remembered.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  void text(const char* name, std::string* out, size_t max) {
    const Json* v = find(name);
    if (!v) return;
    if (!v->is_string() || v->get_ref<const std::string&>().size() > max) return fail(name, "a string");
    *out = v->get<std::string>();
  }
  template <typename T>
  void whole(const char* name, T* out, uint64_t max) {
    const Json* v = find(name);
    if (!v) return;
    if (!v->is_number_unsigned() || v->get<uint64_t>() > max) return fail(name, "a whole number");
    *out = static_cast<T>(v->get<uint64_t>());
  }
  void number(const char* name, double* out) {
    const Json* v = find(name);
    if (!v) return;
    if (!v->is_number() || !std::isfinite(v->get<double>())) return fail(name, "a number");
    *out = v->get<double>();
  }
  template <typename T>
  void list(const char* name, std::vector<T>* out) {
    const Json* v = find(name);
    if (!v) return;
    if (!v->is_array() || v->size() > kScoredMax) return fail(name, "a list of numbers");
    for (const Json& item : *v) {
      if (!item.is_number() || !std::isfinite(item.get<double>()) || item.get<double>() < 0) {
        return fail(name, "a list of numbers");
      }
      out->push_back(static_cast<T>(std::min(item.get<double>(), sizeof(T) == 1 ? 1.0 : 1e300)));
    }
  }
  const Status& status() const { return status_; }

 private:
  const Json* find(const char* name) {
    const auto it = object_.find(name);
    if (it != object_.end()) return &*it;
    fail(name, "present");
    return nullptr;
  }
  void fail(const char* name, std::string_view wanted) {
    if (status_.ok()) status_ = data_loss(fmt::format("field '{}' is not {}", name, wanted));
  }
  const Json& object_;
  Status status_;
};

Expected<CaseRecord> read_record(const Json& object) {
  if (!object.is_object()) return data_loss("not an object");
  CaseRecord r;
  Fields f(object);
  f.text("task", &r.key.task, 64);
  f.text("variant", &r.key.variant, 1024);
  f.whole("seed", &r.key.seed, UINT64_MAX);
  f.whole("length", &r.key.length, INT32_MAX);
  f.whole("depth", &r.key.depth, INT32_MAX);
  f.text("config", &r.key.config, 16384);
  f.text("against", &r.key.against, 16384);
  f.text("model", &r.key.model, 256);
  f.text("prompt", &r.key.prompt, 64);
  f.whole("prompt_tokens", &r.prompt_tokens, INT32_MAX);
  f.whole("answer_tokens", &r.answer_tokens, INT32_MAX);
  f.number("score", &r.score);
  f.text("answer", &r.answer, 4 * kMaxAnswerBytes);
  f.list("kl", &r.kl);
  f.list("same", &r.same);
  f.list("nll", &r.nll);
  f.list("prompt_nll", &r.prompt_nll);
  f.whole("prompt_pairs", &r.cost.prompt_pairs, INT64_MAX);
  f.whole("decode_pairs", &r.cost.decode_pairs, INT64_MAX);
  f.whole("decode_rows", &r.cost.decode_rows, INT64_MAX);
  f.whole("kv_bytes_peak", &r.cost.kv_bytes_peak, INT64_MAX);
  f.whole("kv_bytes_held", &r.cost.kv_bytes_held, INT64_MAX);
  f.number("ttft_ms", &r.cost.ttft_ms);
  PARE_RETURN_IF_ERROR(f.status());
  if (r.score < 0 || r.score > 1) return data_loss(fmt::format("field 'score' is {}, allowed [0, 1]", r.score));
  if (r.kl.size() != r.same.size()) return data_loss("fields 'kl' and 'same' differ in length");
  return r;
}

}  // namespace

std::string config_of(const Engine& engine) {
  return fmt::format("attn={}; kv={}", engine.attn_spec(), engine.kv_spec());
}

std::string model_identity(const LoadedModel& model) {
  return fmt::format("{:016x}{}", model.content_hash, model.accelerator ? " on a card" : "");
}

std::string prompt_hash(const PromptIds& ids) {
  Sha256 sha;
  for (const auto* part : {&ids.prompt, &ids.told}) {
    const uint64_t n = part->size();
    sha.update(std::string_view(reinterpret_cast<const char*>(&n), sizeof(n)));
    sha.update(std::string_view(reinterpret_cast<const char*>(part->data()), part->size() * sizeof(TokenId)));
  }
  const auto hex = sha.finish_hex();
  return hex.ok() ? hex->substr(0, 16) : std::string();
}

const CaseRecord* EvalRecords::find(const CaseKey& key) const {
  const auto it = index_.find(key);
  return it == index_.end() ? nullptr : &records_[it->second];
}

Status EvalRecords::add(CaseRecord record) {
  const auto it = index_.find(record.key);
  if (it != index_.end()) {
    records_[it->second] = std::move(record);
    return ok_status();
  }
  if (static_cast<int64_t>(records_.size()) >= kMaxEvalRecords) {
    return limit_exceeded(fmt::format("more than {} records", kMaxEvalRecords));
  }
  index_.emplace(record.key, records_.size());
  records_.push_back(std::move(record));
  return ok_status();
}

std::string print_records(const EvalRecords& records) {
  // One record a line, so that files can be read and compared.
  std::string text = fmt::format("{{\"pare_eval\": {}, \"records\": [\n", kFormat);
  for (size_t i = 0; i < records.all().size(); ++i) {
    text += to_json(records.all()[i]).dump(-1, ' ', false, Json::error_handler_t::replace);
    text += i + 1 < records.all().size() ? ",\n" : "\n";
  }
  return text + "]}\n";
}

Expected<EvalRecords> parse_records(std::string_view text) {
  PARE_ASSIGN_OR_RETURN(const Json file, parse_json(text));
  if (!file.is_object() || !file.contains("pare_eval") || !file.contains("records") || !file["records"].is_array()) {
    return data_loss("not a file of evaluation results");
  }
  if (file["pare_eval"] != kFormat)
    return unsupported("a format of evaluation results that this version does not know");
  if (static_cast<int64_t>(file["records"].size()) > kMaxEvalRecords) {
    return limit_exceeded(fmt::format("{} records, limit {}", file["records"].size(), kMaxEvalRecords));
  }
  EvalRecords records;
  int64_t number = 0;
  for (const Json& object : file["records"]) {
    auto record = read_record(object);
    if (!record.ok()) return record.status().with_context(fmt::format("record {}", number));
    PARE_RETURN_IF_ERROR(records.add(std::move(*record)));
    ++number;
  }
  return records;
}

Expected<EvalRecords> EvalRecords::read(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return EvalRecords();
  const auto size = std::filesystem::file_size(path, error);
  if (error) return io_error(fmt::format("{}: {}", path.string(), error.message()));
  if (size > static_cast<uint64_t>(kMaxEvalFileBytes)) {
    return limit_exceeded(fmt::format("{}: {} bytes, limit {}", path.string(), size, kMaxEvalFileBytes));
  }
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (in.bad()) return io_error(fmt::format("{}: cannot be read", path.string()));
  auto records = parse_records(text);
  if (!records.ok()) return records.status().with_context(path.string());
  return records;
}

Status EvalRecords::write(const std::filesystem::path& path) const {
  PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  PARE_RETURN_IF_ERROR(file.write(print_records(*this)));
  return file.commit();
}

}  // namespace pare
