// What this card can do at best, measured: the denominators of every ratio that pare prints for it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pare/status.h"
#include "tensor/cuda/device_memory.h"
#include "tensor/cuda/stream.h"

namespace pare::cuda {

// Reads `bytes` (a multiple of 64 KiB) with every multiprocessor and adds them up into sink[0] in a way that nothing
// can be left out.
Status read_all(const std::byte* data, size_t bytes, uint32_t* sink, Stream stream);

// Operands to measure with: `items` normally distributed numbers (products of zeros would draw less power and run
// faster); the first `have` bytes of a buffer repeated to its end.
Expected<DeviceBuffer> random_bf16(int64_t items);
Status repeat_to_end(DeviceBuffer& buffer, size_t have);

// Writes the smallest step that the card's clock (card_clock.cuh) took while one thread read it over and over; 0 where
// it did not move within a second or so.
Status read_clock(uint64_t* smallest_ns, Stream stream);

// On the current device, medians of 20; each takes memory for the time of the call (the buffer shrinks where little is
// free) and some tens of milliseconds.
Expected<double> measure_read_rate();  // bytes a second of reading and nothing else
Expected<double> measure_copy_rate();  // bytes read plus bytes written a second, of a copy within the card
Expected<double> measure_gemm_rate();  // FLOP a second of bf16 products of 8,192 x 8,192 matrices

// Resolution of the card's clock in nanoseconds: the smallest of 64 steps. Readings that take longer than a step of the
// clock show themselves instead. kInternal when it does not move.
Expected<int64_t> measure_clock_step_ns();

}  // namespace pare::cuda
