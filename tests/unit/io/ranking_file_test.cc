// Layer rankings on disk: what is written comes back, and nothing else passes.
#include "io/ranking_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "../../scratch_folder.h"
#include "base/limits.h"
#include "base/rng.h"
#include "io/json.h"
#include "io/sha256.h"

namespace pare {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

LayerRanking some_ranking() {
  LayerRanking r;
  r.layers = {3, 0, 2, 1};
  r.recommended = 2;
  r.min_tokens = {{"cpu-avx2", 648}, {"cuda-sm90", 16'777'216}};
  r.model_hash = 0xfedcba9876543210u;
  r.provenance = R"({"method":"by hand","seed":7,"share":0.25})";
  return r;
}

void expect_same(const LayerRanking& a, const LayerRanking& b) {
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.recommended, b.recommended);
  EXPECT_EQ(a.min_tokens, b.min_tokens);
  EXPECT_EQ(a.model_hash, b.model_hash);
  EXPECT_EQ(a.provenance, b.provenance);
}

TEST(RankingFile, ComesBack) {
  const std::string text = print_ranking(some_ranking()).value();
  const auto back = parse_ranking(text);
  ASSERT_TRUE(back.ok()) << back.status().message();
  expect_same(*back, some_ranking());
  EXPECT_EQ(print_ranking(*back).value(), text);
  LayerRanking plain = some_ranking();
  plain.provenance = "caf\xff \"quoted\"\n";
  plain.min_tokens.clear();
  plain.recommended = 0;
  EXPECT_EQ(parse_ranking(print_ranking(plain).value())->provenance,
            "{\"note\":\"caf\xef\xbf\xbd \\\"quoted\\\"\\n\"}");
}

TEST(RankingFile, IsWrittenAndReadAtAPath) {
  const test::ScratchFolder folder;
  const auto path = folder / "ranking.json";
  ASSERT_TRUE(write_ranking_file(path, some_ranking()).ok());
  expect_same(read_ranking_file(path).value(), some_ranking());
  std::ofstream(path) << "{}";
  EXPECT_THAT(std::string(read_ranking_file(path).status().message()), HasSubstr(path.string()));
  std::filesystem::remove(path);
  EXPECT_EQ(read_ranking_file(path).status().code(), StatusCode::kNotFound);
  LayerRanking bad = some_ranking();
  bad.layers[0] = 0;
  EXPECT_FALSE(write_ranking_file(path, bad).ok());
  EXPECT_FALSE(std::filesystem::exists(path));
}

// A text with one field changed and a checksum that fits it.
std::string changed(const std::function<void(Json&)>& change) {
  Json file = *parse_json(print_ranking(some_ranking()).value());
  file.erase("checksum");
  change(file);
  Sha256 sha;
  sha.update(file.dump());
  if (!file.contains("checksum")) file["checksum"] = sha.finish_hex().value();
  return file.dump();
}
Status status_of(const std::function<void(Json&)>& change) { return parse_ranking(changed(change)).status(); }

TEST(RankingFile, MistakesNameTheField) {
  ASSERT_TRUE(status_of([](Json&) {}).ok()) << status_of([](Json&) {}).message();
  const auto message = [](const std::function<void(Json&)>& change) {
    const Status status = status_of(change);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  };
  EXPECT_EQ(status_of([](Json& f) { f["version"] = 2; }).code(), StatusCode::kUnsupported);
  EXPECT_EQ(status_of([](Json& f) { f["version"] = "1"; }).code(), StatusCode::kUnsupported);
  EXPECT_THAT(message([](Json& f) { f["format"] = "pare channel mask"; }), HasSubstr("format"));
  EXPECT_THAT(message([](Json& f) { f["checksum"] = std::string(64, '0'); }), HasSubstr("checksum"));
  EXPECT_THAT(message([](Json& f) { f["checksum"] = 5; }), HasSubstr("checksum"));
  EXPECT_THAT(message([](Json& f) { f["model_hash"] = "xyz"; }), HasSubstr("model_hash"));
  EXPECT_THAT(message([](Json& f) { f["model_hash"] = 17; }), HasSubstr("model_hash"));
  EXPECT_THAT(message([](Json& f) { f["model_hash"] = "-edcba9876543210"; }), HasSubstr("model_hash"));
  EXPECT_THAT(message([](Json& f) { f["n_layers"] = 5; }), HasSubstr("ranking"));
  EXPECT_THAT(message([](Json& f) { f["n_layers"] = 1e18; }), HasSubstr("n_layers"));
  EXPECT_THAT(message([](Json& f) { f["n_layers"] = -1; }), HasSubstr("n_layers"));
  EXPECT_THAT(message([](Json& f) { f["ranking"] = {0, 1, 2, 2}; }), HasSubstr("ranking: layer 2 twice"));
  EXPECT_THAT(message([](Json& f) { f["ranking"] = {0, 1, 2, 4}; }), HasSubstr("ranking: layer 4 of 4"));
  EXPECT_THAT(message([](Json& f) { f["ranking"] = {0, 1, 2, -3}; }), HasSubstr("ranking"));
  EXPECT_THAT(message([](Json& f) { f["ranking"] = {0, 1, 2, 3.0}; }), HasSubstr("ranking"));
  EXPECT_THAT(message([](Json& f) { f["ranking"] = "0123"; }), HasSubstr("ranking"));
  EXPECT_THAT(message([](Json& f) {
                f["ranking"] = Json::array();
                f["n_layers"] = 0;
                f["recommended"] = 0;
              }),
              HasSubstr("ranking: 0 layers"));
  EXPECT_THAT(message([](Json& f) { f["recommended"] = 5; }), HasSubstr("recommended: 5 of 4"));
  EXPECT_THAT(message([](Json& f) { f["recommended"] = true; }), HasSubstr("recommended"));
  EXPECT_THAT(message([](Json& f) { f["min_tokens"] = {{"cpu", -1}}; }), HasSubstr("min_tokens"));
  EXPECT_THAT(message([](Json& f) { f["min_tokens"] = {{"cpu", 16'777'217}}; }), HasSubstr("min_tokens"));
  EXPECT_THAT(message([](Json& f) { f["min_tokens"] = {{"C P U", 1}}; }), HasSubstr("is no device class"));
  EXPECT_THAT(message([](Json& f) { f["min_tokens"] = {{std::string(65, 'c'), 1}}; }), HasSubstr("device class"));
  EXPECT_THAT(message([](Json& f) {
                for (int i = 0; i < 65; ++i) f["min_tokens"][std::to_string(i)] = 1;
              }),
              HasSubstr("min_tokens: more than 64"));
  EXPECT_THAT(message([](Json& f) { f["min_tokens"] = 3; }), HasSubstr("min_tokens"));
  EXPECT_THAT(message([](Json& f) { f["provenance"] = "by hand"; }), HasSubstr("provenance"));
  EXPECT_THAT(message([](Json& f) { f["more"] = 1; }), HasSubstr("'more': is no field"));
  for (const char* field :
       {"format", "version", "model_hash", "n_layers", "ranking", "recommended", "min_tokens", "provenance"}) {
    EXPECT_THAT(message([&](Json& f) { f.erase(field); }), HasSubstr(field));
  }
  for (const char* text : {"[]", "7", "null", "{}"}) {
    EXPECT_THAT(std::string(parse_ranking(text).status().message()), HasSubstr("format"));
  }
}

TEST(RankingFile, NoDamagePasses) {
  const std::string text = print_ranking(some_ranking()).value();
  for (size_t n = 0; n < text.size() - 1; ++n) EXPECT_FALSE(parse_ranking(text.substr(0, n)).ok()) << n;
  Philox rng(5);
  int refused = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    std::string damaged = text;
    const size_t at = rng.below(static_cast<uint32_t>(text.size()));
    damaged[at] = static_cast<char>(rng.below(256));
    const auto parsed = parse_ranking(damaged);
    refused += !parsed.ok();
    if (parsed.ok()) expect_same(*parsed, some_ranking());  // white space
  }
  EXPECT_GT(refused, 2500);
  const std::string huge(kMaxRankingFileBytes + 1, ' ');
  EXPECT_EQ(parse_ranking(huge).status().code(), StatusCode::kLimitExceeded);
  EXPECT_FALSE(parse_ranking(std::string(100, '[')).ok());
}

}  // namespace
}  // namespace pare
