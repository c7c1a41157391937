// What a selector configuration means for the store: which rows prompts still need, and which of them may be
// shared.
#pragma once

#include <cstdint>

#include "plan/caps.h"
#include "plan/kv_layout.h"
#include "plan/reach.h"

namespace pare {

struct PrefillFacts {
  Reach reach[kMaxClasses];      // per layer class, its own window applied
  bool exact[kMaxClasses] = {};  // every layer of the class shows every prompt row exactly `reach`
  Horizon horizon = Horizon::kRow;
  int32_t horizon_arg = 0;
};

}  // namespace pare
