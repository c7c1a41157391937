// Fetching wheels with the user's own pip, so that the index, mirror, proxy and certificates they configured
// hold.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "pare/status.h"

namespace pare {

// Runs `PYTHON -m pip download` for exactly `package`==`version` and returns the one wheel it left, inside
// `work_folder`. That folder is emptied first and is all that is written: pip's temporary files and its
// working directory lie there too. Only wheels are accepted, no dependencies, so no code of the package ever
// runs; nothing is installed. `on_bytes`, when set, is told about five times a second how many bytes have
// arrived. Blocks until pip ends; pip has its own network time-outs. kNotFound: no such program, or it has no
// pip. kResourceExhausted: disk full. kIoError: pip failed; the message ends with what it printed.
Expected<std::filesystem::path> fetch_wheel(const std::string& python, const std::string& package,
                                            const std::string& version, const std::filesystem::path& work_folder,
                                            const std::function<void(int64_t done)>& on_bytes);

}  // namespace pare
