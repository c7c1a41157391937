#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/generation.h"
#include "cli/machine.h"

namespace pare::cli {
namespace {

struct RunOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::vector<std::string> files;
  std::optional<std::string> prompt;
  std::string system;
  bool raw = false, ignore_eos = false;
  int max_tokens = 256, samples = 1, logprobs = -1;
};

// What the model reads: files first, each under its name, then the question.
Expected<std::string> prompt_text(const RunOptions& o) {
  if (!o.prompt && o.files.empty()) return invalid_argument("nothing to answer: give PROMPT or --file");
  std::string text;
  for (const std::string& file : o.files) {
    PARE_ASSIGN_OR_RETURN(const std::string content, read_text_file(file, kMaxPromptBytes));
    PARE_RETURN_IF_ERROR(check_utf8(file, content));
    text += o.raw ? content : fmt::format("{}:\n{}\n\n", file, content);
  }
  PARE_RETURN_IF_ERROR(check_utf8("PROMPT", o.prompt.value_or("")));
  PARE_RETURN_IF_ERROR(check_utf8("--system", o.system));
  return text + o.prompt.value_or("");
}

Status run(const RunOptions& o, bool json) {
  SamplingOptions sampling = o.sampling;
  PARE_RETURN_IF_ERROR(sampling.finish());
  PARE_ASSIGN_OR_RETURN(const std::string text, prompt_text(o));
  const auto began = std::chrono::steady_clock::now();
  PARE_ASSIGN_OR_RETURN(const auto model, load_by_name(o.model.model, o.model.threads, o.model.device));

  GenerationInput input;
  if (o.raw) {
    PARE_ASSIGN_OR_RETURN(input.request.tokens, model->tokenizer->encode(text, {}));
  } else {
    nlohmann::ordered_json messages = nlohmann::ordered_json::array();
    if (!o.system.empty()) messages.push_back({{"role", "system"}, {"content", o.system}});
    messages.push_back({{"role", "user"}, {"content", text}});
    PARE_ASSIGN_OR_RETURN(input.request.tokens, encode_chat(*model, messages));
  }
  input.request.max_tokens = o.max_tokens;
  input.request.samples = o.samples;
  input.request.sampling = sampling.params;
  input.request.stop = sampling.stop;
  input.request.ignore_eos = o.ignore_eos;
  input.request.logprobs = o.logprobs;
  if (!json && o.samples == 1) {
    input.on_text = [](int32_t, std::string_view piece) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
  }
  PARE_RETURN_IF_ERROR(check_context(*model, "--context", o.model.context));
  PARE_ASSIGN_OR_RETURN(const auto engine, make_engine(model, o.model, input.request));
  const double load_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
  arm_interrupt();
  PARE_ASSIGN_OR_RETURN(const GenerationResult result, generate(*engine, input));
  if (json) {
    const int64_t rss = peak_rss_bytes();  // before the read bandwidth is measured, in a buffer of its own
    nlohmann::ordered_json object = to_json(result, input.request, *engine);
    object["stats"]["load_ms"] = load_ms;
    object["stats"]["peak_rss_bytes"] = rss;
    print_json(object);
  } else {
    if (o.samples > 1) {
      for (size_t i = 0; i < result.samples.size(); ++i) fmt::print("--- sample {}\n{}\n", i, result.samples[i].text);
    } else {
      fmt::print("\n");
    }
    std::fflush(stdout);
    fmt::print(stderr, "{}\n", statistics_line(result, *engine));
  }
  return interrupted() ? cancelled("interrupted") : ok_status();
}

}  // namespace

void add_run_command(Commands* commands) {
  auto o = std::make_shared<RunOptions>();
  CLI::App* app = commands->add("run", "Answer one prompt and print the text as it streams",
                                [o, commands] { return run(*o, commands->json()); });
  o->model.add_to(app);
  app->add_option("PROMPT", o->prompt, "What to ask; may be left out when --file gives the text");
  app->add_option("-f,--file", o->files, "A document to put before the prompt; may be repeated; - is standard input")
      ->type_name("FILE")
      ->allow_extra_args(false);
  app->add_option("--system", o->system, "System message of the chat template")->type_name("TEXT");
  app->add_flag("--raw", o->raw, "Feed the text as it is instead of through the model's chat template");
  app->add_option("--max-tokens", o->max_tokens, "Tokens to generate at most")->type_name("N");
  app->add_option("--samples", o->samples, "Answers to draw; they share the prompt's KV")->type_name("N");
  app->add_option("--logprobs", o->logprobs,
                  "With --json: natural log-probabilities of each token and of the N most likely ones; -1: none")
      ->type_name("N");
  app->add_flag("--ignore-eos", o->ignore_eos, "Go on past the end-of-text token");
  o->sampling.add_to(app);
  app->footer(
      "After the answer one line on standard error: tokens; time from submission to the first token (TTFT) and mean\n"
      "time between the tokens after it (ITL), in milliseconds; bytes read per decode step, and their rate as a share\n"
      "of the read bandwidth that this process measures; bytes and pages of KV; query-key pairs computed.\n"
      "Ctrl-C ends the answer: what came is printed, and the exit code is 130.\n\n"
      "  pare run smollm2-135m-instruct \"Name three rivers.\"\n"
      "  pare run smollm2-135m-instruct -f notes.txt --attn \"streaming(sink=4,window=256)\" \"Summarize.\"\n"
      "  pare run model.gguf --raw --max-tokens 8 --logprobs 5 --json \"The capital of France is\"");
}

}  // namespace pare::cli
