// Reading one member of a wheel (a zip archive) without unpacking anything to disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "pare/status.h"

namespace pare {

inline constexpr int64_t kMaxWheelEntries = 65'536;

// Passes the bytes of the member with exactly that name to `sink`, in order, in blocks of at most 256 KiB,
// and returns how many there were. The archive's names are compared, never used as paths. Stops with
// kDataLoss when the archive is inconsistent, holds the name twice, holds any name that would leave a folder
// ("../x",
// "/x"), the member is encrypted, has a wrong CRC, or is longer than `max_bytes`; with kNotFound when the
// member is missing; and with sink's error.
Expected<int64_t> read_wheel_member(const std::filesystem::path& wheel, const std::string& member, int64_t max_bytes,
                                    const std::function<Status(std::string_view)>& sink);

}  // namespace pare
