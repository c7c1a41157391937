#include "cli/eval_devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/limits.h"
#include "cli/console.h"
#include "eval/device_agreement.h"
#include "kernels/cpu_level.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kCasesMax = 100'000, kScoredMax = 4096, kListed = 20;

// One of the two: an engine, and how it is called.
struct Side {
  std::shared_ptr<const LoadedModel> model;
  std::unique_ptr<Engine> engine;
  std::string device, level;  // level: of the CPU; "" on a card
  std::string name;           // "cpu (avx2, 2 threads)", "cuda:0 (NVIDIA H100)"
};

Status check_options(const EvalTaskOptions& o) {
  if (!o.candidates.empty() || !o.out.empty() || !o.plot.empty() || !o.figure.empty()) {
    return invalid_argument("devices compares two devices: it takes no --candidate, --out, --plot or --figure");
  }
  if (o.cases < 1 || o.cases > kCasesMax) {
    return invalid_argument(fmt::format("--cases is {}, allowed 1 to {}", o.cases, kCasesMax));
  }
  if (o.scored < 1 || o.scored > kScoredMax) {
    return invalid_argument(fmt::format("--scored is {}, allowed 1 to {}", o.scored, kScoredMax));
  }
  if (o.lengths.empty()) return invalid_argument("--lengths: none given");
  for (const int length : o.lengths) {
    if (length < 1) return invalid_argument(fmt::format("--lengths: {} tokens, at least 1", length));
  }
  return ok_status();
}

// "cpu:avx2" is the CPU at that level; everything else is what --device takes.
Expected<std::optional<CpuLevel>> level_of(const std::string& device) {
  constexpr std::string_view kCpu = "cpu:";
  if (!device.starts_with(kCpu)) return std::optional<CpuLevel>();
  const auto level = parse_cpu_level(device.substr(kCpu.size()));
  const Status status = level.ok() ? check_cpu_level(*level) : level.status();
  if (!status.ok()) return status.with_context("--against " + device);
  return std::optional(*level);
}

Status make_engine(const ModelOptions& where, int threads, std::optional<CpuLevel> level, int32_t context, Side* side) {
  EngineOptions options;
  options.threads = threads;
  options.strict = where.strict;
  options.max_context = context;
  options.max_sequences = 1;
  options.share_prefixes = false;
  options.attn = where.attn;
  options.kv = where.kv;
  if (!level && !side->model->accelerator) {
    PARE_ASSIGN_OR_RETURN(level, selected_cpu_level());
  }
  options.cpu_level = level;
  PARE_ASSIGN_OR_RETURN(side->engine, Engine::create(side->model, options));
  if (const auto& card = side->model->accelerator) {
    side->device = fmt::format("cuda:{}", card->info().device.index);
    side->name = fmt::format("{} ({})", side->device, card->info().name);
    return ok_status();
  }
  side->device = "cpu";
  side->level = cpu_level_name(*level);
  side->name = fmt::format("cpu ({}, {} threads)", side->level, side->engine->threads());
  return ok_status();
}

Json to_json(const Side& s) {
  return {{"device", s.device},
          {"cpu_level", s.level.empty() ? Json(nullptr) : Json(s.level)},
          {"threads", s.engine->threads()},
          {"attn", s.engine->attn_spec()},
          {"kv", s.engine->kv_spec()}};
}

// The earliest of all divergences; -1: none.
int32_t first_divergence(const Agreement& a) {
  int32_t first = -1;
  for (const AgreementPrompt& p : a.prompts) {
    if (p.diverged_at >= 0 && (first < 0 || p.diverged_at < first)) first = p.diverged_at;
  }
  return first;
}

int64_t diverged(const Agreement& a) {
  return std::count_if(a.prompts.begin(), a.prompts.end(), [](const auto& p) { return p.diverged_at >= 0; });
}

double share(const Agreement& a) { return static_cast<double>(a.agreed()) / static_cast<double>(a.positions()); }

void print_result(const Agreement& a, const Side& reference, const Side& other, bool strict, bool json) {
  const GapSpread gap = gap_spread(a.gap), kl = gap_spread(a.kl);
  if (json) {
    Json prompts = Json::array(), disagreements = Json::array();
    const auto place = [](int32_t at) { return at < 0 ? Json(nullptr) : Json(at); };
    for (const AgreementPrompt& p : a.prompts) {
      prompts.push_back({{"seed", p.seed},
                         {"prompt_tokens", p.prompt_tokens},
                         {"tokens", p.answer_tokens},
                         {"agreed", p.agreed},
                         {"first_divergence", place(p.diverged_at)}});
    }
    for (const Disagreement& d : a.disagreements) {
      disagreements.push_back({{"prompt", d.prompt},
                               {"position", d.position},
                               {"reference", d.reference},
                               {"other", d.other},
                               {"reference_margin", d.reference_margin},
                               {"other_margin", d.other_margin},
                               {"gap", d.gap}});
    }
    print_json({{"reference", to_json(reference)},
                {"other", to_json(other)},
                {"strict", strict},
                {"tokens", a.positions()},
                {"agreed", a.agreed()},
                {"agreement", share(a)},
                {"diverged", diverged(a)},
                {"first_divergence", place(first_divergence(a))},
                {"log_prob_gap", {{"mean", gap.mean}, {"p99", gap.p99}, {"max", gap.max}}},
                {"kl", {{"mean", kl.mean}, {"p99", kl.p99}, {"max", kl.max}}},
                {"disagreements", std::move(disagreements)},
                {"prompts", std::move(prompts)}});
    return;
  }
  fmt::print("reference {}, other {}, attn={}, kv={}{}\n\n", reference.name, other.name, reference.engine->attn_spec(),
             reference.engine->kv_spec(), strict ? ", strict" : "");
  fmt::print("same most likely token  {:.3f} % ({} of {} told tokens, {} prompts)\n", 100.0 * share(a), a.agreed(),
             a.positions(), a.prompts.size());
  fmt::print("own greedy answers      {} of {} equal", static_cast<int64_t>(a.prompts.size()) - diverged(a),
             a.prompts.size());
  if (first_divergence(a) >= 0) fmt::print("; the earliest divergence is at token {}", first_divergence(a));
  fmt::print("\nlog-probability gap     mean {:.3g}, p99 {:.3g}, max {:.3g} nats\n", gap.mean, gap.p99, gap.max);
  fmt::print("KL(reference || other)  mean {:.3g}, p99 {:.3g}, max {:.3g} nats\n", kl.mean, kl.p99, kl.max);
  if (a.disagreements.empty()) return;
  // The clearest first: a near tie says nothing.
  std::vector<Disagreement> worst = a.disagreements;
  std::stable_sort(worst.begin(), worst.end(), [](const Disagreement& x, const Disagreement& y) {
    return std::max(x.reference_margin, x.other_margin) > std::max(y.reference_margin, y.other_margin);
  });
  if (worst.size() > kListed) worst.resize(kListed);
  fmt::print(
      "\n| disagreement (prompt: token) | reference | other | margin | other's margin | gap |\n"
      "|---|---|---|---|---|---|\n");
  for (const Disagreement& d : worst) {
    fmt::print("| {}: {} | {} | {} | {:.4f} | {:.4f} | {:.4f} |\n", d.prompt, d.position, d.reference, d.other,
               d.reference_margin, d.other_margin, d.gap);
  }
  if (worst.size() < a.disagreements.size()) {
    fmt::print("the {} with the largest margins of {}\n", worst.size(), a.disagreements.size());
  }
}

}  // namespace

Status run_eval_devices(const ModelOptions& where, const std::string& against, int threads,
                        const EvalTaskOptions& tasks, const std::string& file, bool json) {
  PARE_RETURN_IF_ERROR(check_options(tasks));
  PARE_ASSIGN_OR_RETURN(const std::optional<CpuLevel> level, level_of(against));
  const std::string device = level ? "cpu" : against;
  Haystack haystack;
  if (!file.empty()) {
    PARE_ASSIGN_OR_RETURN(const std::string text, read_text_file(file, kMaxPromptBytes));
    PARE_RETURN_IF_ERROR(check_utf8(file, text));
    auto read = Haystack::from_text(text);
    if (!read.ok()) return at_path(read.status(), file);
    haystack = std::move(*read);
  }
  Side reference, other;
  PARE_ASSIGN_OR_RETURN(reference.model, load_by_name(where.model, where.threads, where.device));
  other.model = reference.model;
  if (device != where.device) {
    PARE_ASSIGN_OR_RETURN(other.model, load_by_name(where.model, where.threads, device));
  }
  const int longest = *std::max_element(tasks.lengths.begin(), tasks.lengths.end());
  const int64_t context = int64_t{longest} + tasks.scored + 1;
  PARE_RETURN_IF_ERROR(check_context(*reference.model, "--lengths, --scored and one token", context));
  PARE_RETURN_IF_ERROR(make_engine(where, where.threads, std::nullopt, static_cast<int32_t>(context), &reference));
  PARE_RETURN_IF_ERROR(
      make_engine(where, threads > 0 ? threads : where.threads, level, static_cast<int32_t>(context), &other));

  arm_interrupt();
  Progress bar;
  Agreement found;
  const int64_t total = static_cast<int64_t>(tasks.lengths.size()) * tasks.cases;
  const ProbeStop stop = [&] {
    bar.update("comparing", static_cast<int64_t>(found.prompts.size()), total, "prompts");
    return interrupted();
  };
  Status status;
  for (const int length : tasks.lengths) {
    for (int i = 0; i < tasks.cases && status.ok(); ++i) {
      const uint64_t seed = tasks.seed + static_cast<uint64_t>(i);
      PARE_ASSIGN_OR_RETURN(const PromptIds prompt, text_prompt(*reference.model->tokenizer, haystack, seed, length));
      status = compare_devices(*reference.engine, *other.engine, prompt, seed, tasks.scored, stop, &found);
    }
  }
  bar.finish();
  const bool stopped = status.code() == StatusCode::kCancelled;
  if (!status.ok() && !stopped) return status;
  if (found.prompts.empty()) return cancelled("interrupted");
  print_result(found, reference, other, where.strict, json);
  return stopped ? cancelled("interrupted") : ok_status();
}

}  // namespace pare::cli
