// Folders, files and reference digests for the tests of the store.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "../../scoped_env.h"
#include "../../scratch_folder.h"
#include "base/rng.h"
#include "io/sha256.h"

namespace pare::test {

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  // Truncating an old file makes some file systems flush the new one; a fresh file is a hundred times faster.
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string sha256_of(const std::string& text) {
  Sha256 hash;
  hash.update(text);
  return hash.finish_hex().value();
}

inline bool mentions(const Status& status, std::string_view text) {
  return status.message().find(text) != std::string_view::npos;
}

}  // namespace pare::test
