// Errors of the CUDA runtime as Status. For files that include the toolkit.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

#include "pare/status.h"

namespace pare::cuda {

// ok for cudaSuccess. Out of memory is kResourceExhausted, no device kNotFound, a driver or device too old
// kUnsupported; everything else is kInternal and means that the device is lost to this process. `what` names the call.
Status to_status(cudaError_t error, std::string_view what);

// The error of the kernel launches since the last call, without waiting for them to run.
inline Status launch_status(std::string_view kernel) { return to_status(cudaGetLastError(), kernel); }

}  // namespace pare::cuda

#define PARE_CUDA_RETURN_IF_ERROR(call) PARE_RETURN_IF_ERROR(::pare::cuda::to_status((call), #call))
