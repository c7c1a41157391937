#include "kernels/cpu_level.h"

#include <array>
#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pare {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"scalar", "avx2", "avx512", "amx"};

#if defined(__x86_64__)

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(unsigned leaf, unsigned subleaf = 0) {
  Leaf r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool all_bits(unsigned value, std::initializer_list<int> bits) {
  for (const int bit : bits) {
    if ((value >> bit & 1) == 0) return false;
  }
  return true;
}

// Registers that the operating system saves: SSE and AVX; opmask and zmm; tile configuration and data.
bool os_saves(uint64_t state) {
  if (!all_bits(cpuid(1).ecx, {27})) return false;  // OSXSAVE
  uint32_t lo = 0, hi = 0;
  asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return ((uint64_t{hi} << 32 | lo) & state) == state;
}

bool has_avx2() {
  return all_bits(cpuid(1).ecx, {12, 23, 28, 29}) &&  // FMA, POPCNT, AVX, F16C
         all_bits(cpuid(7).ebx, {3, 5, 8}) &&         // BMI1, AVX2, BMI2
         all_bits(cpuid(0x80000001).ecx, {5}) &&      // LZCNT
         os_saves(0x6);
}

bool has_avx512() {
  return all_bits(cpuid(7).ebx, {16, 17, 28, 30, 31}) &&  // F, DQ, CD, BW, VL
         all_bits(cpuid(7).ecx, {1, 11}) &&               // VBMI, VNNI
         os_saves(0xE6);
}

bool has_amx() {
  if (!all_bits(cpuid(7).edx, {22, 24, 25}) ||  // BF16, TILE, INT8
      !all_bits(cpuid(7, 1).eax, {5}) ||        // AVX512_BF16, which the AMX level's files may use
      !os_saves(0x60000)) {
    return false;
  }
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

CpuLevel detect() {
  if (!has_avx2()) return CpuLevel::kScalar;
  if (!has_avx512()) return CpuLevel::kAvx2;
  return has_amx() ? CpuLevel::kAmx : CpuLevel::kAvx512;
}

#else

CpuLevel detect() { return CpuLevel::kScalar; }

#endif

}  // namespace

std::string_view cpu_level_name(CpuLevel level) { return kNames[static_cast<size_t>(level)]; }

Expected<CpuLevel> parse_cpu_level(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (name == kNames[i]) return static_cast<CpuLevel>(i);
  }
  return invalid_argument("CPU level '" + std::string(name) + "' is not one of scalar, avx2, avx512, amx");
}

CpuLevel detected_cpu_level() {
  static const CpuLevel level = detect();
  return level;
}

Status check_cpu_level(CpuLevel level) {
  if (static_cast<size_t>(level) >= kNames.size()) {
    return invalid_argument("CPU level " + std::to_string(static_cast<int>(level)) + " is not one of 0 to " +
                            std::to_string(kNames.size() - 1));
  }
  if (level <= detected_cpu_level()) return ok_status();
  return unsupported("this machine has '" + std::string(cpu_level_name(detected_cpu_level())) + "', not '" +
                     std::string(cpu_level_name(level)) + "'");
}

Expected<CpuLevel> selected_cpu_level() {
  const char* name = std::getenv("PARE_CPU_LEVEL");
  if (name == nullptr || *name == '\0') return detected_cpu_level();
  Expected<CpuLevel> level = parse_cpu_level(name);
  if (!level.ok()) return level.status().with_context("PARE_CPU_LEVEL");
  PARE_RETURN_IF_ERROR(check_cpu_level(*level).with_context("PARE_CPU_LEVEL"));
  return level;
}

std::vector<CpuLevel> testable_cpu_levels() {
  std::vector<CpuLevel> levels;
  for (int i = 0; i <= static_cast<int>(detected_cpu_level()); ++i) levels.push_back(static_cast<CpuLevel>(i));
  return levels;
}

}  // namespace pare
