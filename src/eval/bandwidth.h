// What this machine can do at best, measured in this process: the denominators of every ratio that pare prints.
#pragma once

#include <cstdint>

namespace pare {

// Bytes a second that `threads` threads read from memory together: best of several passes over a buffer larger than
// the caches, each thread summing its own share with the widest loads. Measured once per process and thread count
// (about 0.3 s), then remembered.
double read_bandwidth_bytes_per_s(int threads);

}  // namespace pare
