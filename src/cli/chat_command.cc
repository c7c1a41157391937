#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/chat_input.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/generation.h"
#include "cli/line_editor.h"
#include "io/atomic_file.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

// Of models with long contexts only this much is reserved unless --context asks for more: 8,192 tokens of a 1.5B model
// are 230 MiB of KV.
constexpr int32_t kDefaultContext = 8192;

constexpr std::string_view kHelp =
    "/help          this list\n"
    "/reset         forget the conversation, e.g. when the context is full; the system message stays\n"
    "/system TEXT   set the system message; without TEXT there is none\n"
    "/stats         what the last answer cost\n"
    "/save FILE     write the conversation as a JSON array of messages\n"
    "/quit          leave; so does Ctrl-D\n"
    "A line that ends with \\ goes on in the next one; \"\"\" opens and closes a block of lines. A message that "
    "begins\n"
    "with a slash is written with two. Ctrl-C stops the answer; what came of it stays in the conversation.\n";

struct ChatOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::string system;
  int max_tokens = 1024;
};

class Chat {
 public:
  static Expected<std::unique_ptr<Chat>> create(const ChatOptions& options, bool json) {
    auto chat = std::unique_ptr<Chat>(new Chat(options, json));
    PARE_RETURN_IF_ERROR(chat->options_.sampling.finish());
    PARE_ASSIGN_OR_RETURN(chat->model_, load_by_name(options.model.model, options.model.threads, options.model.device));
    PARE_RETURN_IF_ERROR(check_context(*chat->model_, "--context", options.model.context));
    EngineOptions o;
    o.threads = options.model.threads;
    o.strict = options.model.strict;
    o.attn = options.model.attn;
    o.kv = options.model.kv;
    const int32_t longest = chat->model_->model->config().context_max;
    o.max_context = options.model.context > 0 ? options.model.context : std::min(longest, kDefaultContext);
    o.max_sequences = 1;
    PARE_ASSIGN_OR_RETURN(chat->engine_, Engine::create(chat->model_, o));
    // A model without a template, or one whose template refuses such a conversation, is known before anybody types.
    Json first = chat->with_system();
    first.push_back({{"role", "user"}, {"content", "Hello"}});
    PARE_RETURN_IF_ERROR(encode_chat(*chat->model_, first).status());
    return chat;
  }

  // One question and its answer. A failure leaves the conversation as it was.
  Status turn(const std::string& text) {
    PARE_RETURN_IF_ERROR(check_utf8("message", text));
    Json messages = with_system();
    messages.push_back({{"role", "user"}, {"content", text}});
    GenerationInput input;
    PARE_ASSIGN_OR_RETURN(input.request.tokens, encode_chat(*model_, messages));
    input.request.max_tokens = options_.max_tokens;
    input.request.sampling = options_.sampling.params;
    input.request.stop = options_.sampling.stop;
    if (!json_) {
      input.on_text = [](int32_t, std::string_view piece) {
        std::fwrite(piece.data(), 1, piece.size(), stdout);
        std::fflush(stdout);
      };
    }
    PARE_ASSIGN_OR_RETURN(const GenerationResult result, generate(*engine_, input));
    const std::string& answer = result.samples.front().text;
    if (!json_) fmt::print("\n");
    std::fflush(stdout);
    last_stats_ = statistics_line(result, *engine_);
    messages_.push_back({{"role", "user"}, {"content", text}});
    messages_.push_back({{"role", "assistant"}, {"content", answer}});
    if (json_) {
      Json turn{{"user", text}};
      turn.update(to_json(result, input.request, *engine_));
      turn.erase("prompt_ids");
      turns_.push_back(std::move(turn));
    }
    return ok_status();
  }

  // False when the command ends the program.
  Expected<bool> command(const ChatCommand& c) {
    if (c.name == "quit") return false;
    if (c.name == "help") {
      fmt::print(stderr, "{}", kHelp);
    } else if (c.name == "reset") {
      messages_ = Json::array();
    } else if (c.name == "system") {
      options_.system = c.argument;
    } else if (c.name == "stats") {
      fmt::print(stderr, "{}\n", last_stats_.empty() ? "no answer yet" : last_stats_);
    } else if (c.name == "save") {
      PARE_RETURN_IF_ERROR(save(c.argument));
    } else {
      return invalid_argument(
          fmt::format("unknown command '/{}'; /help lists them, // begins a message with a slash", c.name));
    }
    return true;
  }

  Json turns() const { return turns_; }

 private:
  Chat(const ChatOptions& options, bool json) : options_(options), json_(json) {}

  Json with_system() const {
    Json messages = Json::array();
    if (!options_.system.empty()) messages.push_back({{"role", "system"}, {"content", options_.system}});
    for (const Json& message : messages_) messages.push_back(message);
    return messages;
  }

  Status save(const std::string& name) {
    if (name.empty()) return invalid_argument("/save needs a file name");
    // A file of this session may be replaced by its longer self; anything else is somebody's.
    std::error_code error;
    if (name != saved_ && std::filesystem::exists(name, error)) {
      return invalid_argument(fmt::format("{} exists; /save does not overwrite it", name));
    }
    PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(name));
    PARE_RETURN_IF_ERROR(
        file.write(std::string_view(with_system().dump(2, ' ', false, Json::error_handler_t::replace) + "\n")));
    PARE_RETURN_IF_ERROR(file.commit());
    saved_ = name;
    fmt::print(stderr, "{}: {} messages\n", name, with_system().size());
    return ok_status();
  }

  ChatOptions options_;
  bool json_;
  std::shared_ptr<const LoadedModel> model_;
  std::unique_ptr<Engine> engine_;  // kept over turns: its prefix cache holds the conversation
  Json messages_ = Json::array(), turns_ = Json::array();
  std::string last_stats_, saved_;
};

Status chat(const ChatOptions& o, bool json) {
  PARE_ASSIGN_OR_RETURN(const auto session, Chat::create(o, json));
  LineEditor editor;
  if (editor.interactive()) fmt::print(stderr, "/help lists the commands, Ctrl-D leaves.\n");
  const NextLine next = [&](bool continued, std::string* line) { return editor.read(continued ? ". " : "> ", line); };
  for (;;) {
    arm_interrupt();
    std::string message;
    PARE_ASSIGN_OR_RETURN(const LineOutcome outcome, read_message(next, &message));
    if (outcome == LineOutcome::kEnd) break;
    if (outcome == LineOutcome::kInterrupted) {
      if (editor.interactive()) continue;
      return cancelled("interrupted");
    }
    if (message.find_first_not_of(" \t\n") == std::string::npos) continue;
    bool go_on = true;
    Status status;
    if (const auto command = parse_chat_command(&message)) {
      const auto result = session->command(*command);
      if (result.ok()) go_on = *result;
      status = result.status();
    } else {
      status = session->turn(message);
    }
    // A person reads the message and goes on; a script must not take half a conversation for a whole one.
    if (!status.ok() && !editor.interactive()) return status;
    if (!status.ok()) fmt::print(stderr, "pare: {}\n", status.message());
    if (!go_on) break;
    if (interrupted() && !editor.interactive()) {
      if (json) print_json({{"turns", session->turns()}});
      return cancelled("interrupted");
    }
  }
  if (json) print_json({{"turns", session->turns()}});
  return ok_status();
}

}  // namespace

void add_chat_command(Commands* commands) {
  auto o = std::make_shared<ChatOptions>();
  CLI::App* app = commands->add("chat", "Talk with a model; the cache keeps the conversation",
                                [o, commands] { return chat(*o, commands->json()); });
  o->model.add_to(app);
  app->add_option("--system", o->system, "System message of the chat template")->type_name("TEXT");
  app->add_option("--max-tokens", o->max_tokens, "Tokens of one answer at most")->type_name("N");
  o->sampling.add_to(app);
  app->footer(
      std::string(kHelp) +
      "\nWithout a terminal, lines are read from standard input as if typed, and the first error ends the program.\n"
      "--json prints one object when the conversation is over. --context 0 stands for the model's context, 8,192 at\n"
      "most. History: $XDG_STATE_HOME/pare/history, else ~/.local/state/pare/history.\n\n"
      "  pare chat smollm2-135m-instruct --system \"Answer in one sentence.\"\n"
      "  printf 'Name a river.\\nAnd its country?\\n' | pare chat smollm2-135m-instruct --json");
}

}  // namespace pare::cli
