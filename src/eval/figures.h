// The figures of an evaluation, made of its rows by eval/plot.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/summary.h"

namespace pare {

enum class FigureKind : uint8_t {
  kHeat,     // score by length and depth, one map a configuration
  kScore,    // score against length, lines with intervals
  kNll,      // copy: negative log-likelihood of the second copy against distance, in decode steps and in the prompt
  kKlPairs,  // KL against the query-key pairs kept, one mark a configuration
  kKlBytes,  // KL against the KV bytes that an answer holds
  kTtft,     // time to the first token against length, with slopes
};

std::span<const std::string_view> figure_names();  // "heat", "score", "nll", "kl-pairs", "kl-bytes", "ttft"
// kNotFound lists the names.
Expected<FigureKind> find_figure(std::string_view name);
// What a task is best seen as: heat for tasks with a depth, nll for copy, score otherwise.
FigureKind default_figure(std::string_view task);

// SVG. kInvalidArgument when the rows have nothing for this figure.
Expected<std::string> draw_figure(FigureKind kind, const std::vector<EvalRow>& rows,
                                  const std::vector<EvalSummary>& summaries, const BootstrapOptions& options);

}  // namespace pare
