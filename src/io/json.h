// JSON from files that nobody vouches for: bounded, and without exceptions.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "io/metadata.h"
#include "pare/status.h"

namespace pare {

// Parses UTF-8 text. kLimitExceeded beyond kMaxJsonBytes, kMaxJsonDepth or kMaxMetadataArrayItems values;
// kDataLoss names the byte of a syntax error or an object's duplicate key. Messages do not name the file.
// Cost: O(n log n). Objects keep the file's order; looking up a key in one is linear, so iterate over large
// ones.
Expected<nlohmann::ordered_json> parse_json(std::string_view text);

// The scalars and arrays of an object as metadata, nested names joined with dots ("rope_scaling.factor"). Nulls
// are left out. Arrays of one scalar kind stay arrays (integers beside fractions become numbers); the items
// of other arrays are named by their index ("blocks.0.size"). kInvalidArgument when `object` is not an object,
// kDataLoss when two paths spell the same key.
Expected<Metadata> flatten_json(const nlohmann::ordered_json& object);

}  // namespace pare
