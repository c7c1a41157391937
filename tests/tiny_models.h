// The random-weight models of tests/data/tiny: small enough to run in a test, one for each architecture.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "runtime/loaded_model.h"

namespace pare::test {

inline std::filesystem::path tiny_model_path(const std::string& name) {
  return std::filesystem::path(PARE_SOURCE_DIR) / "tests/data/tiny" / name / "model.gguf";
}

// Reads a model; one that cannot be read throws, which ends the test.
inline std::shared_ptr<const LoadedModel> load_model_file(const std::filesystem::path& path) {
  ThreadPool pool(1);
  return load(path, &pool).value();
}

// Loaded once.
inline std::shared_ptr<const LoadedModel> tiny_model(const std::string& name = "llama") {
  static std::map<std::string, std::shared_ptr<const LoadedModel>> models;
  std::shared_ptr<const LoadedModel>& model = models[name];
  if (!model) model = load_model_file(tiny_model_path(name));
  return model;
}

}  // namespace pare::test
