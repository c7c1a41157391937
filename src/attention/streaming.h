// attn=streaming(sink, window): A-shape prefill. A row attends the first `sink` positions and the last
// `window` ones (its own among them). Source: StreamingLLM (arXiv 2309.17453) §3.2; as a prefill pattern,
// MInference (arXiv 2407.02490) §3.2, "A-shape". Positions stay absolute: nothing is rotated again.
#pragma once

#include "attention/selector.h"

namespace pare {
SelectorEntry streaming_selector_entry();
}
