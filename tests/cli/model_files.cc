#include "model_files.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>

#include "io/store.h"

namespace pare::test {
namespace fs = std::filesystem;

ScratchFolder::ScratchFolder() {
  std::string pattern = (fs::temp_directory_path() / "pare-cli-XXXXXX").string();
  path_ = ::mkdtemp(pattern.data());
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::vector<std::string> ScratchFolder::entries() const {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path_)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string source_path(std::string_view relative) { return (fs::path(PARE_SOURCE_DIR) / relative).string(); }

std::string tiny_model(std::string_view name) {
  return source_path("tests/data/tiny/" + std::string(name) + "/model.gguf");
}

std::string read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void write_whole(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

void write_changed(const std::string& path, const std::function<void(Parts*)>& change) {
  const std::string bytes = read_whole(tiny_model("llama"));
  const auto file = read_gguf(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  Parts parts{file->metadata, {}};
  std::map<std::string, std::span<const std::byte>> data;
  for (const TensorEntry& entry : file->tensors) {
    parts.specs.push_back({entry.name, entry.dtype, entry.shape});
    data[entry.name] = entry.data;
  }
  change(&parts);
  const Status status = write_gguf(path, parts.metadata, parts.specs, [&](size_t i, const TensorSink& sink) {
    const TensorSpec& spec = parts.specs[i];
    std::vector<std::byte> copy(*tensor_bytes(spec.dtype, spec.shape));
    const auto source = data.find(spec.name);
    if (source != data.end()) {
      std::copy_n(source->second.begin(), std::min(copy.size(), source->second.size()), copy.begin());
    }
    return sink(copy);
  });
  ASSERT_TRUE(status.ok()) << status.to_string();
}

std::string pulled(const std::string& name) {
  const auto path = resolve_model(name);
  return path.ok() ? path->string() : "";
}

}  // namespace pare::test
