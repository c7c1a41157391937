// Model files for the tests of the program: the tiny ones of the repository, copies of them with something changed, and
// those of the store.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"

namespace pare::test {

// A folder of its own for each object, removed with it.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  std::string operator/(std::string_view name) const { return (path_ / name).string(); }
  // Names of what is in it, hidden files too, ascending.
  std::vector<std::string> entries() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string source_path(std::string_view relative);
std::string tiny_model(std::string_view name);  // tests/data/tiny/NAME/model.gguf
std::string read_whole(const std::string& path);
void write_whole(const std::string& path, std::string_view text);

// A GGUF taken apart. Data of added tensors are zeros.
struct Parts {
  Metadata metadata;
  std::vector<TensorSpec> specs;
};
// Writes the tiny llama to `path`, changed by `change`. Tensors keep their data by name.
void write_changed(const std::string& path, const std::function<void(Parts*)>& change);

// A chat template that any conversation passes, short enough for the tiny model's context.
inline constexpr std::string_view kTinyTemplate =
    "{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}{% endfor %}a";

// The main file of a pulled model, or "" when the store does not have it.
std::string pulled(const std::string& name);

}  // namespace pare::test
