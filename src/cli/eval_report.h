// The table and the JSON of an evaluation.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "eval/summary.h"

namespace pare::cli {

std::string report_text(const std::string& task, const std::vector<EvalSummary>& summaries);
nlohmann::ordered_json report_json(const std::string& task, const LoadedModel& model, const std::vector<EvalRow>& rows,
                                   const std::vector<EvalSummary>& summaries);

}  // namespace pare::cli
