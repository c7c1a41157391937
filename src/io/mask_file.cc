#include "io/mask_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/checked.h"
#include "base/half.h"
#include "base/limits.h"
#include "io/atomic_file.h"
#include "io/gate_table.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/quote_name.h"
#include "io/sha256.h"
#include "io/torch_tensor_file.h"

namespace pare {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "pare channel mask";
// A mask without gates is written as version 1, which has no `min_tokens`: earlier programs read it.
constexpr int64_t kVersion = 1, kGatedVersion = 2;
constexpr std::string_view kHalfSplitName = "half-split", kInterleavedName = "interleaved";

Status check_sizes(int64_t layers, int64_t kv_heads, int64_t head_dim) {
  const auto bounded = [](std::string_view name, int64_t value, int64_t limit) {
    if (value >= 1 && value <= limit) return ok_status();
    return limit_exceeded(fmt::format("{}: {} is not in [1, {}]", name, value, limit));
  };
  PARE_RETURN_IF_ERROR(bounded("layers", layers, kMaxLayers));
  PARE_RETURN_IF_ERROR(bounded("kv_heads", kv_heads, kMaxHeads));
  PARE_RETURN_IF_ERROR(bounded("head_dim", head_dim, kMaxHeadDim));
  if (head_dim % kMaskWidthUnit != 0) {
    return data_loss(fmt::format("head_dim: {} is not a multiple of {}", head_dim, kMaskWidthUnit));
  }
  const int64_t channels = layers * kv_heads * head_dim;
  if (channels <= kMaxMaskChannels) return ok_status();
  return limit_exceeded(fmt::format("layers x kv_heads x head_dim: {} channels, limit {}", channels, kMaxMaskChannels));
}

std::string head_name(int32_t layer, int32_t head) { return fmt::format("layer {}, KV head {}", layer, head); }

Status check_head(const std::vector<Channel>& kept, int32_t head_dim) {
  if (static_cast<int64_t>(kept.size()) % kMaskWidthUnit != 0) {
    return data_loss(fmt::format("{} kept channels, not a multiple of {}", kept.size(), kMaskWidthUnit));
  }
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i].id >= head_dim) return data_loss(fmt::format("channel {} of {}", kept[i].id, head_dim));
    if (i > 0 && kept[i].id <= kept[i - 1].id) {
      return data_loss(fmt::format("channel {} after {}, not ascending", kept[i].id, kept[i - 1].id));
    }
    const float alpha = kept[i].alpha;
    if (!(alpha > 0.0f && alpha <= 1.0f)) return data_loss(fmt::format("alpha {} is not in (0, 1]", alpha));
    if (half_to_float(float_to_half(alpha)) != alpha) return data_loss(fmt::format("alpha {} is not fp16", alpha));
  }
  return ok_status();
}

// Digits, most significant first; bit i of the map is bit (3 - i mod 4) of digit i / 4, so that the text reads from
// channel 0 on.
std::string hex_bitmap(const std::vector<uint8_t>& bits) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < bits.size(); i += 4) {
    text += kHex[bits[i] << 3 | bits[i + 1] << 2 | bits[i + 2] << 1 | bits[i + 3]];
  }
  return text;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::string hex_u64(uint64_t value) { return fmt::format("{:016x}", value); }

// Sorted keys, no spaces: what the checksum is taken of.
Expected<std::string> body_checksum(const Json& body) {
  const nlohmann::json sorted = body;
  Sha256 hash;
  hash.update(sorted.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  return hash.finish_hex();
}

class MaskReader {
 public:
  explicit MaskReader(const Json& file) : file_(file) {}

  Expected<ChannelMask> read() {
    PARE_RETURN_IF_ERROR(check_header());
    PARE_RETURN_IF_ERROR(check_checksum());
    ChannelMask mask;
    PARE_ASSIGN_OR_RETURN(const int64_t layers, integer("layers"));
    PARE_ASSIGN_OR_RETURN(const int64_t kv_heads, integer("kv_heads"));
    PARE_ASSIGN_OR_RETURN(const int64_t head_dim, integer("head_dim"));
    PARE_RETURN_IF_ERROR(check_sizes(layers, kv_heads, head_dim));
    mask.n_layers = static_cast<int32_t>(layers);
    mask.n_kv_heads = static_cast<int32_t>(kv_heads);
    mask.head_dim = static_cast<int32_t>(head_dim);
    PARE_RETURN_IF_ERROR(read_order());
    PARE_RETURN_IF_ERROR(read_hash(&mask));
    if (version_ == kGatedVersion) {
      const auto gates = file_.find("min_tokens");
      if (gates == file_.end()) return data_loss("min_tokens: missing");
      PARE_ASSIGN_OR_RETURN(mask.min_tokens, gates_of_json(*gates));
    }
    PARE_ASSIGN_OR_RETURN(mask.provenance, text("provenance"));
    if (static_cast<int64_t>(mask.provenance.size()) > kMaxMaskProvenanceBytes) {
      return limit_exceeded(
          fmt::format("provenance: {} bytes, limit {}", mask.provenance.size(), kMaxMaskProvenanceBytes));
    }
    PARE_RETURN_IF_ERROR(read_heads(&mask));
    return mask;
  }

 private:
  // What the file is and that nothing in it is unknown: a field of a later version may change what the others mean.
  Status check_header() {
    if (!file_.is_object()) return data_loss("not a JSON object");
    const auto format = file_.find("format");
    if (format == file_.end() || *format != kFormat) {
      return data_loss(fmt::format("format: not \"{}\"", kFormat));
    }
    PARE_ASSIGN_OR_RETURN(version_, integer("version"));
    if (version_ != kVersion && version_ != kGatedVersion) {
      return unsupported(fmt::format("version: {}, only {} and {} are read", version_, kVersion, kGatedVersion));
    }
    constexpr std::string_view kKnown[] = {"format", "version",       "model_hash", "layers", "kv_heads", "head_dim",
                                           "rope",   "channel_order", "provenance", "kept",   "alpha",    "sha256"};
    for (const auto& [name, value] : file_.items()) {
      const bool gates = version_ == kGatedVersion && name == "min_tokens";
      if (!gates && std::find(std::begin(kKnown), std::end(kKnown), name) == std::end(kKnown)) {
        return data_loss(fmt::format("{}: no such field", quote_name(name)));
      }
    }
    return ok_status();
  }

  Status check_checksum() {
    PARE_ASSIGN_OR_RETURN(const std::string told, text("sha256"));
    if (!is_sha256_hex(told)) return data_loss("sha256: not 64 lower-case hex digits");
    Json body = file_;
    body.erase("sha256");
    PARE_ASSIGN_OR_RETURN(const std::string found, body_checksum(body));
#ifndef PARE_FAULT_IO_MASK_CHECKSUM
    if (found != told) return data_loss(fmt::format("sha256: the file says {}, its body has {}", told, found));
#endif
    return ok_status();
  }

  Status read_order() {
    PARE_ASSIGN_OR_RETURN(const std::string rope, text("rope"));
    if (rope != kHalfSplitName) {
      return unsupported(fmt::format("rope: {}, only '{}' is known", quote_name(rope), kHalfSplitName));
    }
    PARE_ASSIGN_OR_RETURN(const std::string order, text("channel_order"));
    if (order != kHalfSplitName && order != kInterleavedName) {
      return unsupported(
          fmt::format("channel_order: {}, not '{}' or '{}'", quote_name(order), kHalfSplitName, kInterleavedName));
    }
#ifndef PARE_FAULT_IO_MASK_ORDER
    interleaved_ = order == kInterleavedName;
#endif
    return ok_status();
  }

  Status read_hash(ChannelMask* mask) {
    if (!file_.contains("model_hash")) return ok_status();
    PARE_ASSIGN_OR_RETURN(const std::string hash, text("model_hash"));
    const auto [end, error] = std::from_chars(hash.data(), hash.data() + hash.size(), mask->model_hash, 16);
    if (hash.size() != 16 || error != std::errc() || end != hash.data() + hash.size() ||
        hash_text_differs(hash, mask->model_hash)) {
      return data_loss(fmt::format("model_hash: {} is not 16 lower-case hex digits", quote_name(hash)));
    }
    return ok_status();
  }

  static bool hash_text_differs(const std::string& text, uint64_t value) { return text != hex_u64(value); }

  Status read_heads(ChannelMask* mask) {
    PARE_ASSIGN_OR_RETURN(const Json* kept, heads_of("kept", *mask));
    const Json* alpha = nullptr;
    if (file_.contains("alpha")) {
      PARE_ASSIGN_OR_RETURN(alpha, heads_of("alpha", *mask));
    }
    mask->heads.reserve(static_cast<size_t>(mask->n_layers) * mask->n_kv_heads);
    for (int32_t l = 0; l < mask->n_layers; ++l) {
      for (int32_t h = 0; h < mask->n_kv_heads; ++h) {
        auto head = read_head((*kept)[l][h].get_ref<const std::string&>(),
                              alpha ? &(*alpha)[l][h].get_ref<const std::string&>() : nullptr, mask->head_dim);
        if (!head.ok()) return head.status().with_context(head_name(l, h));
        mask->heads.push_back(std::move(*head));
      }
    }
    return ok_status();
  }

  // A list for each layer with a text for each head.
  Expected<const Json*> heads_of(std::string_view field, const ChannelMask& mask) {
    const auto found = file_.find(field);
    if (found == file_.end() || !found->is_array()) return data_loss(fmt::format("{}: not a list", field));
    if (found->size() != static_cast<size_t>(mask.n_layers)) {
      return data_loss(fmt::format("{}: {} layers, `layers` says {}", field, found->size(), mask.n_layers));
    }
    for (size_t l = 0; l < found->size(); ++l) {
      const Json& layer = (*found)[l];
      if (!layer.is_array() || layer.size() != static_cast<size_t>(mask.n_kv_heads)) {
        return data_loss(fmt::format("{}: layer {} has {} heads, `kv_heads` says {}", field, l,
                                     layer.is_array() ? layer.size() : 0, mask.n_kv_heads));
      }
      for (const Json& head : layer) {
        if (!head.is_string()) return data_loss(fmt::format("{}: layer {}: not a text", field, l));
      }
    }
    return &*found;
  }

  Expected<std::vector<Channel>> read_head(const std::string& kept, const std::string* alpha, int32_t head_dim) {
    if (static_cast<int64_t>(kept.size()) != head_dim / 4) {
      return data_loss(fmt::format("kept: {} hex digits, head_dim {} takes {}", kept.size(), head_dim, head_dim / 4));
    }
    std::vector<Channel> channels;
    for (int32_t i = 0; i < head_dim; ++i) {
      const int digit = hex_digit(kept[i / 4]);
      if (digit < 0) return data_loss(fmt::format("kept: {} is not lower-case hex", quote_name(kept)));
      if ((digit >> (3 - i % 4) & 1) == 0) continue;
      const int32_t id = interleaved_ ? half_split_channel(i, head_dim) : i;
      channels.push_back({static_cast<uint16_t>(id), 1.0f});
    }
    // Weights stand in the file's order of channels, like the bits.
    if (alpha != nullptr && !alpha->empty()) {
      if (alpha->size() != 4 * channels.size()) {
        return data_loss(fmt::format("alpha: {} hex digits, {} kept channels take {}", alpha->size(), channels.size(),
                                     4 * channels.size()));
      }
      for (size_t i = 0; i < channels.size(); ++i) {
        uint16_t bits = 0;
        for (size_t j = 0; j < 4; ++j) {
          const int digit = hex_digit((*alpha)[4 * i + j]);
          if (digit < 0) return data_loss("alpha: not lower-case hex");
          bits = static_cast<uint16_t>(bits << 4 | digit);
        }
        channels[i].alpha = half_to_float(bits);
      }
    }
    std::sort(channels.begin(), channels.end(), [](const Channel& a, const Channel& b) { return a.id < b.id; });
    if (const Status status = check_head(channels, head_dim); !status.ok()) return status.with_context("kept");
    return channels;
  }

  Expected<int64_t> integer(std::string_view name) {
    const auto found = file_.find(name);
    if (found == file_.end()) return data_loss(fmt::format("{}: missing", name));
    if (!found->is_number_integer() || (found->is_number_unsigned() && found->get<uint64_t>() > INT32_MAX)) {
      return data_loss(fmt::format("{}: not an integer that fits 32 bits", name));
    }
    return found->get<int64_t>();
  }

  Expected<std::string> text(std::string_view name) {
    const auto found = file_.find(name);
    if (found == file_.end()) return data_loss(fmt::format("{}: missing", name));
    if (!found->is_string()) return data_loss(fmt::format("{}: not a text", name));
    return found->get<std::string>();
  }

  const Json& file_;
  int64_t version_ = 0;
  bool interleaved_ = false;
};

// The artefact of the released trainer: ones and zeros [layers, KV heads, head_dim], channels half-split.
Expected<ChannelMask> mask_of_tensor(const TorchTensor& tensor, std::string provenance) {
  if (tensor.shape.size() != 3) {
    return data_loss(
        fmt::format("a tensor of {} dimensions, a mask has [layers, KV heads, head_dim]", tensor.shape.size()));
  }
  PARE_RETURN_IF_ERROR(check_sizes(tensor.shape[0], tensor.shape[1], tensor.shape[2]));
  ChannelMask mask;
  mask.n_layers = static_cast<int32_t>(tensor.shape[0]);
  mask.n_kv_heads = static_cast<int32_t>(tensor.shape[1]);
  mask.head_dim = static_cast<int32_t>(tensor.shape[2]);
  mask.provenance = std::move(provenance);
  const float* value = tensor.values.data();
  for (int32_t l = 0; l < mask.n_layers; ++l) {
    for (int32_t h = 0; h < mask.n_kv_heads; ++h) {
      std::vector<Channel> kept;
      for (int32_t c = 0; c < mask.head_dim; ++c, ++value) {
        if (*value == 1.0f) {
          kept.push_back({static_cast<uint16_t>(c), 1.0f});
        } else if (*value != 0.0f) {
          return data_loss(fmt::format("{}, channel {}: {} is neither 0 nor 1", head_name(l, h), c, *value));
        }
      }
      if (const Status status = check_head(kept, mask.head_dim); !status.ok()) {
        return status.with_context(head_name(l, h));
      }
      mask.heads.push_back(std::move(kept));
    }
  }
  return mask;
}

}  // namespace

Status check_channel_mask(const ChannelMask& mask) {
  PARE_RETURN_IF_ERROR(check_sizes(mask.n_layers, mask.n_kv_heads, mask.head_dim));
  PARE_RETURN_IF_ERROR(check_gates(mask.min_tokens));
  const size_t heads = static_cast<size_t>(mask.n_layers) * mask.n_kv_heads;
  if (mask.heads.size() != heads) {
    return data_loss(fmt::format("heads: {} lists, {} layers of {} KV heads take {}", mask.heads.size(), mask.n_layers,
                                 mask.n_kv_heads, heads));
  }
  for (int32_t l = 0; l < mask.n_layers; ++l) {
    for (int32_t h = 0; h < mask.n_kv_heads; ++h) {
      if (const Status status = check_head(mask.head(l, h), mask.head_dim); !status.ok()) {
        return status.with_context(head_name(l, h));
      }
    }
  }
  return ok_status();
}

Expected<ChannelMask> read_channel_mask(std::span<const std::byte> bytes, std::string_view source) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("PK")) {
    PARE_ASSIGN_OR_RETURN(const TorchTensor tensor, read_torch_tensor(bytes));
    Sha256 hash;
    hash.update(text);
    PARE_ASSIGN_OR_RETURN(const std::string digest, hash.finish_hex());
    return mask_of_tensor(tensor, fmt::format("imported from {} (SHA-256 {})", quote_name(source), digest));
  }
  if (static_cast<int64_t>(bytes.size()) > kMaxMaskFileBytes) {
    return limit_exceeded(fmt::format("a mask file of {} bytes, limit {}", bytes.size(), kMaxMaskFileBytes));
  }
  PARE_ASSIGN_OR_RETURN(const Json file, parse_json(text));
  return MaskReader(file).read();
}

Expected<ChannelMask> read_channel_mask(const std::filesystem::path& path) {
  PARE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  auto mask = read_channel_mask(file.bytes(), path.filename().string());
  if (!mask.ok()) return mask.status().with_context(path.string());
  return mask;
}

Expected<std::string> format_channel_mask(const ChannelMask& mask, ChannelOrder order) {
  if (const Status status = check_channel_mask(mask); !status.ok()) {
    return invalid_argument(std::string(status.message()));
  }
  if (static_cast<int64_t>(mask.provenance.size()) > kMaxMaskProvenanceBytes) {
    return invalid_argument(
        fmt::format("provenance: {} bytes, limit {}", mask.provenance.size(), kMaxMaskProvenanceBytes));
  }
  const bool interleaved = order == ChannelOrder::kInterleaved;
  bool weighted = false;
  Json kept = Json::array(), alpha = Json::array();
  for (int32_t l = 0; l < mask.n_layers; ++l) {
    Json kept_layer = Json::array(), alpha_layer = Json::array();
    for (int32_t h = 0; h < mask.n_kv_heads; ++h) {
      std::vector<uint8_t> bits(mask.head_dim, 0);
      std::vector<float> alphas(mask.head_dim, 1.0f);
      for (const Channel& c : mask.head(l, h)) {
        const int32_t place = interleaved ? interleaved_channel(c.id, mask.head_dim) : c.id;
        bits[place] = 1;
        alphas[place] = c.alpha;
      }
      std::string weights;
      bool head_weighted = false;
      for (int32_t i = 0; i < mask.head_dim; ++i) {
        if (bits[i] == 0) continue;
        weights += fmt::format("{:04x}", float_to_half(alphas[i]));
        head_weighted |= alphas[i] != 1.0f;
      }
      kept_layer.push_back(hex_bitmap(bits));
      alpha_layer.push_back(head_weighted ? weights : std::string());
      weighted |= head_weighted;
    }
    kept.push_back(std::move(kept_layer));
    alpha.push_back(std::move(alpha_layer));
  }

  Json body{{"format", kFormat}, {"version", mask.min_tokens.empty() ? kVersion : kGatedVersion}};
  if (mask.model_hash != 0) body["model_hash"] = hex_u64(mask.model_hash);
  body["layers"] = mask.n_layers;
  body["kv_heads"] = mask.n_kv_heads;
  body["head_dim"] = mask.head_dim;
  body["rope"] = kHalfSplitName;
  body["channel_order"] = interleaved ? kInterleavedName : kHalfSplitName;
  if (!mask.min_tokens.empty()) body["min_tokens"] = json_of_gates(mask.min_tokens);
  body["provenance"] = mask.provenance;
  body["kept"] = std::move(kept);
  if (weighted) body["alpha"] = std::move(alpha);
  PARE_ASSIGN_OR_RETURN(body["sha256"], body_checksum(body));

  // A line a field, and in the long ones a line a layer, so that differences between masks can be read.
  std::string text = "{\n";
  for (const auto& [name, value] : body.items()) {
    const auto dump = [](const Json& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); };
    text += fmt::format(" \"{}\": ", name);
    if (value.is_array()) {
      text += "[\n";
      for (size_t l = 0; l < value.size(); ++l)
        text += fmt::format("  {}{}\n", dump(value[l]), l + 1 < value.size() ? "," : "");
      text += " ]";
    } else {
      text += dump(value);
    }
    text += name == "sha256" ? "\n" : ",\n";
  }
  return text + "}\n";
}

Status write_channel_mask(const std::filesystem::path& path, const ChannelMask& mask, ChannelOrder order) {
  PARE_ASSIGN_OR_RETURN(const std::string text, format_channel_mask(mask, order));
  PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  PARE_RETURN_IF_ERROR(file.write(std::string_view(text)));
  return file.commit();
}

}  // namespace pare
