// Channel mask files: the published masks by the numbers that were counted from them independently, pare's own format
// there and back, and every refusal.
#include "io/mask_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "base/rng.h"
#include "io/sha256.h"
#include "plan/mask_statistics.h"
#include "torch_test_files.h"

namespace pare {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

MaskStatistics published(const char* name) {
  const auto mask = read_channel_mask(source_path("tests/data/leank") / name);
  EXPECT_TRUE(mask.ok()) << mask.status().to_string();
  EXPECT_NE(mask->provenance.find(name), std::string::npos) << mask->provenance;
  EXPECT_TRUE(check_channel_mask(*mask).ok());
  return mask_statistics(*mask);
}

double tenth_percent(double share) { return std::round(share * 1000.0) / 10.0; }

TEST(PublishedMask, Llama) {
  const MaskStatistics s = published("llama3.1-8b-instruct.pth");
  EXPECT_EQ(s.widths, (std::map<int32_t, int32_t>{{0, 47}, {32, 120}, {64, 67}, {96, 22}}));
  EXPECT_EQ(s.layers_by_widths, (std::map<int32_t, int32_t>{{1, 2}, {2, 16}, {3, 14}}));
  EXPECT_EQ(s.heads_empty, 47);
  EXPECT_EQ(s.heads_full, 0);
  EXPECT_EQ(s.kept_fraction(), 0.3125);
  EXPECT_EQ(tenth_percent(s.quartile_keep_rate[0]), 4.6);
  EXPECT_EQ(tenth_percent(s.quartile_keep_rate[1]), 13.8);
  EXPECT_EQ(tenth_percent(s.quartile_keep_rate[2]), 46.6);
  EXPECT_EQ(tenth_percent(s.quartile_keep_rate[3]), 60.0);
  EXPECT_EQ(tenth_percent(s.frequency_keep_rate[22]), 35.9);
  EXPECT_LT(s.frequency_keep_rate[21], 0.15);
  EXPECT_LT(s.frequency_keep_rate[23], 0.15);
  EXPECT_EQ(s.pairs_both, 3943);
  EXPECT_EQ(s.pairs_one, 2354);
  EXPECT_EQ(tenth_percent(s.kept_fraction_paired()), 38.4);
}

TEST(PublishedMask, Qwen) {
  const MaskStatistics s = published("qwen2.5-7b-insturct.pth");
  EXPECT_EQ(s.widths, (std::map<int32_t, int32_t>{{0, 35}, {32, 34}, {64, 33}, {96, 10}}));
  EXPECT_EQ(s.layers_by_widths, (std::map<int32_t, int32_t>{{0, 1}, {1, 12}, {2, 10}, {3, 5}}));
  EXPECT_EQ(tenth_percent(s.kept_fraction()), 29.0);
  EXPECT_EQ(tenth_percent(s.quartile_keep_rate[0]), 9.1);
  EXPECT_EQ(tenth_percent(s.quartile_keep_rate[1]), 18.3);
  EXPECT_EQ(tenth_percent(s.quartile_keep_rate[2]), 36.9);
  EXPECT_EQ(tenth_percent(s.quartile_keep_rate[3]), 51.8);
  EXPECT_EQ(tenth_percent(s.frequency_keep_rate[31]), 45.1);
  EXPECT_EQ(s.pairs_both, 1500);
  EXPECT_EQ(s.pairs_one, 1160);
  EXPECT_EQ(tenth_percent(s.kept_fraction_paired()), 37.1);
  // Layer 0 keeps nothing at all.
  const auto mask = read_channel_mask(source_path("tests/data/leank/qwen2.5-7b-insturct.pth"));
  for (int32_t h = 0; h < mask->n_kv_heads; ++h) EXPECT_TRUE(mask->head(0, h).empty());
}

ChannelMask random_mask(uint64_t seed) {
  Philox rng(seed);
  ChannelMask mask;
  mask.n_layers = 3;
  mask.n_kv_heads = 2;
  mask.head_dim = 64;
  mask.model_hash = 0x0123456789abcdefu;
  mask.provenance = "random \"quoted\" \xc3\xa9\n";
  for (int32_t i = 0; i < 6; ++i) {
    std::vector<uint16_t> ids(64);
    for (uint16_t c = 0; c < 64; ++c) ids[c] = c;
    for (uint32_t c = 63; c > 0; --c) std::swap(ids[c], ids[rng.below(c + 1)]);
    ids.resize(16 * static_cast<size_t>(i % 5));
    std::sort(ids.begin(), ids.end());
    std::vector<Channel> kept;
    for (const uint16_t id : ids)
      kept.push_back({id, i % 2 == 0 ? 1.0f : 0.0625f * static_cast<float>(1 + rng.below(16))});
    mask.heads.push_back(kept);
  }
  return mask;
}

void expect_equal(const ChannelMask& a, const ChannelMask& b) {
  EXPECT_EQ(a.n_layers, b.n_layers);
  EXPECT_EQ(a.n_kv_heads, b.n_kv_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.model_hash, b.model_hash);
  EXPECT_EQ(a.provenance, b.provenance);
  EXPECT_EQ(a.min_tokens, b.min_tokens);
  ASSERT_EQ(a.heads.size(), b.heads.size());
  for (size_t i = 0; i < a.heads.size(); ++i) {
    ASSERT_EQ(a.heads[i].size(), b.heads[i].size()) << i;
    for (size_t j = 0; j < a.heads[i].size(); ++j) {
      EXPECT_EQ(a.heads[i][j].id, b.heads[i][j].id);
      EXPECT_EQ(a.heads[i][j].alpha, b.heads[i][j].alpha);
    }
  }
}

TEST(ChannelOrders, AreInverseAndAsGgufPermutes) {
  // Half-split pairs (c, c + D/2) become neighbours (2c, 2c + 1).
  EXPECT_EQ(interleaved_channel(0, 8), 0);
  EXPECT_EQ(interleaved_channel(3, 8), 6);
  EXPECT_EQ(interleaved_channel(4, 8), 1);
  EXPECT_EQ(interleaved_channel(7, 8), 7);
  for (const int32_t d : {16, 64, 128, 256}) {
    for (int32_t c = 0; c < d; ++c) {
      EXPECT_EQ(half_split_channel(interleaved_channel(c, d), d), c);
      if (c < d / 2) {
        EXPECT_EQ(interleaved_channel(c, d) + 1, interleaved_channel(c + d / 2, d));
      }
    }
  }
}

TEST(MaskFile, RoundTripInBothOrders) {
  ScratchFolder folder;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const ChannelMask mask = random_mask(seed);
    for (const ChannelOrder order : {ChannelOrder::kHalfSplit, ChannelOrder::kInterleaved}) {
      ASSERT_TRUE(write_channel_mask(folder / "m.json", mask, order).ok());
      const auto read = read_channel_mask(folder / "m.json");
      ASSERT_TRUE(read.ok()) << read.status().to_string();
      expect_equal(mask, *read);
    }
  }
  EXPECT_EQ(folder.entries(), 1u) << "nothing is left beside the file";
}

// A mask without gates is the version that knows none.
TEST(MaskFile, GatesMakeASecondVersion) {
  ChannelMask mask = random_mask(3);
  EXPECT_THAT(*format_channel_mask(mask), HasSubstr("\"version\": 1,"));
  mask.min_tokens = {{"cuda-sm90", 8192}, {"cpu-avx2", 16'777'216}, {"cpu-amx", 0}};
  const std::string text = *format_channel_mask(mask);
  EXPECT_THAT(text, HasSubstr("\"version\": 2,"));
  EXPECT_THAT(text, HasSubstr("\"min_tokens\": {\"cuda-sm90\":8192,\"cpu-avx2\":16777216,\"cpu-amx\":0}"));
  const auto read = read_channel_mask(as_bytes(text), "");
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  expect_equal(mask, *read);
  EXPECT_EQ(*format_channel_mask(*read), text);
  mask.min_tokens = {{"H100", 1}};
  EXPECT_THAT(std::string(format_channel_mask(mask).status().message()), HasSubstr("min_tokens: 'H100'"));
}

TEST(MaskFile, InterleavedTextHasPairsAsNeighbours) {
  ChannelMask mask;
  mask.n_layers = mask.n_kv_heads = 1;
  mask.head_dim = 32;
  mask.heads.resize(1);
  for (uint16_t c = 0; c < 8; ++c) mask.heads[0].push_back({c, 1.0f});
  for (uint16_t c = 16; c < 24; ++c) mask.heads[0].push_back({c, 1.0f});
  EXPECT_NE(format_channel_mask(mask)->find("[\"ff00ff00\"]"), std::string::npos);
  EXPECT_NE(format_channel_mask(mask, ChannelOrder::kInterleaved)->find("[\"ffff0000\"]"), std::string::npos);
}

// The checksum as docs/formats/channel_mask.md defines it, by other means than the writer's.
std::string signed_text(Json body) {
  body.erase("sha256");
  Sha256 hash;
  hash.update(body.dump());
  body["sha256"] = *hash.finish_hex();
  return body.dump(2);
}

class MaskFileRefusals : public ::testing::Test {
 protected:
  void SetUp() override { good_ = Json::parse(*format_channel_mask(random_mask(1))); }
  // Signed anew unless told otherwise: a wrong field must be found whatever the checksum says.
  void expect_refused(const Json& file, StatusCode code, std::string_view text) {
    expect_refused_text(signed_text(file), code, text);
  }
  void expect_refused_text(const std::string& file, StatusCode code, std::string_view text) {
    write_whole(path_, file);
    const auto mask = read_channel_mask(path_);
    ASSERT_FALSE(mask.ok()) << text;
    EXPECT_EQ(mask.status().code(), code) << mask.status().to_string();
    EXPECT_NE(mask.status().message().find(text), std::string_view::npos) << mask.status().message();
    EXPECT_TRUE(mask.status().message().starts_with(path_.string() + ": ")) << mask.status().message();
  }
  Json with(const char* field, Json value) const {
    Json file = good_;
    file[field] = std::move(value);
    return file;
  }
  Json with_head(int layer, int head, const std::string& bits) const {
    Json file = good_;
    file["kept"][layer][head] = bits;
    file.erase("alpha");
    return file;
  }
  Json without(const char* field) const {
    Json file = good_;
    file.erase(field);
    return file;
  }

  ScratchFolder folder_;
  std::filesystem::path path_ = folder_ / "mask.json";
  Json good_;
};

TEST_F(MaskFileRefusals, AnotherLayoutOfTheSameBodyIsTheSameFile) {
  write_whole(path_, signed_text(good_));
  const auto mask = read_channel_mask(path_);
  ASSERT_TRUE(mask.ok()) << mask.status().to_string();
  expect_equal(*mask, random_mask(1));
}

TEST_F(MaskFileRefusals, NameTheField) {
  expect_refused(with("format", "mask"), StatusCode::kDataLoss, "format: not \"pare channel mask\"");
  expect_refused(with("version", 3), StatusCode::kUnsupported, "version: 3, only 1 and 2 are read");
  expect_refused(with("version", 2), StatusCode::kDataLoss, "min_tokens: missing");
  expect_refused(with("min_tokens", Json::object()), StatusCode::kDataLoss, "'min_tokens': no such field");
  const auto gates = [&](Json table) {
    Json file = with("version", 2);
    file["min_tokens"] = std::move(table);
    return file;
  };
  expect_refused(gates(3), StatusCode::kDataLoss, "min_tokens: expected an object");
  expect_refused(gates({{"cpu", -1}}), StatusCode::kDataLoss, "min_tokens: expected an integer");
  expect_refused(gates({{"cpu", 1.0}}), StatusCode::kDataLoss, "min_tokens: expected an integer");
  expect_refused(gates({{"cpu", 16'777'217}}), StatusCode::kDataLoss, "min_tokens: expected an integer");
  expect_refused(gates({{"C P U", 1}}), StatusCode::kDataLoss, "min_tokens: 'C P U' is no device class");
  expect_refused(gates({{std::string(65, 'c'), 1}}), StatusCode::kDataLoss, "is no device class");
  Json many = Json::object();
  for (int i = 0; i < 65; ++i) many[std::to_string(i)] = 1;
  expect_refused(gates(many), StatusCode::kDataLoss, "min_tokens: more than 64 device classes");
  expect_refused(with("rope", "interleaved"), StatusCode::kUnsupported, "rope: 'interleaved', only 'half-split'");
  expect_refused(with("channel_order", "sorted"), StatusCode::kUnsupported, "channel_order: 'sorted', not");
  expect_refused(with("model_hash", "0123"), StatusCode::kDataLoss, "model_hash: '0123' is not 16");
  expect_refused(with("model_hash", "0123456789ABCDEF"), StatusCode::kDataLoss, "model_hash");
  expect_refused(with("model_hash", 1), StatusCode::kDataLoss, "model_hash: not a text");
  expect_refused(with("layers", 4), StatusCode::kDataLoss, "kept: 3 layers, `layers` says 4");
  expect_refused(with("layers", 0), StatusCode::kLimitExceeded, "layers: 0 is not in [1, 1024]");
  expect_refused(with("layers", 1e30), StatusCode::kDataLoss, "layers: not an integer");
  expect_refused(with("kv_heads", 3), StatusCode::kDataLoss, "kept: layer 0 has 2 heads, `kv_heads` says 3");
  expect_refused(with("head_dim", 40), StatusCode::kDataLoss, "head_dim: 40 is not a multiple of 16");
  expect_refused(with("head_dim", 128), StatusCode::kDataLoss,
                 "layer 0, KV head 0: kept: 16 hex digits, head_dim 128 takes 32");
  expect_refused(with("head_dim", 1 << 20), StatusCode::kLimitExceeded, "head_dim: 1048576");
  expect_refused(with("provenance", std::string(kMaxMaskProvenanceBytes + 1, 'x')), StatusCode::kLimitExceeded,
                 "provenance: 16385 bytes");
  expect_refused(with("kept", Json::object()), StatusCode::kDataLoss, "kept: not a list");
  expect_refused(with("sparsity", 1), StatusCode::kDataLoss, "'sparsity': no such field");
  for (const char* field : {"version", "layers", "kv_heads", "head_dim", "rope", "channel_order", "provenance"}) {
    expect_refused(without(field), StatusCode::kDataLoss, std::string(field) + ": missing");
  }
  expect_refused(without("kept"), StatusCode::kDataLoss, "kept: not a list");
  Json huge = with("layers", 1024);
  huge["kv_heads"] = 1024;
  huge["head_dim"] = 1024;
  expect_refused(huge, StatusCode::kLimitExceeded, "layers x kv_heads x head_dim");
}

TEST_F(MaskFileRefusals, NameTheHead) {
  expect_refused(with_head(2, 1, "ff80000000000000"), StatusCode::kDataLoss,
                 "layer 2, KV head 1: kept: 9 kept channels, not a multiple of 16");
  expect_refused(with_head(2, 1, "gfff000000000000"), StatusCode::kDataLoss, "layer 2, KV head 1: kept: 'gfff");
  expect_refused(with_head(2, 1, "FFFF000000000000"), StatusCode::kDataLoss, "is not lower-case hex");
  Json file = good_;  // head 1 of layer 0 keeps 16 channels with weights
  file["alpha"][0][1] = std::string(60, '0');
  expect_refused(file, StatusCode::kDataLoss, "layer 0, KV head 1: alpha: 60 hex digits, 16 kept channels take 64");
  file["alpha"][0][1] = std::string(64, '0');
  expect_refused(file, StatusCode::kDataLoss, "layer 0, KV head 1: kept: alpha 0 is not in (0, 1]");
  file["alpha"][0][1] = std::string(64, '7');  // 30,576
  expect_refused(file, StatusCode::kDataLoss, "is not in (0, 1]");
  file["alpha"][0][1] = std::string(64, 'f');  // not a number
  expect_refused(file, StatusCode::kDataLoss, "is not in (0, 1]");
}

TEST_F(MaskFileRefusals, ChecksumCoversEveryField) {
  const std::string text = *format_channel_mask(random_mask(1));
  Json file = good_;
  file["provenance"] = "somebody else";
  expect_refused_text(file.dump(), StatusCode::kDataLoss, "sha256: the file says");
  file = good_;
  std::swap(file["kept"][0][1], file["kept"][2][1]);
  expect_refused_text(file.dump(), StatusCode::kDataLoss, "sha256: the file says");
  file = good_;
  file["sha256"] = "abc";
  expect_refused_text(file.dump(), StatusCode::kDataLoss, "sha256: not 64 lower-case hex digits");
  file.erase("sha256");
  expect_refused_text(file.dump(), StatusCode::kDataLoss, "sha256: missing");
  // Any digit of the maps.
  const size_t kept = text.find("\"kept\"");
  for (size_t i = kept; i < text.size(); ++i) {
    if (text[i] != '0') continue;
    std::string bad = text;
    bad[i] = '1';
    EXPECT_FALSE(read_channel_mask(as_bytes(bad), "").ok()) << i;
  }
  for (size_t i = 0; i < text.size(); i += 7) EXPECT_FALSE(read_channel_mask(as_bytes(text.substr(0, i)), "").ok());
}

TEST_F(MaskFileRefusals, TensorsThatAreNoMask) {
  const auto refused = [&](const std::vector<int32_t>& shape, const std::vector<float>& values, std::string_view text) {
    write_zip(path_, torch_members(float_pickle(shape).bytes(), float_bytes(values)));
    const auto mask = read_channel_mask(path_);
    ASSERT_FALSE(mask.ok()) << text;
    EXPECT_NE(mask.status().message().find(text), std::string_view::npos) << mask.status().message();
    EXPECT_TRUE(mask.status().message().starts_with(path_.string())) << mask.status().message();
  };
  std::vector<float> ones(32, 1.0f);
  refused({2, 16}, ones, "a tensor of 2 dimensions");
  refused({1, 4, 8}, ones, "head_dim: 8 is not a multiple of 16");
  refused({0, 2, 16}, {}, "layers: 0");
  ones[17] = 0.5f;
  refused({1, 2, 16}, ones, "layer 0, KV head 1, channel 1: 0.5 is neither 0 nor 1");
  ones[17] = 0.0f;
  refused({1, 2, 16}, ones, "layer 0, KV head 1: 15 kept channels, not a multiple of 16");
}

TEST(MaskModelCheck, NamesWhatDiffers) {
  const ChannelMask mask = random_mask(1);
  const MaskModel model{3, 2, 64, mask.model_hash};
  EXPECT_TRUE(check_mask_model(mask, model).ok());
  const auto message = [&](MaskModel m) { return std::string(check_mask_model(mask, m).message()); };
  EXPECT_EQ(message({4, 2, 64, mask.model_hash}), "layers: the mask has 3, the model 4");
  EXPECT_EQ(message({3, 8, 64, mask.model_hash}), "kv_heads: the mask has 2, the model 8");
  EXPECT_EQ(message({3, 2, 128, mask.model_hash}), "head_dim: the mask has 64, the model 128");
  EXPECT_EQ(message({3, 2, 64, 1}),
            "model_hash: the mask was made for 0123456789abcdef, the model is 0000000000000001");
  EXPECT_EQ(message({3, 2, 64, 0}), "");
  ChannelMask nameless = mask;
  nameless.model_hash = 0;
  EXPECT_TRUE(check_mask_model(nameless, {3, 2, 64, 1}).ok());
}

TEST(MaskWriter, RefusesWhatTheReaderWould) {
  ScratchFolder folder;
  const auto refused = [&](auto change, std::string_view text) {
    ChannelMask mask = random_mask(1);
    change(mask);
    const Status status = write_channel_mask(folder / "m.json", mask);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(text), std::string_view::npos) << status.message();
  };
  refused([](ChannelMask& m) { m.heads.pop_back(); }, "heads: 5 lists, 3 layers of 2 KV heads take 6");
  refused([](ChannelMask& m) { m.heads[1].pop_back(); }, "layer 0, KV head 1: 15 kept channels");
  refused([](ChannelMask& m) { std::swap(m.heads[1][0], m.heads[1][1]); }, "not ascending");
  refused([](ChannelMask& m) { m.heads[1][15].id = 64; }, "channel 64 of 64");
  refused([](ChannelMask& m) { m.heads[1][0].alpha = 0.0f; }, "alpha 0 is not in (0, 1]");
  refused([](ChannelMask& m) { m.heads[1][0].alpha = 0.3f; }, "is not fp16");
  refused([](ChannelMask& m) { m.head_dim = 24; }, "head_dim: 24");
  refused([](ChannelMask& m) { m.provenance = std::string(20'000, 'x'); }, "provenance: 20000 bytes");
  EXPECT_EQ(folder.entries(), 0u);
}

}  // namespace
}  // namespace pare
