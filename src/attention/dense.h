// attn=dense: every row attends every earlier one.
#pragma once

#include "attention/selector.h"

namespace pare {
SelectorEntry dense_selector_entry();
}
