// Builds without CUDA: the same questions, one answer.
#include "ops/accelerator.h"
#include "ops/device_ops.h"

namespace pare::ops {
#ifndef PARE_HAS_CUDA
namespace {
Status no_cuda() { return unsupported("this build has no CUDA backend (configure with the preset 'cuda')"); }
}  // namespace

Expected<std::vector<AcceleratorInfo>> list_accelerators() { return no_cuda(); }
Expected<std::shared_ptr<Accelerator>> open_accelerator(Device) { return no_cuda(); }
#endif
}  // namespace pare::ops
