#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/eval_devices.h"
#include "cli/eval_tasks.h"
#include "eval/perplexity.h"
#include "plan/spec.h"

namespace pare::cli {
namespace {

struct EvalOptions {
  ModelOptions model;
  std::string file;
  int context = 512, chunks = 0;
  std::string against = "attn=dense; kv=dense", against_model;
  int against_threads = 0;
  bool observe_sparse = false;
};

struct EvalText {
  std::shared_ptr<const LoadedModel> model;
  std::vector<TokenId> ids;
  TokenId bos = kNoToken;
};

Expected<EvalText> open_text(const EvalOptions& o) {
  EvalText t;
  PARE_ASSIGN_OR_RETURN(const std::string text, read_text_file(o.file, kMaxPromptBytes));
  PARE_RETURN_IF_ERROR(check_utf8(o.file, text));
  PARE_ASSIGN_OR_RETURN(t.model, load_by_name(o.model.model, o.model.threads, o.model.device));
  PARE_RETURN_IF_ERROR(check_context(*t.model, "--context", o.context));
  EncodeOptions options;
  options.parse_special = false;
  PARE_ASSIGN_OR_RETURN(t.ids, t.model->tokenizer->encode(text, options));
  // The BOS rule of llama.cpp: every context starts with it when the model adds one to prompts.
  const Tokenizer& tokenizer = *t.model->tokenizer;
  if (tokenizer.bos() != kNoToken && !t.ids.empty() && t.ids.front() == tokenizer.bos()) t.bos = tokenizer.bos();
  return t;
}

Expected<std::unique_ptr<Engine>> make_eval_engine(const std::shared_ptr<const LoadedModel>& model,
                                                   const ModelOptions& where, int context, const std::string& attn,
                                                   const std::string& kv) {
  EngineOptions options;
  options.threads = where.threads;
  options.strict = where.strict;
  options.max_context = context;
  options.max_sequences = 1;
  options.share_prefixes = false;
  options.logit_rows = 128;
  options.attn = attn;
  options.kv = kv;
  return Engine::create(model, options);
}

EvalProgress show(Progress* progress) {
  return [progress](int64_t done, int64_t total) {
    progress->update("scoring", done, total, "tokens");
    return !interrupted();
  };
}

// What an evaluation finds fault with is the text.
Status scoring_error(const Status& status, const std::string& file) {
  return status.code() == StatusCode::kCancelled ? cancelled("interrupted") : at_path(status, file);
}

// A selector that reads observed prompts densely has not been measured.
void tell_dense(const Engine& engine) {
  const uint64_t dense = engine.stats().prompts_dense_observed;
  if (dense == 0) return;
  fmt::print(stderr, "{}: {} contexts were read densely because their log-probabilities are wanted; --observe-sparse\n",
             engine.attn_spec(), dense);
}

Status run_perplexity(const EvalOptions& o, bool json) {
  PARE_ASSIGN_OR_RETURN(const EvalText t, open_text(o));
  PARE_ASSIGN_OR_RETURN(const auto engine, make_eval_engine(t.model, o.model, o.context, o.model.attn, o.model.kv));
  arm_interrupt();
  Progress progress;
  const auto result = perplexity(*engine, t.ids, o.context, o.chunks, t.bos, show(&progress), o.observe_sparse);
  progress.finish();
  if (!result.ok()) return scoring_error(result.status(), o.file);
  const PerplexityResult& r = *result;
  if (json) {
    print_json({{"perplexity", r.perplexity},
                {"nll", r.nll_mean},
                {"nll_stderr", r.nll_stderr},
                {"tokens", r.tokens},
                {"chunks", r.chunks},
                {"context", o.context},
                {"dense_observed", engine->stats().prompts_dense_observed},
                {"attn", engine->attn_spec()},
                {"kv", engine->kv_spec()}});
  } else {
    fmt::print("perplexity {:.4f} +/- {:.4f} over {} tokens in {} contexts of {}\n", r.perplexity,
               r.perplexity * r.nll_stderr, r.tokens, r.chunks, o.context);
    tell_dense(*engine);
  }
  return ok_status();
}

Status run_kl(const EvalOptions& o, bool json) {
  PARE_ASSIGN_OR_RETURN(const SpecPair against, parse_spec_pair(o.against));
  PARE_ASSIGN_OR_RETURN(const EvalText t, open_text(o));
  std::shared_ptr<const LoadedModel> other = t.model;
  if (!o.against_model.empty()) {
    PARE_ASSIGN_OR_RETURN(other, load_by_name(o.against_model, o.model.threads, o.model.device));
    PARE_RETURN_IF_ERROR(check_context(*other, "--context", o.context).with_context("--against-model"));
  }
  const int32_t vocab = t.model->model->config().vocab;
  if (other->model->config().vocab != vocab) {
    return invalid_argument(
        fmt::format("--against-model has {} tokens, MODEL has {}", other->model->config().vocab, vocab));
  }
  PARE_ASSIGN_OR_RETURN(const auto reference,
                        make_eval_engine(other, o.model, o.context, print_spec(against.attn), print_spec(against.kv)));
  PARE_ASSIGN_OR_RETURN(const auto candidate, make_eval_engine(t.model, o.model, o.context, o.model.attn, o.model.kv));
  arm_interrupt();
  Progress progress;
  const auto result =
      divergence(*reference, *candidate, t.ids, vocab, o.context, o.chunks, t.bos, show(&progress), o.observe_sparse);
  progress.finish();
  if (!result.ok()) return scoring_error(result.status(), o.file);
  const DivergenceResult& r = *result;
  if (json) {
    print_json({{"kl", r.kl_mean},
                {"kl_stderr", r.kl_stderr},
                {"kl_max", r.kl_max},
                {"top1_agreement", r.top1_agreement},
                {"perplexity", r.candidate_perplexity},
                {"reference_perplexity", r.reference_perplexity},
                {"tokens", r.tokens},
                {"dense_observed", candidate->stats().prompts_dense_observed},
                {"attn", candidate->attn_spec()},
                {"kv", candidate->kv_spec()},
                {"against_attn", reference->attn_spec()},
                {"against_kv", reference->kv_spec()}});
  } else {
    fmt::print(
        "KL {:.6f} +/- {:.6f} nats (max {:.4f}), top-1 agreement {:.2f} %, perplexity {:.4f} against {:.4f}, {} "
        "tokens\n",
        r.kl_mean, r.kl_stderr, r.kl_max, r.top1_agreement * 100.0, r.candidate_perplexity, r.reference_perplexity,
        r.tokens);
    tell_dense(*candidate);
  }
  return ok_status();
}

}  // namespace

void add_eval_command(Commands* commands) {
  auto o = std::make_shared<EvalOptions>();
  auto task = std::make_shared<std::string>();
  auto tasks = std::make_shared<EvalTaskOptions>();
  CLI::App* app = commands->add(
      "eval", "Measure quality: perplexity, divergence, and tasks of retrieval, against a reference",
      [o, task, tasks, commands] {
        if (o->against_threads > 0 && *task != "devices") {
          return invalid_argument("--against-threads is for devices");
        }
        if (*task != "perplexity" && *task != "kl") {
          if (!o->against_model.empty()) return invalid_argument("--against-model is for kl");
          if (*task == "devices") {
            if (o->against == EvalOptions().against) {
              return invalid_argument(
                  "devices compares with another device: --against cuda, or cpu, cpu:LEVEL, cuda:N");
            }
            return run_eval_devices(o->model, o->against, o->against_threads, *tasks, o->file, commands->json());
          }
          return run_eval_task(*task, o->model, *tasks, o->file, o->against, commands->json());
        }
        if (o->file.empty()) return invalid_argument(fmt::format("{} reads a text: --file is required", *task));
        if (*task == "kl") return run_kl(*o, commands->json());
        if (o->against != EvalOptions().against || !o->against_model.empty()) {
          return invalid_argument("perplexity has no reference: --against and --against-model are for kl");
        }
        return run_perplexity(*o, commands->json());
      });
  std::vector<std::string> names = eval_task_names();
  names.insert(names.begin(), {"perplexity", "kl", "devices"});
  app->add_option(
         "TASK", *task,
         "perplexity, kl (divergence from a reference), devices (agreement of two), or a task of the list below")
      ->required()
      ->check(CLI::IsMember(names));
  o->model.add_to(app, false);
  app->add_option("--file", o->file, "The text, the haystack of a task, or gsm8k's problems; - is standard input")
      ->type_name("FILE");
  app->add_option("--context", o->context, "perplexity, kl: tokens of a context; the second half is scored")
      ->type_name("N")
      ->check(CLI::Range(4, static_cast<int>(kMaxContext)));
  app->add_option("--chunks", o->chunks, "perplexity, kl: contexts to score; 0: all that the text fills")
      ->type_name("N")
      ->check(CLI::Range(0, INT32_MAX));
  app->add_flag("--observe-sparse", o->observe_sparse,
                "Score contexts as triangle reads prompts; without it they are read densely, as requests for\n"
                "log-probabilities of a prompt are");
  app->add_option(
         "--against", o->against,
         "The reference's policies: \"attn=SPEC; kv=SPEC\", one of them or both; devices: the other device, as\n"
         "--device, or cpu:LEVEL")
      ->type_name("SPECS")
      ->group("Reference");
  app->add_option("--against-model", o->against_model, "The reference's weights: a model with the same vocabulary")
      ->type_name("MODEL")
      ->group("Reference");
  app->add_option("--against-threads", o->against_threads, "devices: CPU threads of the other; 0: as --threads")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, kMaxThreads))
      ->group("Reference");
  tasks->add_to(app);
  app->footer(
      "perplexity: exp of the mean negative log-likelihood, by llama.cpp's definition, so that figures compare: "
      "contexts\n"
      "of --context tokens without overlap, BOS in front of each when the model adds one, and of each the tokens of "
      "the\n"
      "second half are scored.\n"
      "kl: over the same tokens, KL(reference || MODEL as configured) in nats, the share of tokens at which both find\n"
      "the same most likely, and both perplexities. What the reference is not told, it shares: dense policies, the\n"
      "same weights.\n"
      "devices: whether MODEL says the same on --device (the reference, the CPU by default) and on --against. Prompts "
      "are\n"
      "--lengths tokens of generated sentences or of --file, --cases of each length. The reference answers greedily "
      "with\n"
      "at most --scored tokens; the other is told them one by one, and then answers itself. Reported: the share of "
      "told\n"
      "tokens at which both find the same most likely, where their own answers part, the gap between the "
      "log-probabilities\n"
      "of the told tokens, KL, and for each disagreement the margin of the first token over the second: near ties "
      "have\n"
      "margins no larger than the gap. Policies and --strict are those of both.\n\n"
      "Tasks:\n" +
      eval_task_help() +
      "\nA task's prompt has --lengths tokens of the model at hand. The reference (dense, or --against) answers "
      "greedily;\n"
      "each candidate is then told that answer token by token, and answers itself where it would have said otherwise.\n"
      "One row a configuration:\n"
      "  score %      of what was asked for, over all cases\n"
      "  of solved %  of the cases that the reference solves, those which this one solves too\n"
      "  KL           KL(reference || candidate) in nats over the answer's tokens, and of its first\n"
      "  top-1 %      tokens at which both find the same most likely\n"
      "  pairs %      query-key pairs of the prompt, and of a decode step, against the reference's (CPU only)\n"
      "  KV peak      the most bytes of keys and values that a step held; KV held: in the answer's last step\n"
      "Compare candidates with controls of equal cost: sink and window, random layers, random channels.\n"
      "--attn and --kv, when given, are the candidate 'candidate'.\n\n"
      "  pare eval perplexity smollm2-135m-instruct --file book.txt --context 512 --chunks 8\n"
      "  pare eval kl smollm2-135m-instruct --file book.txt --attn \"streaming(sink=4,window=256)\"\n"
      "  pare eval kl small.q4.gguf --file book.txt --against-model small.bf16.gguf\n"
      "  pare eval devices smollm2-135m-instruct --against cuda --lengths 256 --cases 16 --strict\n"
      "  pare eval devices smollm2-135m-instruct --against cpu:avx2 --lengths 64\n"
      "  pare eval needle smollm2-135m-instruct --lengths 1024,2048 --kv \"streaming(sink=4,recent=256)\" \\\n"
      "    --candidate \"window=attn=streaming(sink=4,window=256)\" --out needle.json --plot needle.svg\n"
      "  pare eval copy smollm2-135m-instruct --kv \"streaming(sink=4,recent=256)\"\n"
      "  pare eval gsm8k qwen2.5-coder-1.5b-instruct --file dev.jsonl --cases 50 --kv \"streaming(recent=512)\"");
}

}  // namespace pare::cli
