// `pare tune leank`: a channel mask from calibrated magnitudes, or a random one to compare with.
#pragma once

#include "cli/command.h"

namespace pare::cli {

// Adds the subcommand; when it was given, *chosen becomes its body.
void add_tune_leank(CLI::App* tune, const Commands* commands, const std::shared_ptr<CommandBody>& chosen);

}  // namespace pare::cli
