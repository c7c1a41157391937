#include "tensor/cuda/status.h"

#include <fmt/format.h>

namespace pare::cuda {

Status to_status(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return ok_status();
  std::string message = fmt::format("CUDA: {} ({}) in {}", cudaGetErrorString(error), cudaGetErrorName(error), what);
  switch (error) {
    case cudaErrorMemoryAllocation:
      cudaGetLastError();  // not sticky: the context lives on
      return resource_exhausted(std::move(message));
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice: return not_found(std::move(message));
    case cudaErrorInsufficientDriver:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorSystemDriverMismatch: return unsupported(std::move(message));
    default: return internal_error(std::move(message));
  }
}

}  // namespace pare::cuda
