// Small kernels that meet as the warps of the attention kernels do and are correct by construction, to be run under
// compute-sanitizer: what it reports on these is a limit of the tool. One block each, over `rounds` rounds; every
// pointer is device memory. Kernels are empty where has_control_code() is false.
//
// A value that a lane passes on in a round is control_value(round, lane).
#pragma once

#include <cstdint>

#include "pare/status.h"
#include "tensor/cuda/stream.h"

namespace pare::cuda {

constexpr int32_t control_value(int32_t round, int32_t lane) { return 1000 * round + lane; }

// Whether the code that this card loaded is Hopper's.
bool has_control_code();

// A warp fills the slots of a ring, another reads them, as the prefill kernel's descriptions of stages are passed on:
// both wait at mbarriers only, or (`relayed`) a third warp waits at them and arrives for either.
//   out[round][lane] = control_value(round, 31 - lane) + round
Status control_mbarriers(int32_t* out, int32_t rounds, bool relayed, Stream stream);

// Two warps of four meet at a named barrier, each in a branch of its own, while the other two leave.
//   out[round][lane] = control_value(round, 31 - (lane + 1) % 32) + 1; out[rounds + 0, 1][lane]: sums of
//   control_value(round, lane) over the rounds
Status control_named_barrier(int32_t* out, int32_t rounds, Stream stream);

// Items of the prefill kernel: their writer waits at an mbarrier, and meets two readers at a named barrier.
//   out[round][reader 0, 1][lane] = control_value(round, lane)
Status control_items(int32_t* out, int32_t rounds, Stream stream);

// A ring whose slots are copied from in[round][32] by cp.async, as decode attention loads rows, or by bulk copies, as
// prefill does. Items of 16 bytes, 4 int32_t each.
//   out[round][lane] = in[round][31 - lane]
Status control_async_copies(void* out, const void* in, int32_t rounds, Stream stream);
Status control_bulk_copies(void* out, const void* in, int32_t rounds, Stream stream);

}  // namespace pare::cuda
