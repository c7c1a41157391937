// tokenize and render: the text side of a model, without its weights.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "io/model_file.h"
#include "io/store.h"
#include "text/chat_template.h"

namespace pare::cli {
namespace {

struct TokenizeOptions {
  std::string model, file;
  std::optional<std::string> text;
  bool no_special = false;
};

Status tokenize(const TokenizeOptions& o, bool json) {
  std::string text;
  if (o.text) {
    text = *o.text;
  } else if (!o.file.empty()) {
    PARE_ASSIGN_OR_RETURN(text, read_text_file(o.file, kMaxPromptBytes));
  } else {
    return invalid_argument("nothing to tokenize: give --text or --file");
  }
  PARE_RETURN_IF_ERROR(check_utf8(o.text ? "--text" : o.file, text));
  PARE_ASSIGN_OR_RETURN(const auto path, resolve_model(o.model));
  PARE_ASSIGN_OR_RETURN(const ModelFile file, ModelFile::open(path));
  auto made = read_tokenizer(file);
  if (!made.ok()) return at_path(made.status(), path.string());
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
  if (!text.ok()) {
    const bool in_messages = text.status().message().starts_with("messages:");
    const bool in_tools = text.status().message().starts_with("tools:");
    return text.status().with_context(in_messages ? o.messages_file : in_tools ? o.tools_file : o.template_file);
  }
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
  auto* text = app->add_option("--text", o->text, "The text itself")->type_name("TEXT");
  auto* file = app->add_option("--file", o->file, "A file with the text; - is standard input")->type_name("FILE");
  text->excludes(file);
  app->add_flag("--no-special", o->no_special, "Add no BOS/EOS and read \"<|...|>\" in the text as plain characters");
  app->footer(
      "Prints one token a line: its id and its bytes as a JSON string. Only the tokenizer of the model is read.\n\n"
      "  pare tokenize smollm2-135m-instruct --text \"Hello there\"\n"
      "  pare tokenize smollm2-135m-instruct --file book.txt --json | jq .count");
}

void add_render_command(Commands* commands) {
  auto o = std::make_shared<RenderOptions>();
  CLI::App* app = commands->add("render", "Render a chat template over a conversation",
                                [o, commands] { return render(*o, commands->json()); });
  app->add_option("--template", o->template_file, "The Jinja template")->type_name("FILE")->required();
  app->add_option("--messages", o->messages_file, "JSON array of {\"role\", \"content\", ...}")
      ->type_name("FILE")
      ->required();
  app->add_option("--tools", o->tools_file, "JSON array of tool descriptions")->type_name("FILE");
  app->add_option("--bos", o->bos, "Text of the template's bos_token")->type_name("TEXT");
  app->add_option("--eos", o->eos, "Text of the template's eos_token")->type_name("TEXT");
  app->add_flag("--no-generation-prompt", o->no_generation_prompt, "Do not open the assistant's turn at the end");
  app->footer(
      "Renders as apply_chat_template of transformers does. Work is bounded: a template that does not end, or writes\n"
      "more than a prompt may hold, is an error (docs/formats/chat_template.md). A FILE may be - for standard "
      "input.\n\n"
      "  pare render --template chat_template.jinja --messages talk.json --bos \"<s>\" --eos \"</s>\"");
}

}  // namespace pare::cli
