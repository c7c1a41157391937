// Files and golden data of the tokenizer tests.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "io/mapped_file.h"
#include "text/tokenizer.h"

namespace pare::test {

inline std::string data_path(const std::string& name) { return std::string(PARE_SOURCE_DIR "/tests/data/") + name; }

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

inline Expected<Metadata> gguf_metadata(const std::string& path) {
  PARE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  PARE_ASSIGN_OR_RETURN(GgufContents contents, read_gguf(file.bytes()));
  return std::move(contents.metadata);
}

inline std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path) {
  const auto metadata = gguf_metadata(path);
  if (!metadata.ok()) {
    ADD_FAILURE() << path << ": " << metadata.status().to_string();
    return nullptr;
  }
  auto tokenizer = make_tokenizer_from_gguf(*metadata);
  if (!tokenizer.ok()) {
    ADD_FAILURE() << path << ": " << tokenizer.status().to_string();
    return nullptr;
  }
  return std::move(tokenizer).value();
}

// tests/data/tokenizers/NAME.gguf, read once.
inline const Tokenizer* vocabulary(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Tokenizer>> cache;
  auto& entry = cache[name];
  if (entry == nullptr) entry = open_tokenizer(data_path("tokenizers/" + name + ".gguf"));
  return entry.get();
}

inline nlohmann::json read_json(const std::string& path) { return nlohmann::json::parse(read_text(path)); }

}  // namespace pare::test
