#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/checked.h"
#include "base/limits.h"
#include "io/atomic_file.h"
#include "io/quote_name.h"
#include "io/safetensors.h"
#include "io/safetensors_types.h"
#include "io/tensor_copier.h"

namespace pare {
namespace {

using Json = nlohmann::ordered_json;
using TextMetadata = std::map<std::string, std::string>;

constexpr size_t kHeaderAlignment = 8;

// Neighbouring tensors [begin, end) that share a file.
struct Shard {
  size_t begin = 0, end = 0;
};

struct Plan {
  std::span<const TensorSpec> tensors;
  std::vector<uint64_t> bytes;  // of each tensor
  uint64_t total = 0;
};

Expected<Plan> make_plan(std::span<const TensorSpec> tensors) {
  Plan plan{tensors, {}, 0};
  PARE_ASSIGN_OR_RETURN(plan.bytes, check_specs(tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (safetensors_type_name(tensors[i].dtype).empty()) {
      return invalid_argument(fmt::format("tensor {}: safetensors has no type {}", quote_name(tensors[i].name),
                                          dtype_name(tensors[i].dtype)));
    }
    if (tensors[i].name == "__metadata__") return invalid_argument("a tensor cannot be named '__metadata__'");
    const auto sum = checked_add<uint64_t>(plan.total, plan.bytes[i]);
    if (!sum || *sum > static_cast<uint64_t>(INT64_MAX))
      return invalid_argument("the tensors have more than 2^63 bytes");
    plan.total = *sum;
  }
  return plan;
}

// Compact JSON; names that are not UTF-8 cannot be written.
Expected<std::string> dump(const Json& json) {
  try {
    return json.dump();
  } catch (const std::exception&) {
    return invalid_argument("a name or metadata text is not UTF-8");
  }
}

// The members are built as a plain list: an ordered object would search itself for each of them.
void append_member(Json* object, std::string name, Json value) {
  auto& members = object->get_ref<Json::object_t&>();
  members.Json::object_t::Container::emplace_back(std::move(name), std::move(value));
}

Expected<std::string> make_header(const Plan& plan, const Shard& shard, const TextMetadata& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) {
    Json texts = Json::object();
    for (const auto& [name, value] : metadata) append_member(&texts, name, value);
    append_member(&header, "__metadata__", std::move(texts));
  }
  uint64_t offset = 0;
  for (size_t i = shard.begin; i < shard.end; ++i) {
    const TensorSpec& spec = plan.tensors[i];
    Json info = Json::object();
    append_member(&info, "dtype", std::string(safetensors_type_name(spec.dtype)));
    append_member(&info, "shape", spec.shape);
    append_member(&info, "data_offsets", Json::array({offset, offset + plan.bytes[i]}));
    append_member(&header, spec.name, std::move(info));
    offset += plan.bytes[i];
  }
  PARE_ASSIGN_OR_RETURN(std::string text, dump(header));
  text.resize(round_up(text.size(), kHeaderAlignment), ' ');
  if (static_cast<int64_t>(text.size()) > kMaxSafetensorsHeaderBytes) {
    return limit_exceeded(fmt::format("a header of {} bytes, limit {}", text.size(), kMaxSafetensorsHeaderBytes));
  }
  const auto length = static_cast<uint64_t>(text.size());
  char raw[sizeof(length)];
  std::memcpy(raw, &length, sizeof(length));
  return std::string(raw, sizeof(raw)) + text;
}

Status write_shard(const Plan& plan, const Shard& shard, const TextMetadata& metadata, TensorCopier* copier,
                   AtomicFile* file) {
  PARE_ASSIGN_OR_RETURN(const std::string header, make_header(plan, shard, metadata));
  PARE_RETURN_IF_ERROR(file->write(header));
  for (size_t i = shard.begin; i < shard.end; ++i) {
    PARE_RETURN_IF_ERROR(copier->copy(i, plan.tensors[i], plan.bytes[i], file));
  }
  return ok_status();
}

std::vector<Shard> split(const Plan& plan, uint64_t max_bytes) {
  std::vector<Shard> shards(1);
  uint64_t held = 0;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    if (held > 0 && (plan.bytes[i] > max_bytes || held > max_bytes - plan.bytes[i])) {
      shards.push_back({i, i});
      held = 0;
    }
    shards.back().end = i + 1;
    held += plan.bytes[i];
  }
  return shards;
}

}  // namespace

Status write_safetensors(const std::filesystem::path& path, const TextMetadata& metadata,
                         std::span<const TensorSpec> tensors, const TensorProducer& produce,
                         const WriteProgress& progress) {
  PARE_ASSIGN_OR_RETURN(const Plan plan, make_plan(tensors));
  PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  PARE_RETURN_IF_ERROR(
      check_free_space(path.has_parent_path() ? path.parent_path() : ".", static_cast<int64_t>(plan.total)));
  TensorCopier copier(produce, progress, plan.total);
  PARE_RETURN_IF_ERROR(write_shard(plan, {0, tensors.size()}, metadata, &copier, &file));
  return file.commit();
}

Status write_safetensors_model(const std::filesystem::path& folder, const TextMetadata& metadata,
                               std::span<const TensorSpec> tensors, uint64_t max_shard_bytes,
                               const TensorProducer& produce, const WriteProgress& progress) {
  PARE_ASSIGN_OR_RETURN(const Plan plan, make_plan(tensors));
  const std::vector<Shard> shards = split(plan, max_shard_bytes);
  if (shards.size() == 1) return write_safetensors(folder / "model.safetensors", metadata, tensors, produce, progress);
  if (static_cast<int64_t>(shards.size()) > kMaxSafetensorsShards) {
    return invalid_argument(
        fmt::format("{} shards of {} bytes, limit {}", shards.size(), max_shard_bytes, kMaxSafetensorsShards));
  }
  PARE_RETURN_IF_ERROR(check_free_space(folder, static_cast<int64_t>(plan.total)));
  TensorCopier copier(produce, progress, plan.total);
  std::vector<AtomicFile> files;
  Json weight_map = Json::object();
  for (size_t s = 0; s < shards.size(); ++s) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(folder / name));
    files.push_back(std::move(file));
    PARE_RETURN_IF_ERROR(write_shard(plan, shards[s], metadata, &copier, &files.back()));
    for (size_t i = shards[s].begin; i < shards[s].end; ++i) append_member(&weight_map, tensors[i].name, name);
  }
  Json index = Json::object();
  append_member(&index, "metadata", Json::object({{"total_size", plan.total}}));
  append_member(&index, "weight_map", std::move(weight_map));
  PARE_ASSIGN_OR_RETURN(const std::string text, dump(index));
  PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(folder / "model.safetensors.index.json"));
  PARE_RETURN_IF_ERROR(file.write(text));
  for (AtomicFile& shard : files) PARE_RETURN_IF_ERROR(shard.commit());
  return file.commit();
}

}  // namespace pare
