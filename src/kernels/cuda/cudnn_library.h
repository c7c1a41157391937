// libcudnn.so.9, loaded at run time: builds and machines without it lose nothing but attn=dense(impl=cudnn). The
// functions that its front end calls are defined in cudnn_library.cc under their own names and hand on to the library.
#pragma once

#include "pare/status.h"

namespace pare::cuda {

// Loads the library once a process; later calls give the same answer. Looks in $CUDNN_PATH/lib and $CUDNN_PATH/lib64,
// then where the loader looks. kUnsupported: the build has no cuDNN, no library was found (the message says what was
// tried), or one older than 9.6, which cannot align a causal mask of any length to the last key. Any thread.
Status load_cudnn();

}  // namespace pare::cuda
