// Names for CUDA handles, so that headers above the kernels need no toolkit header.
#pragma once

struct CUstream_st;
struct CUevent_st;
struct CUgraphExec_st;

namespace pare::cuda {

using Stream = CUstream_st*;        // cudaStream_t
using Event = CUevent_st*;          // cudaEvent_t
using GraphExec = CUgraphExec_st*;  // cudaGraphExec_t

}  // namespace pare::cuda
