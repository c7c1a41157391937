// `pare bench attention|kv --write-gate`: a crossover is measured and put into the policy's file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "model_files.h"
#include "process.h"

namespace pare::test {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

constexpr int32_t kNever = 16'777'216;

// What the report says follows from its own lines.
void expect_consistent(const Json& report, const char* length) {
  EXPECT_EQ(report["allowance"], 0.05);
  Json crossover = nullptr;
  for (auto line = report["lines"].rbegin(); line != report["lines"].rend(); ++line) {
    const double ratio = (*line)["ratio"].get<double>();
    EXPECT_GT(ratio, 0.0);
    EXPECT_EQ((*line)["verdict"], ratio <= 1.0 ? "pays" : ratio <= 1.05 ? "even" : "slower");
    if (ratio > 1.05) break;
    crossover = (*line)[length];
  }
  EXPECT_EQ(report["crossover"], crossover);
}

TEST(WriteGate, Mask) {
  const ScratchFolder folder;
  const std::string mask = folder / "m.json", spec = "leank(sink=4,recent=64,flush=64,mask=" + mask;
  pare_json({"tune", "leank", tiny_model("llama"), "-o", mask, "--tokens", "100"});
  const Json before = pare_json({"inspect", "mask", mask});
  EXPECT_EQ(before["min_tokens"], Json::object());
  const std::string heads = std::to_string(before["kv_heads"].get<int>());
  const std::string shape = heads + "/" + heads + "/" + std::to_string(before["head_dim"].get<int>());
  const std::vector<std::string> bench = {
      "bench",    "kv", "--shape",   shape, "--layers",  std::to_string(before["layers"].get<int>()),
      "--rounds", "3",  "--threads", "1",   "--lengths", "256,512"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), bench.begin(), bench.end());
    return more;
  };
  const Json report = pare_json(with({"--kv", spec + ")", "--write-gate", mask}));
  expect_consistent(report, "rows");
  const Json gate = report["gate"];
  EXPECT_EQ(gate["file"], mask);
  EXPECT_EQ(gate["min_tokens"], report["crossover"].is_null() ? Json(kNever) : report["crossover"]);
  EXPECT_EQ(gate["model_hash"], before["model_hash"]);
  EXPECT_EQ(gate["model_checked"], false);
  EXPECT_EQ(folder.entries(), std::vector<std::string>{"m.json"});

  const std::string device = report["device_class"];
  Json after = pare_json({"inspect", "mask", mask});
  EXPECT_EQ(after["min_tokens"], Json({{device, gate["min_tokens"]}}));
  EXPECT_THAT(after["provenance"].get<std::string>(), HasSubstr("\nmin_tokens of " + device + ": pare bench kv"));
  EXPECT_THAT(run_pare({"inspect", "mask", mask}).out, HasSubstr("rows stay whole below"));
  EXPECT_EQ(after["widths"], before["widths"]);
  // From now on the number is in force, and named; and measured anew without it.
  const Json gated = pare_json(with({"--kv", spec + ")"}));
  EXPECT_THAT(gated["kv"].get<std::string>(), HasSubstr("min_tokens=" + gate["min_tokens"].dump() + ")"));
  EXPECT_FALSE(gated.contains("gate"));
  const Json again = pare_json(with({"--kv", spec + ")", "--write-gate", mask}));
  EXPECT_THAT(again["kv"].get<std::string>(), HasSubstr("min_tokens=0)"));

  expect_error(with({"--kv", spec + ",min_tokens=300)", "--write-gate", mask}), 2, {"min_tokens is 300"});
  expect_error(with({"--kv", "leank", "--write-gate", mask}), 2, {"no mask"});
  expect_error(with({"--kv", "dense", "--write-gate", mask}), 2, {"no mask"});
  const std::string other = folder / "other.json";
  pare_json({"tune", "leank", tiny_model("llama"), "-o", other, "--tokens", "100", "--keep", "1"});
  expect_error(with({"--kv", spec + ")", "--write-gate", other}), 2, {"another mask"});
  const std::string pth = source_path("tests/data/leank/llama3.1-8b-instruct.pth");
  expect_error(with({"--kv", spec + ")", "--write-gate", pth}), 2, {".pth"});
}

TEST(WriteGate, Ranking) {
  const ScratchFolder folder;
  const std::string ranking = folder / "r.json";
  std::filesystem::copy_file(source_path("configs/triangle-smollm2-135m-instruct.json"), ranking);
  std::filesystem::permissions(ranking, std::filesystem::perms::owner_all);
  const std::vector<std::string> bench = {"bench",     "attention", "--shape",       "2/1/32", "--lengths",    "64,512",
                                          "--threads", "1",         "--repetitions", "1",      "--write-gate", ranking};
  const auto with = [&](const std::string& attn) {
    std::vector<std::string> all = bench;
    all.insert(all.end(), {"--attn", attn});
    return all;
  };
  const Json report = pare_json(with("triangle(sink=4,window=32,last=32)"));
  expect_consistent(report, "tokens");
  const std::string device = report["device_class"];
  const Json file = Json::parse(read_whole(ranking));
  EXPECT_EQ(file["min_tokens"][device], report["gate"]["min_tokens"]);
  EXPECT_EQ(file["model_hash"], report["gate"]["model_hash"]);
  EXPECT_THAT(file["provenance"]["min_tokens_measured"][device].get<std::string>(),
              HasSubstr("pare bench attention, 2/1/32, 1 pairs"));
  // The file is whole: its reader finds the gate.
  const Json spec = pare_json({"inspect", "spec", "attn=triangle(ranking=" + ranking + ")"});
  EXPECT_TRUE(spec["legal"].get<bool>());
  expect_error(with("triangle(min_tokens=100)"), 2, {"min_tokens is above 64"});
  expect_error(with("streaming"), 2, {"takes no gate"});
}

}  // namespace
}  // namespace pare::test
