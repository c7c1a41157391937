#include "io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "io/bounded_reader.h"
#include "io/json.h"
#include "io/quote_name.h"
#include "io/safetensors_types.h"

namespace pare {
namespace {

using Json = nlohmann::ordered_json;

// A member of a small object; null when absent.
const Json* member(const Json& object, std::string_view name) {
  const auto it = object.find(name);
  return it == object.end() ? nullptr : &*it;
}

Expected<uint64_t> unsigned_item(const Json& value, std::string_view what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return data_loss(fmt::format("{} is not an integer from 0 to 2^63 - 1", what));
  }
  return value.get<uint64_t>();
}

Expected<TensorEntry> read_entry(const Json& info, std::span<const std::byte> data) {
  if (!info.is_object()) return data_loss("not a JSON object");
  const Json *type = member(info, "dtype"), *shape = member(info, "shape"), *offsets = member(info, "data_offsets");
  if (!type || !type->is_string()) return data_loss("'dtype' is missing or not a string");
  if (!shape || !shape->is_array()) return data_loss("'shape' is missing or not an array");
  if (!offsets || !offsets->is_array() || offsets->size() != 2) return data_loss("'data_offsets' is not a pair");
  TensorEntry entry;
  const auto& type_name = type->get_ref<const std::string&>();
  const auto dtype = safetensors_type(type_name);
  if (!dtype) return unsupported(fmt::format("element type {}", quote_name(type_name)));
  entry.dtype = *dtype;
  if (shape->size() > static_cast<size_t>(kMaxTensorDims)) {
    return data_loss(fmt::format("{} dimensions, limit {}", shape->size(), kMaxTensorDims));
  }
  for (const Json& dim : *shape) {
    PARE_ASSIGN_OR_RETURN(const uint64_t extent, unsigned_item(dim, "a dimension"));
    entry.shape.push_back(static_cast<int64_t>(extent));
  }
  if (entry.shape.empty()) entry.shape = {1};
  PARE_ASSIGN_OR_RETURN(const uint64_t bytes, tensor_bytes(entry.dtype, entry.shape));
  PARE_ASSIGN_OR_RETURN(const uint64_t begin, unsigned_item((*offsets)[0], "'data_offsets'"));
  PARE_ASSIGN_OR_RETURN(const uint64_t end, unsigned_item((*offsets)[1], "'data_offsets'"));
  if (begin > end || end > data.size()) {
    return data_loss(fmt::format("data from {} to {}, the file has {} bytes of data", begin, end, data.size()));
  }
  if (end - begin != bytes) {
    return data_loss(fmt::format("{} bytes of data, {} and the shape make {}", end - begin, type_name, bytes));
  }
  entry.data = data.subspan(begin, end - begin);
  return entry;
}

Status read_text_metadata(const Json& object, std::map<std::string, std::string>* out) {
  if (!object.is_object()) return data_loss("'__metadata__' is not a JSON object");
  for (const auto& [name, value] : object.get_ref<const Json::object_t&>()) {
    if (!value.is_string()) return data_loss(fmt::format("'__metadata__' entry {} is not a string", quote_name(name)));
    out->emplace(name, value.get<std::string>());
  }
  return ok_status();
}

// Neighbours in the order of their data must touch, from the first byte to the last.
Status check_cover(std::span<const TensorEntry> sorted, std::span<const std::byte> data) {
  const std::byte* at = data.data();
  for (const TensorEntry& entry : sorted) {
    if (entry.data.data() != at) {
      return data_loss(fmt::format(
          "tensor {} begins at data byte {}, {} byte {}", quote_name(entry.name), entry.data.data() - data.data(),
          entry.data.data() < at ? "inside its neighbour that ends at" : "after a hole from", at - data.data()));
    }
    at += entry.data.size();
  }
  if (at != data.data() + data.size()) {
    return data_loss(fmt::format("{} bytes after the last tensor", data.data() + data.size() - at));
  }
  return ok_status();
}

}  // namespace

Expected<SafetensorsContents> read_safetensors(std::span<const std::byte> bytes) {
  BoundedReader reader(bytes);
  PARE_ASSIGN_OR_RETURN(const uint64_t header_bytes, reader.read<uint64_t>("the header length"));
  if (header_bytes > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return limit_exceeded(fmt::format("a header of {} bytes, limit {}", header_bytes, kMaxSafetensorsHeaderBytes));
  }
  PARE_ASSIGN_OR_RETURN(const std::string_view text, reader.read_text(header_bytes, "the header"));
  if (!text.starts_with('{')) return data_loss("the header does not begin with '{'");
  auto header = parse_json(text);
  if (!header.ok()) return header.status().with_context("the header");
  SafetensorsContents out;
  out.data_offset = reader.offset();
  const std::span<const std::byte> data = bytes.subspan(out.data_offset);
  const auto& members = header->get_ref<const Json::object_t&>();
  if (members.size() > static_cast<size_t>(kMaxTensors)) {
    return limit_exceeded(fmt::format("{} tensors, limit {}", members.size(), kMaxTensors));
  }
  for (const auto& [name, info] : members) {
    if (name == "__metadata__") {
      PARE_RETURN_IF_ERROR(read_text_metadata(info, &out.metadata));
      continue;
    }
    if (name.empty() || static_cast<int64_t>(name.size()) > kMaxKeyBytes) {
      return data_loss(
          fmt::format("tensor name {} has {} bytes, allowed 1 to {}", quote_name(name), name.size(), kMaxKeyBytes));
    }
    auto entry = read_entry(info, data);
    if (!entry.ok()) return entry.status().with_context("tensor " + quote_name(name));
    entry->name = name;
    out.tensors.push_back(std::move(*entry));
  }
  // Empty tensors share their neighbour's address; by their end they come first.
  std::stable_sort(out.tensors.begin(), out.tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.data.data(), a.data.size()) < std::pair(b.data.data(), b.data.size());
  });
  PARE_RETURN_IF_ERROR(check_cover(out.tensors, data));
  return out;
}

Expected<std::map<std::string, std::string, std::less<>>> read_safetensors_index(std::string_view json) {
  PARE_ASSIGN_OR_RETURN(const Json index, parse_json(json));
  const Json* const map = index.is_object() ? member(index, "weight_map") : nullptr;
  if (!map || !map->is_object()) return data_loss("'weight_map' is missing or not a JSON object");
  const auto& members = map->get_ref<const Json::object_t&>();
  if (members.size() > static_cast<size_t>(kMaxTensors)) {
    return limit_exceeded(fmt::format("'weight_map' has {} tensors, limit {}", members.size(), kMaxTensors));
  }
  std::map<std::string, std::string, std::less<>> files;
  for (const auto& [tensor, file] : members) {
    if (!file.is_string()) return data_loss(fmt::format("'weight_map' entry {} is not a string", quote_name(tensor)));
    const auto& name = file.get_ref<const std::string&>();
    // A path could lead anywhere on the reader's machine.
    if (name.empty() || name.front() == '.' || name.size() > 255 ||
        name.find_first_of(std::string_view("/\\\0", 3)) != name.npos) {
      return data_loss(fmt::format("'weight_map' entry {} names {}, which is not a plain file name", quote_name(tensor),
                                   quote_name(name)));
    }
    files.emplace(tensor, name);
  }
  return files;
}

}  // namespace pare
