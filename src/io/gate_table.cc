#include "io/gate_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "io/quote_name.h"

namespace pare {
namespace {

Status wrong(std::string_view why) { return data_loss(fmt::format("min_tokens: {}", why)); }

bool is_device_class(std::string_view name) {
  return !name.empty() && static_cast<int64_t>(name.size()) <= kMaxDeviceClassBytes &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

}  // namespace

Status check_gates(const LengthGates& gates) {
  if (static_cast<int64_t>(gates.size()) > kMaxDeviceClasses) {
    return wrong(fmt::format("more than {} device classes", kMaxDeviceClasses));
  }
  for (const auto& [device, tokens] : gates) {
    if (!is_device_class(device)) return wrong(fmt::format("{} is no device class", quote_name(device)));
    if (tokens < 0 || tokens > kMaxContext) {
      return wrong(fmt::format("{} tokens, 0 to {} are possible", tokens, kMaxContext));
    }
  }
  return ok_status();
}

Expected<LengthGates> gates_of_json(const nlohmann::ordered_json& table) {
  if (!table.is_object()) return wrong("expected an object");
  LengthGates gates;
  for (const auto& [device, tokens] : table.items()) {
    // Whole numbers only: 1.0 is none.
    if (!tokens.is_number_unsigned() || tokens.get<uint64_t>() > static_cast<uint64_t>(kMaxContext)) {
      return wrong(fmt::format("expected an integer from 0 to {}", kMaxContext));
    }
    gates.emplace_back(device, static_cast<int32_t>(tokens.get<uint64_t>()));
  }
  PARE_RETURN_IF_ERROR(check_gates(gates));
  return gates;
}

nlohmann::ordered_json json_of_gates(const LengthGates& gates) {
  nlohmann::ordered_json table = nlohmann::ordered_json::object();
  for (const auto& [device, tokens] : gates) table[device] = tokens;
  return table;
}

}  // namespace pare
