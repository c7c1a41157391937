// Gates by length as policy files hold them: an object from device classes to tokens (docs/formats/ranking.md).
#pragma once

#include "io/json.h"
#include "pare/status.h"
#include "plan/length_gate.h"

namespace pare {

// At most kMaxDeviceClasses, each of 1 to 64 characters a-z, 0-9 and -, 0 to kMaxContext tokens. kDataLoss begins with
// `min_tokens`.
Status check_gates(const LengthGates& gates);

// The same of JSON, in the order of the file. Values that are no integers are errors.
Expected<LengthGates> gates_of_json(const nlohmann::ordered_json& table);
nlohmann::ordered_json json_of_gates(const LengthGates& gates);

}  // namespace pare
