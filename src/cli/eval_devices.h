// `pare eval devices`: greedy agreement of one model on two devices.
#pragma once

#include <string>

#include "cli/command.h"
#include "cli/eval_tasks.h"

namespace pare::cli {

// `where`: the reference's device and threads, and the policies of both. `against`: "cpu", "cpu:LEVEL" or a card as
// --device names it. `threads`: of that one; 0: as the reference. `file`: prompts are cut from it; "": from generated
// sentences. Of `tasks` lengths, cases, seed and scored are used; one that means nothing here is kInvalidArgument.
Status run_eval_devices(const ModelOptions& where, const std::string& against, int threads,
                        const EvalTaskOptions& tasks, const std::string& file, bool json);

}  // namespace pare::cli
