#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/composition_table.h"
#include "cli/console.h"
#include "cli/inspect_mask.h"
#include "cli/inspect_policies.h"
#include "eval/attention_map.h"
#include "io/atomic_file.h"
#include "io/quote_name.h"
#include "io/store.h"
#include "plan/layer_map.h"
#include "runtime/policy_files.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectOptions {
  std::string task, what, model, file, svg;
  bool tensors = false, markdown = false;
  AttentionMapOptions attention;
};

std::string shape_text(const TensorEntry& entry) {
  std::string text;
  for (const int64_t n : entry.shape) text += fmt::format("{}{}", text.empty() ? "" : " x ", n);
  return text;
}

Json config_json(const ModelConfig& c) {
  Json json{
      {"architecture", c.arch},     {"encoder", c.encoder},     {"layers", c.n_layers},   {"dim", c.dim},
      {"heads", c.n_heads},         {"kv_heads", c.n_kv_heads}, {"head_dim", c.head_dim}, {"ffn_dim", c.ffn_dim},
      {"vocab", c.vocab},           {"context", c.context_max}, {"norm_eps", c.norm_eps}, {"rope_base", c.rope.base},
      {"rope_channels", c.rope.rot}};
  if (c.window > 0) {
    json["window"] = c.window;
    json["window_layers"] = std::count(c.sliding.begin(), c.sliding.end(), uint8_t{1});
    json["window_rope_base"] = c.rope_sliding.base;
  }
  json["qkv_bias"] = c.qkv_bias;
  json["qk_norm"] = c.qk_norm;
  if (!c.encoder) json["kv_bytes_per_token"] = c.kv_bytes_per_token();
  return json;
}

Json tensors_json(const ModelFile& file) {
  struct Sum {
    int64_t tensors = 0, items = 0, bytes = 0;
  };
  std::map<std::string_view, Sum> by_type;
  Sum all;
  for (const TensorEntry& entry : file.tensors()) {
    int64_t items = 1;
    for (const int64_t n : entry.shape) items *= n;  // the reader checked that the product fits
    for (Sum* sum : {&by_type[dtype_name(entry.dtype)], &all}) {
      ++sum->tensors;
      sum->items += items;
      sum->bytes += static_cast<int64_t>(entry.data.size());
    }
  }
  const auto sum_json = [](const Sum& s) {
    return Json{{"count", s.tensors}, {"elements", s.items}, {"bytes", s.bytes}};
  };
  Json json = sum_json(all);
  json["by_type"] = Json::object();
  for (const auto& [type, sum] : by_type) json["by_type"][std::string(type)] = sum_json(sum);
  return json;
}

Json tokenizer_json(const Tokenizer& t) {
  const auto token = [&](TokenId id) -> Json {
    if (id == kNoToken) return nullptr;
    return {{"id", id}, {"text", std::string(t.token_text(id))}};
  };
  Json ends = Json::array();
  for (const TokenId id : t.end_of_generation()) ends.push_back(token(id));
  return {{"family", t.family()},     {"pre_tokenizer", t.pre_tokenizer()},
          {"tokens", t.vocab_size()}, {"bos", token(t.bos())},
          {"eos", token(t.eos())},    {"end_of_generation", std::move(ends)}};
}

void print_model(const Json& m) {
  const auto text_of = [](const Json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  fmt::print("{}\n{}, {}\n", m["path"].get<std::string>(), m["container"].get<std::string>(),
             format_bytes(m["tensors"]["bytes"].get<int64_t>()));
  for (const char* part : {"config", "tokenizer", "template"}) {
    fmt::print("\n{}\n", part);
    if (m[part].is_null()) fmt::print("  none\n");
    if (!m[part].is_object()) continue;
    for (const auto& [key, value] : m[part].items()) fmt::print("  {:<20} {}\n", key, text_of(value));
  }
  fmt::print("\n{:<8} {:>8} {:>16} {:>12}\n", "type", "tensors", "elements", "bytes");
  for (const auto& [type, sum] : m["tensors"]["by_type"].items()) {
    fmt::print("{:<8} {:>8} {:>16} {:>12}\n", type, sum["count"].get<int64_t>(), sum["elements"].get<int64_t>(),
               format_bytes(sum["bytes"].get<int64_t>()));
  }
}

// Shows what it can: a part that cannot be read says why, so that a file that does not run can be looked at.
Status inspect_model(const InspectOptions& o, bool json) {
  PARE_ASSIGN_OR_RETURN(const auto path, resolve_model(o.what));
  PARE_ASSIGN_OR_RETURN(const ModelFile file, ModelFile::open(path));
  const auto or_error = [](const auto& value, const auto& to) -> Json {
    if (value.ok()) return to(*value);
    return {{"error", std::string(value.status().message())}};
  };
  Json m{{"path", path.string()},
         {"container", file.container() == ModelFile::Container::kGguf ? "GGUF" : "safetensors"}};
  m["config"] = or_error(read_model_config(file), config_json);
  m["tokenizer"] = or_error(read_tokenizer(file), [](const auto& t) { return tokenizer_json(*t); });
  m["template"] = nullptr;
  if (!file.chat_template().empty()) {
    m["template"] = or_error(ChatTemplate::parse(file.chat_template()), [&](const auto&) {
      return Json{{"bytes", file.chat_template().size()}};
    });
  }
  m["tensors"] = tensors_json(file);
  if (!json) print_model(m);
  if (o.tensors) {
    Json list = Json::array();
    if (!json) fmt::print("\n");
    for (const TensorEntry& entry : file.tensors()) {
      if (json) {
        list.push_back({{"name", entry.name},
                        {"type", dtype_name(entry.dtype)},
                        {"shape", entry.shape},
                        {"bytes", entry.data.size()}});
      } else {
        fmt::print("{:<44} {:<7} {:<22} {:>10}\n", quote_name(entry.name), dtype_name(entry.dtype), shape_text(entry),
                   format_bytes(static_cast<int64_t>(entry.data.size())));
      }
    }
    if (json) m["tensors"]["list"] = std::move(list);
  }
  if (json) print_json(m);
  return ok_status();
}

// One head's attention on a text.
Status inspect_attention(const InspectOptions& o, bool json) {
  if (o.file.empty()) return invalid_argument("inspect attention needs --file: the text that the model reads");
  PARE_ASSIGN_OR_RETURN(const std::string text, read_text_file(o.file, kMaxPromptBytes));
  PARE_RETURN_IF_ERROR(check_utf8(o.file, text));
  PARE_ASSIGN_OR_RETURN(const auto model, load_by_name(o.what, o.attention.threads));
  PARE_ASSIGN_OR_RETURN(std::vector<TokenId> tokens, model->tokenizer->encode(text, {.parse_special = false}));
  PARE_RETURN_IF_ERROR(check_context(*model, o.file, static_cast<int64_t>(tokens.size())));
  PARE_ASSIGN_OR_RETURN(const AttentionMap m, attention_map(model, std::move(tokens), o.attention));
  if (!o.svg.empty()) {
    PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(o.svg));
    PARE_RETURN_IF_ERROR(file.write(attention_map_svg(m)));
    PARE_RETURN_IF_ERROR(file.commit());
  }
  if (!json) {
    fmt::print("{}", attention_map_text(m));
    return ok_status();
  }
  print_json({{"attn", m.attn},
              {"layer", m.layer},
              {"head", m.head},
              {"tokens", m.tokens},
              {"cells", m.cells},
              {"cell_tokens", m.cell_tokens},
              {"pairs_kept", m.pairs_kept},
              {"pairs_causal", m.pairs_causal},
              {"captured_mean", m.captured_mean},
              {"captured_min", m.captured_min},
              {"captured_last", m.captured_last},
              {"captured", m.captured},
              {"kept", m.kept},
              {"mass", m.mass}});
  return ok_status();
}

Status inspect(const InspectOptions& o, bool json) {
  if (!o.svg.empty() && o.task != "mask" && o.task != "attention") {
    return invalid_argument("--svg is for mask and attention");
  }
  if (o.markdown && o.task != "policies") return invalid_argument("--markdown is for policies");
  if (o.task == "policies") {
    if (!o.what.empty()) return invalid_argument("inspect policies takes no further argument");
    if (o.markdown) {
      if (json) return invalid_argument("--markdown and --json exclude each other");
      fmt::print("{}", composition_page());
      return ok_status();
    }
    return inspect_policies(json);
  }
  if (o.what.empty()) {
    return invalid_argument(fmt::format("inspect {} needs WHAT: {}", o.task,
                                        o.task == "spec"   ? "a spec string"
                                        : o.task == "mask" ? "a file"
                                                           : "a store name or a path"));
  }
  if (o.task == "attention") return inspect_attention(o, json);
  if (o.task == "model") return inspect_model(o, json);
  if (o.task == "mask") return inspect_mask(o.what, o.svg, json);
  LayerMap layers = uniform_layer_map(static_cast<int32_t>(kMaxLayers));
  DiskPolicyFiles files;
  PolicyContext context;
  context.files = &files;
  PARE_ASSIGN_OR_RETURN(const CpuLevel level, selected_cpu_level());
  const std::string device = device_class(level);
  context.device_class = device;
  if (!o.model.empty()) {
    PARE_ASSIGN_OR_RETURN(const auto path, resolve_model(o.model));
    PARE_ASSIGN_OR_RETURN(const ModelFile file, ModelFile::open(path));
    PARE_ASSIGN_OR_RETURN(const ModelConfig config, read_model_config(file));
    layers = uniform_layer_map(config.n_layers);
    context.n_layers = config.n_layers;
    context.n_heads = config.n_heads;
    context.n_kv_heads = config.n_kv_heads;
    context.head_dim = config.head_dim;
    context.model_hash = file.content_hash();
  }
  return inspect_spec(o.what, layers, context, json);
}

}  // namespace

void add_inspect_command(Commands* commands) {
  auto o = std::make_shared<InspectOptions>();
  CLI::App* app = commands->add(
      "inspect",
      "Show a model file, a policy spec, a channel mask, every policy and what goes with what, or what a head attends",
      [o, commands] { return inspect(*o, commands->json()); });
  app->add_option("TASK", o->task, "model, spec, mask, policies or attention")
      ->required()
      ->check(CLI::IsMember({"model", "spec", "mask", "policies", "attention"}));
  app->add_option("WHAT", o->what,
                  "model, attention: a store name or a path; spec: the text, both halves or one; mask: a file");
  app->add_flag("--tensors", o->tensors, "model: list every tensor");
  app->add_option("--svg", o->svg,
                  "mask: write a figure of the kept channels by RoPE frequency; attention: draw the picture there too")
      ->type_name("FILE");
  app->add_flag("--markdown", o->markdown, "policies: what goes with what, as docs/composition.md has it");
  app->add_option("--model", o->model,
                  "spec: the model whose layers `layers=` names; without it, any layer is accepted")
      ->type_name("MODEL");
  const auto add = [&](const char* name, auto& value, const char* type, const char* description) {
    return app->add_option(name, value, description)->type_name(type)->group("attention");
  };
  add("--file", o->file, "FILE", "The text that the model reads; - is standard input");
  add("--layer", o->attention.layer, "N", "Which layer")->check(CLI::Range(int64_t{0}, kMaxLayers - 1));
  add("--head", o->attention.head, "N", "Which query head")->check(CLI::Range(int64_t{0}, kMaxHeads - 1));
  add("--attn", o->attention.attn, "SPEC", "The selector whose choice is shown");
  add("--cells", o->attention.cells, "N", "Side of the picture at most")->check(CLI::Range(1, 512));
  add("--threads", o->attention.threads, "N", "CPU threads; 0: as many as the process may use")
      ->check(CLI::Range(int64_t{0}, kMaxThreads));
  app->footer(
      "kv_bytes_per_token counts every layer in fp16, before any policy. Legality comes from the policies'\n"
      "capability records (src/plan/caps.h): what each needs of the stored rows and what it breaks.\n\n"
      "  pare inspect model smollm2-135m-instruct --tensors\n"
      "  pare inspect spec \"attn=streaming(sink=4,window=256); kv=streaming\"\n"
      "  pare inspect mask configs/leank/smollm2-135m-instruct.keep50.json\n"
      "  pare inspect policies\n"
      "  pare inspect attention smollm2-135m-instruct --layer 20 --head 3 --file notes.txt --attn triangle --svg "
      "a.svg");
}

}  // namespace pare::cli
