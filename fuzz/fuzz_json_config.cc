// config.json: parsed and flattened, then read through every getter; what was parsed must survive a second
// trip.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

#include "io/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = pare::parse_json(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!json.ok()) return 0;
  const auto again = pare::parse_json(json->dump());
  if (!again.ok() || *again != *json) std::abort();
  const auto metadata = pare::flatten_json(*json);
  if (!metadata.ok()) return 0;
  for (const auto& [key, value] : metadata->values()) {
    (void)metadata->get_int(key, -1000, 1000).ok();
    (void)metadata->get_float(key).ok();
    (void)metadata->get_bool(key).ok();
    (void)metadata->get_string(key).ok();
    (void)metadata->get_string_array(key).ok();
    (void)metadata->get_int_array(key).ok();
    (void)metadata->get_float_array(key).ok();
  }
  return 0;
}
