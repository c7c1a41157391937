// attn=dense(impl): every row attends every earlier one. impl=cudnn asks for cuDNN's attention instead of the engine's
// own kernels, for comparison; it is refused on anything but a CUDA device, for layers with a window and for encoders.
#pragma once

#include "attention/selector.h"

namespace pare {
SelectorEntry dense_selector_entry();
}
