#include "ops/accelerator.h"

#include <fmt/format.h>

#include <charconv>

namespace pare::ops {

Expected<std::shared_ptr<Accelerator>> accelerator_by_name(std::string_view name) {
  if (name == "cpu") return std::shared_ptr<Accelerator>();
  if (name == "auto") {
    auto card = open_accelerator({DeviceKind::kCuda, 0});
    return card.ok() ? std::move(*card) : std::shared_ptr<Accelerator>();
  }
  int8_t index = 0;
  bool known = name == "cuda";
  if (name.starts_with("cuda:")) {
    const char* end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + 5, end, index);
    known = error == std::errc() && rest == end && index >= 0;
  }
  if (!known) return invalid_argument(fmt::format("device '{}': expected cpu, cuda, cuda:N or auto", name));
  return open_accelerator({DeviceKind::kCuda, index});
}

}  // namespace pare::ops
