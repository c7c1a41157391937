// Gates by length: from how many tokens on a policy pays on a class of devices. Measured by `pare bench --write-gate`,
// held in the policy's file (io/gate_table.h), never timed at run time: results must not depend on how busy a machine
// is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pare {

// Device class (PolicyContext::device_class) and the tokens below which the policy does what dense would; each class
// once. Tokens: 0 to kMaxContext, which is longer than any sequence: the policy never pays there.
using LengthGates = std::vector<std::pair<std::string, int32_t>>;

// 0 for a class that is not listed.
inline int32_t gate_of(const LengthGates& gates, std::string_view device_class) {
  for (const auto& [device, tokens] : gates) {
    if (device == device_class) return tokens;
  }
  return 0;
}

// Adds the class or replaces its gate.
inline void set_gate(LengthGates* gates, std::string_view device_class, int32_t tokens) {
  for (auto& [device, old] : *gates) {
    if (device == device_class) {
      old = tokens;
      return;
    }
  }
  gates->emplace_back(device_class, tokens);
}

}  // namespace pare
