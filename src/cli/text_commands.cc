// tokenize and render: the text side of a model, without its weights.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "io/model_file.h"
#include "io/store.h"
#include "text/chat_template.h"

namespace pare::cli {
namespace {

struct TokenizeOptions {
  std::string model, text, file;
  bool no_special = false;
};

Status tokenize(const TokenizeOptions& o, bool json) {
  std::string text = o.text;
  if (!o.file.empty()) {
    PARE_ASSIGN_OR_RETURN(text, read_text_file(o.file, kMaxPromptBytes));
  }
  PARE_ASSIGN_OR_RETURN(const auto path, resolve_model(o.model));
  PARE_ASSIGN_OR_RETURN(const ModelFile file, ModelFile::open(path));
  auto made = read_tokenizer(file);
  if (!made.ok()) return made.status().with_context(path.string());
  const std::unique_ptr<Tokenizer> tokenizer = std::move(made).value();
  EncodeOptions options;
  options.add_special = !o.no_special;
  options.parse_special = !o.no_special;
  PARE_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, tokenizer->encode(text, options));
  if (json) {
    print_json({{"ids", ids}, {"count", ids.size()}});
  } else {
    for (TokenId id : ids)
      fmt::print("{:>8}  {}\n", id,
                 nlohmann::json(tokenizer->token_bytes(id, true))
                     .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  return ok_status();
}

struct RenderOptions {
  std::string template_file, messages_file, tools_file, bos, eos;
  bool no_generation_prompt = false;
};

Status render(const RenderOptions& o, bool json) {
  PARE_ASSIGN_OR_RETURN(const std::string source, read_text_file(o.template_file, kMaxTemplateBytes));
  PARE_ASSIGN_OR_RETURN(const std::string messages, read_text_file(o.messages_file, kMaxJsonBytes));
  std::string tools;
  if (!o.tools_file.empty()) {
    PARE_ASSIGN_OR_RETURN(tools, read_text_file(o.tools_file, kMaxJsonBytes));
  }
  auto chat = ChatTemplate::parse(source);
  if (!chat.ok()) return chat.status().with_context(o.template_file);
  ChatTemplateInputs inputs;
  inputs.messages_json = messages;
  inputs.tools_json = tools;
  inputs.bos_token = o.bos;
  inputs.eos_token = o.eos;
  inputs.add_generation_prompt = !o.no_generation_prompt;
  auto text = chat->render(inputs);
  if (!text.ok()) return text.status().with_context(o.template_file);
  if (json) {
    print_json({{"text", *text}});
  } else {
    fmt::print("{}", *text);
  }
  return ok_status();
}

}  // namespace

void add_tokenize_command(Commands* commands) {
  auto o = std::make_shared<TokenizeOptions>();
  CLI::App* app = commands->add("tokenize", "Show the token ids of a text",
                                [o, commands] { return tokenize(*o, commands->json()); });
  app->add_option("MODEL", o->model, "A store name or a path")->required();
  auto* text = app->add_option("--text", o->text, "The text itself");
  auto* file = app->add_option("--file", o->file, "A file with the text; - is standard input");
  text->excludes(file);
  app->add_flag("--no-special", o->no_special, "Add no BOS/EOS and read \"<|...|>\" in the text as plain characters");
}

void add_render_command(Commands* commands) {
  auto o = std::make_shared<RenderOptions>();
  CLI::App* app = commands->add("render", "Render a chat template over a conversation",
                                [o, commands] { return render(*o, commands->json()); });
  app->add_option("--template", o->template_file, "The Jinja template")->required();
  app->add_option("--messages", o->messages_file, "JSON array of {role, content, ...}")->required();
  app->add_option("--tools", o->tools_file, "JSON array of tool descriptions");
  app->add_option("--bos", o->bos, "Text of the template's bos_token");
  app->add_option("--eos", o->eos, "Text of the template's eos_token");
  app->add_flag("--no-generation-prompt", o->no_generation_prompt, "Do not open the assistant's turn at the end");
}

}  // namespace pare::cli
