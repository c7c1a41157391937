// Which instruction set the CPU kernels use. Detected once; capped by the environment variable PARE_CPU_LEVEL.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "pare/status.h"

namespace pare {

enum class CpuLevel : uint8_t { kScalar, kAvx2, kAvx512, kAmx };  // each includes the ones before it

std::string_view cpu_level_name(CpuLevel level);  // "scalar", "avx2", "avx512", "amx"
Expected<CpuLevel> parse_cpu_level(std::string_view name);

// What this machine can execute. avx512 asks for F, BW, CD, DQ, VL, VNNI, VBMI; amx for TILE, INT8, BF16 and the
// operating system's permission for the tile state, which is requested here.
CpuLevel detected_cpu_level();

// Invalid when it is none of the enumeration, unsupported when this machine has less.
Status check_cpu_level(CpuLevel level);

// The detected level, lowered to PARE_CPU_LEVEL when that is set (an unknown name is an error, a level above the
// detected one too).
Expected<CpuLevel> selected_cpu_level();

// All levels up to the detected one, for tests that loop.
std::vector<CpuLevel> testable_cpu_levels();

}  // namespace pare
