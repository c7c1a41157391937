#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "eval/perplexity.h"

namespace pare::cli {
namespace {

struct EvalOptions {
  ModelOptions model;
  std::string file;
  int context = 512, chunks = 0;
  std::string against_attn = "dense", against_kv = "dense", against_model;
};

struct EvalText {
  std::shared_ptr<const LoadedModel> model;
  std::vector<TokenId> ids;
  TokenId bos = kNoToken;
};

Expected<EvalText> open_text(const EvalOptions& o) {
  EvalText t;
  PARE_ASSIGN_OR_RETURN(const std::string text, read_text_file(o.file, kMaxPromptBytes));
  PARE_ASSIGN_OR_RETURN(t.model, load_by_name(o.model.model, o.model.threads));
  EncodeOptions options;
  options.parse_special = false;
  PARE_ASSIGN_OR_RETURN(t.ids, t.model->tokenizer->encode(text, options));
  // The BOS rule of llama.cpp: every context starts with it when the model adds one to prompts.
  const Tokenizer& tokenizer = *t.model->tokenizer;
  if (tokenizer.bos() != kNoToken && !t.ids.empty() && t.ids.front() == tokenizer.bos()) t.bos = tokenizer.bos();
  return t;
}

Expected<std::unique_ptr<Engine>> make_eval_engine(const std::shared_ptr<const LoadedModel>& model, int threads,
                                                   int context, const std::string& attn, const std::string& kv) {
  EngineOptions options;
  options.threads = threads;
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

Status run_perplexity(const EvalOptions& o, bool json) {
  PARE_ASSIGN_OR_RETURN(const EvalText t, open_text(o));
  PARE_ASSIGN_OR_RETURN(const auto engine,
                        make_eval_engine(t.model, o.model.threads, o.context, o.model.attn, o.model.kv));
  arm_interrupt();
  Progress progress(!json);
  PARE_ASSIGN_OR_RETURN(const PerplexityResult r,
                        perplexity(*engine, t.ids, o.context, o.chunks, t.bos, show(&progress)));
  progress.finish();
  if (json) {
    print_json({{"perplexity", r.perplexity},
                {"nll", r.nll_mean},
                {"nll_stderr", r.nll_stderr},
                {"tokens", r.tokens},
                {"chunks", r.chunks},
                {"context", o.context},
                {"attn", engine->attn_spec()},
                {"kv", engine->kv_spec()}});
  } else {
    fmt::print("perplexity {:.4f} +/- {:.4f} over {} tokens in {} contexts of {}\n", r.perplexity,
               r.perplexity * r.nll_stderr, r.tokens, r.chunks, o.context);
  }
  return ok_status();
}

Status run_kl(const EvalOptions& o, bool json) {
  PARE_ASSIGN_OR_RETURN(const EvalText t, open_text(o));
  std::shared_ptr<const LoadedModel> other = t.model;
  if (!o.against_model.empty()) {
    PARE_ASSIGN_OR_RETURN(other, load_by_name(o.against_model, o.model.threads));
  }
  const int32_t vocab = t.model->model->config().vocab;
  if (other->model->config().vocab != vocab) {
    return invalid_argument(
        fmt::format("--against-model has {} tokens, MODEL has {}", other->model->config().vocab, vocab));
  }
  PARE_ASSIGN_OR_RETURN(const auto reference,
                        make_eval_engine(other, o.model.threads, o.context, o.against_attn, o.against_kv));
  PARE_ASSIGN_OR_RETURN(const auto candidate,
                        make_eval_engine(t.model, o.model.threads, o.context, o.model.attn, o.model.kv));
  arm_interrupt();
  Progress progress(!json);
  PARE_ASSIGN_OR_RETURN(const DivergenceResult r,
                        divergence(*reference, *candidate, t.ids, vocab, o.context, o.chunks, t.bos, show(&progress)));
  progress.finish();
  if (json) {
    print_json({{"kl", r.kl_mean},
                {"kl_stderr", r.kl_stderr},
                {"kl_max", r.kl_max},
                {"top1_agreement", r.top1_agreement},
                {"perplexity", r.candidate_perplexity},
                {"reference_perplexity", r.reference_perplexity},
                {"tokens", r.tokens},
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
  }
  return ok_status();
}

}  // namespace

void add_eval_command(Commands* commands) {
  auto o = std::make_shared<EvalOptions>();
  auto task = std::make_shared<std::string>();
  CLI::App* app = commands->add(
      "eval", "Measure quality: perplexity, or divergence between two configurations", [o, task, commands] {
        return *task == "kl" ? run_kl(*o, commands->json()) : run_perplexity(*o, commands->json());
      });
  app->add_option("TASK", *task, "perplexity or kl")->required()->check(CLI::IsMember({"perplexity", "kl"}));
  o->model.add_to(app);
  app->remove_option(app->get_option("--context"));
  app->add_option("--file", o->file, "The text; - is standard input")->required();
  app->add_option("--context", o->context, "Tokens of a context")->check(CLI::Range(4, static_cast<int>(kMaxContext)));
  app->add_option("--chunks", o->chunks, "Contexts to score; 0 takes all")->check(CLI::NonNegativeNumber);
  app->add_option("--against-attn", o->against_attn, "kl: the reference's attention");
  app->add_option("--against-kv", o->against_kv, "kl: the reference's KV policy");
  app->add_option("--against-model", o->against_model, "kl: another file of the same vocabulary as the reference");
  app->footer(
      "Perplexity is llama.cpp's: contexts without overlap, the second half of each scored, BOS first when the\n"
      "model adds one. KL is in nats per scored token, reference || candidate.\n\n"
      "  pare eval perplexity smollm2-135m-instruct --file book.txt --context 512 --chunks 8\n"
      "  pare eval kl smollm2-135m-instruct --file book.txt --attn \"streaming(sink=4,window=256)\"");
}

}  // namespace pare::cli
