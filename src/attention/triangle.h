// attn=triangle(sink, window, last, min_tokens, layers | ranking, count): TriangleMix (arXiv 2507.21526). In the layers
// that a ranking found to bear it, prompt rows before the last `last` ones attend the first `sink` positions and a
// window; the last rows of the prompt attend everything, so that what is answered has seen every token.
//
// Row i attends key j <= i iff j < sink, or i - j < window (the row itself counts), or i >= prompt_len - last: half
// open, as in the authors' code. Positions are absolute and prompt_len is final: chunks do not matter. Rows after the
// prompt (replays) attend everything. A layer with a window of its own keeps it and nothing else: it is linear already.
#pragma once

#include "attention/selector.h"

namespace pare {
SelectorEntry triangle_selector_entry();
}
