// From which length on a policy pays: the verdict over lengths at which it was measured beside dense, in turn, and the
// gates by length (plan/length_gate.h) that policy files hold.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"
#include "plan/channel_mask.h"

namespace pare {

// How much slower than dense a policy may be and still be used: medians of pairs vary by that much.
inline constexpr double kCardAllowance = 0.02, kCpuAllowance = 0.05;

struct GatePoint {
  int32_t tokens = 0;
  double ratio = 0;  // the policy's time over that of dense: median of the pairs
};

// "pays": at most dense's time; "even": slower within the allowance; "slower".
std::string_view gate_verdict(double ratio, double allowance);

// The smallest measured length from which on the policy is slower than dense at no measured length by more than the
// allowance. Empty: it is at the longest. Points may come in any order; those of one length must all pass.
std::optional<int32_t> find_crossover(std::span<const GatePoint> points, double allowance);

// What goes into a file for a class of devices.
struct MeasuredGate {
  std::string device_class;
  // The crossover; without one kMaxContext: beyond the longest measured length nothing is known, so nothing is
  // promised.
  int32_t min_tokens = 0;
  std::string provenance;  // what was measured: shape, lengths and ratios, rounds
};
MeasuredGate make_gate(std::string_view device_class, std::span<const GatePoint> points, double allowance,
                       std::string_view measured);

// Puts the gate into a ranking or a mask file in place of the class's earlier one, and what was measured into its
// provenance. The file appears whole or stays as it was, with a new checksum. Errors name the file; kInvalidArgument
// for a `.pth` mask, which has no place for gates.
Status write_ranking_gate(const std::filesystem::path& path, const MeasuredGate& gate);
Status write_mask_gate(const std::filesystem::path& path, const MeasuredGate& gate);

// The mask of a file that write_mask_gate can write to.
Expected<ChannelMask> read_gated_mask(const std::filesystem::path& path);

}  // namespace pare
