#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "eval/perplexity.h"
#include "plan/spec.h"

namespace pare::cli {
namespace {

struct EvalOptions {
  ModelOptions model;
  std::string file;
  int context = 512, chunks = 0;
  std::string against = "attn=dense; kv=dense", against_model;
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
  CLI::App* app = commands->add(
      "eval", "Measure quality: perplexity, or divergence between two configurations", [o, task, commands] {
        if (*task == "kl") return run_kl(*o, commands->json());
        if (o->against != EvalOptions().against || !o->against_model.empty()) {
          return invalid_argument("perplexity has no reference: --against and --against-model are for kl");
        }
        return run_perplexity(*o, commands->json());
      });
  app->add_option("TASK", *task, "perplexity, or kl: divergence from a reference")
      ->required()
      ->check(CLI::IsMember({"perplexity", "kl"}));
  o->model.add_to(app, false);
  app->add_option("--file", o->file, "The text; - is standard input")->type_name("FILE")->required();
  app->add_option("--context", o->context, "Tokens of a context; the second half of them is scored")
      ->type_name("N")
      ->check(CLI::Range(4, static_cast<int>(kMaxContext)));
  app->add_option("--chunks", o->chunks, "Contexts to score; 0: all that the text fills")
      ->type_name("N")
      ->check(CLI::Range(0, INT32_MAX));
  app->add_flag("--observe-sparse", o->observe_sparse,
                "Score contexts as triangle reads prompts; without it they are read densely, as requests for\n"
                "log-probabilities of a prompt are");
  app->add_option("--against", o->against, "The reference's policies: \"attn=SPEC; kv=SPEC\", one of them or both")
      ->type_name("SPECS")
      ->group("Reference (kl)");
  app->add_option("--against-model", o->against_model, "The reference's weights: a model with the same vocabulary")
      ->type_name("MODEL")
      ->group("Reference (kl)");
  app->footer(
      "perplexity: exp of the mean negative log-likelihood, by llama.cpp's definition, so that figures compare: "
      "contexts\n"
      "of --context tokens without overlap, BOS in front of each when the model adds one, and of each the tokens of "
      "the\n"
      "second half are scored.\n"
      "kl: over the same tokens, KL(reference || MODEL as configured) in nats, the share of tokens at which both find\n"
      "the same most likely, and both perplexities. What the reference is not told, it shares: dense policies, the\n"
      "same weights.\n\n"
      "  pare eval perplexity smollm2-135m-instruct --file book.txt --context 512 --chunks 8\n"
      "  pare eval kl smollm2-135m-instruct --file book.txt --attn \"streaming(sink=4,window=256)\"\n"
      "  pare eval kl small.q4.gguf --file book.txt --against-model small.bf16.gguf");
}

}  // namespace pare::cli
