#include "io/torch_tensor_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "base/checked.h"
#include "base/half.h"
#include "base/limits.h"
#include "io/mapped_file.h"
#include "io/quote_name.h"
#include "io/torch_pickle.h"
#include "io/zip_archive.h"

namespace pare {
namespace {

Expected<std::string> read_member(const ZipArchive& archive, const std::string& name, int64_t max_bytes) {
  std::string bytes;
  PARE_RETURN_IF_ERROR(archive
                           .read(name, max_bytes, kMaxTorchUnpackRatio,
                                 [&](std::string_view block) {
                                   bytes += block;
                                   return ok_status();
                                 })
                           .status());
  return bytes;
}

// torch.save puts everything into one folder, named after the file: "llama/data.pkl".
Expected<std::string> find_folder(const ZipArchive& archive) {
  constexpr std::string_view kPickle = "/data.pkl";
  std::string folder;
  for (const std::string& name : archive.names()) {
    if (!name.ends_with(kPickle) || name.find('/') != name.size() - kPickle.size()) continue;
    if (!folder.empty()) {
      return data_loss(fmt::format("two folders with a data.pkl: {} and {}", quote_name(folder), quote_name(name)));
    }
    folder = name.substr(0, name.size() - kPickle.size());
  }
  if (folder.empty()) return data_loss("no member NAME/data.pkl: not a file of torch.save");
  return folder;
}

// Highest index that the tensor reaches, plus one; 0 for a tensor without elements.
Expected<int64_t> items_reached(const TorchTensorRecord& record) {
  int64_t last = record.offset;
  for (size_t i = 0; i < record.shape.size(); ++i) {
    if (record.shape[i] == 0) return 0;
    const auto reach = checked_mul(record.shape[i] - 1, record.strides[i]);
    const auto sum = reach ? checked_add(last, *reach) : std::nullopt;
    if (!sum) return data_loss(fmt::format("dimension {}: its stride leaves every storage", i));
    last = *sum;
  }
  return last + 1;
}

float element(TorchType type, const char* at) {
  const auto load = [at](auto value) {
    std::memcpy(&value, at, sizeof(value));
    return value;
  };
  switch (type) {
    case TorchType::kFloat: return load(float{});
    case TorchType::kDouble: return static_cast<float>(load(double{}));
    case TorchType::kHalf: return half_to_float(load(uint16_t{}));
    case TorchType::kBfloat16: return bfloat_to_float(load(uint16_t{}));
    case TorchType::kByte: return load(uint8_t{});
    case TorchType::kChar: return load(int8_t{});
    case TorchType::kBool: return load(uint8_t{}) != 0 ? 1.0f : 0.0f;
  }
  return 0.0f;
}

std::vector<float> gather(const TorchTensorRecord& record, std::string_view storage, int64_t items) {
  const int64_t bytes = torch_type_bytes(record.type);
  const size_t rank = record.shape.size();
  std::vector<float> values;
  values.reserve(static_cast<size_t>(items));
  std::vector<int64_t> index(rank, 0);
  for (int64_t i = 0; i < items; ++i) {
    int64_t place = record.offset;
    for (size_t d = 0; d < rank; ++d) place += index[d] * record.strides[d];
    values.push_back(element(record.type, storage.data() + place * bytes));
    for (size_t d = rank; d-- > 0;) {
      if (++index[d] < record.shape[d]) break;
      index[d] = 0;
    }
  }
  return values;
}

Expected<TorchTensor> read_archive(const ZipArchive& archive) {
  PARE_ASSIGN_OR_RETURN(const std::string folder, find_folder(archive));
  const auto has = [&](const std::string& name) {
    return std::find(archive.names().begin(), archive.names().end(), name) != archive.names().end();
  };
  if (const std::string name = folder + "/byteorder"; has(name)) {
    PARE_ASSIGN_OR_RETURN(const std::string order, read_member(archive, name, 16));
    if (order != "little") return unsupported(fmt::format("byte order {}, only little is read", quote_name(order)));
  }
  PARE_ASSIGN_OR_RETURN(const std::string pickle, read_member(archive, folder + "/data.pkl", kMaxTorchPickleBytes));
  auto read = read_torch_pickle(std::as_bytes(std::span(pickle)));
  if (!read.ok()) return read.status().with_context("data.pkl");
  const TorchTensorRecord& record = *read;

  // Elements may share storage (stride 0), so that their number is bounded by itself.
  int64_t items = 1;
  for (const int64_t size : record.shape) {
    const auto product = checked_mul(items, size);
    if (!product || *product > kMaxTorchItems) {
      return limit_exceeded(fmt::format("a tensor of more than {} elements", kMaxTorchItems));
    }
    items = *product;
  }
  PARE_ASSIGN_OR_RETURN(const int64_t reached, items_reached(record));
#ifdef PARE_FAULT_IO_TORCH_STRIDE
  const bool outside = reached < 0;
#else
  const bool outside = reached > record.storage_items;
#endif
  if (outside) {
    return data_loss(
        fmt::format("the tensor reaches item {} of a storage of {} items", reached - 1, record.storage_items));
  }
  const std::string member = fmt::format("{}/data/{}", folder, record.storage_key);
  PARE_ASSIGN_OR_RETURN(const std::string storage, read_member(archive, member, kMaxTorchStorageBytes));
  const int64_t wanted = record.storage_items * torch_type_bytes(record.type);
  if (static_cast<int64_t>(storage.size()) != wanted) {
    return data_loss(fmt::format("storage {} has {} bytes, its {} items take {}", record.storage_key, storage.size(),
                                 record.storage_items, wanted));
  }
  return TorchTensor{record.shape, gather(record, storage, items)};
}

}  // namespace

Expected<TorchTensor> read_torch_tensor(std::span<const std::byte> file) {
  if (static_cast<int64_t>(file.size()) > kMaxTorchFileBytes) {
    return limit_exceeded(fmt::format("a file of {} bytes, limit {}", file.size(), kMaxTorchFileBytes));
  }
  PARE_ASSIGN_OR_RETURN(const ZipArchive archive, ZipArchive::open(file, kMaxTorchEntries));
  return read_archive(archive);
}

Expected<TorchTensor> read_torch_tensor(const std::filesystem::path& path) {
  PARE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  auto tensor = read_torch_tensor(file.bytes());
  if (!tensor.ok()) return tensor.status().with_context(path.string());
  return tensor;
}

}  // namespace pare
