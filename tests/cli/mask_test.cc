// `pare tune leank` and `pare inspect mask`, from a model to a mask and back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model_files.h"
#include "process.h"

namespace pare::test {
namespace {

using Json = nlohmann::json;

const std::string kLlama = tiny_model("llama"), kGemma = tiny_model("gemma3");

TEST(InspectMask, PublishedMasks) {
  const std::string llama = source_path("tests/data/leank/llama3.1-8b-instruct.pth");
  const Json mask = pare_json({"inspect", "mask", llama});
  EXPECT_EQ(mask["widths"], Json({{"0", 47}, {"32", 120}, {"64", 67}, {"96", 22}}));
  EXPECT_EQ(mask["layers"], 32);
  EXPECT_EQ(mask["kv_heads"], 8);
  EXPECT_EQ(mask["head_dim"], 128);
  EXPECT_EQ(mask["model_hash"], nullptr);
  EXPECT_EQ(mask["kept_fraction"], 0.3125);
  EXPECT_EQ(mask["pairs_kept_both"], 3943);
  EXPECT_EQ(mask["keep_rate_by_frequency"].size(), 64u);
  EXPECT_THAT(mask["provenance"].get<std::string>(), testing::HasSubstr("llama3.1-8b-instruct.pth"));
  const Json qwen = pare_json({"inspect", "mask", source_path("tests/data/leank/qwen2.5-7b-insturct.pth")});
  EXPECT_EQ(qwen["widths"], Json({{"0", 35}, {"32", 34}, {"64", 33}, {"96", 10}}));
  const ProcessResult text = run_pare({"inspect", "mask", llama});
  EXPECT_EQ(text.code, 0);
  EXPECT_THAT(text.out, testing::HasSubstr("keys kept 31.25 %"));

  const ScratchFolder folder;
  EXPECT_EQ(pare_json({"inspect", "mask", llama, "--svg", folder / "kept.svg"}), mask);
  EXPECT_THAT(read_whole(folder / "kept.svg"), testing::HasSubstr("<svg"));
  expect_error({"inspect", "mask", llama, "--svg", folder / "kept.svg"}, 2, {"kept.svg exists"});
  expect_error({"inspect", "mask", folder / "none.json"}, 2, {"none.json"});
  write_whole(folder / "bad.json", "{}");
  expect_error({"inspect", "mask", folder / "bad.json"}, 2, {"bad.json", "format"});
  expect_error({"inspect", "policies", "--svg", folder / "x.svg"}, 2, {"--svg"});
}

TEST(TuneLeank, WritesTheSameMaskWithAnyThreads) {
  const ScratchFolder folder;
  const Json one = pare_json({"tune", "leank", kGemma, "-o", folder / "1.json", "--tokens", "600", "--threads", "1"});
  EXPECT_EQ(one["widths"], Json({{"16", 1}, {"32", 5}})) << "five of six layers slide a window and keep everything";
  EXPECT_EQ(one["path"], folder / "1.json");
  pare_json({"tune", "leank", kGemma, "-o", folder / "2.json", "--tokens", "600", "--threads", "3"});
  EXPECT_EQ(read_whole(folder / "1.json"), read_whole(folder / "2.json"));
  EXPECT_EQ(folder.entries(), (std::vector<std::string>{"1.json", "2.json"}));

  Json again = pare_json({"inspect", "mask", folder / "1.json"});
  for (const auto& [field, value] : again.items()) EXPECT_EQ(value, one[field]) << field;
  EXPECT_TRUE(again["model_hash"].is_string());
  for (const char* word : {"method magnitude", "keep 0.5", "600 tokens", "model.gguf"}) {
    EXPECT_THAT(again["provenance"].get<std::string>(), testing::HasSubstr(word));
  }
}

TEST(TuneLeank, ReadsTexts) {
  const ScratchFolder folder;
  write_whole(folder / "a.txt", std::string(100, 'a'));
  write_whole(folder / "b.txt", "the quick brown fox jumps over the lazy dog, and again");
  const std::string out = folder / "m.json";
  const Json mask =
      pare_json({"tune", "leank", kGemma, "-o", out, "--file", folder / "a.txt", "--file", folder / "b.txt"});
  int64_t rows = 0;  // the first 16 of each prompt do not count
  for (const char* name : {"a.txt", "b.txt"}) {
    rows += pare_json({"tokenize", kGemma, "--file", folder / name})["count"].get<int64_t>() - 16;
  }
  EXPECT_EQ(mask["rows"], rows);
  expect_error({"tune", "leank", kGemma, "-o", out, "--file", folder / "a.txt"}, 2, {"m.json exists", "--force"});
  pare_json({"tune", "leank", kGemma, "-o", out, "--file", folder / "a.txt", "--force", "--method", "random"});
  write_whole(folder / "short.txt", "short");
  expect_error({"tune", "leank", kGemma, "-o", folder / "n.json", "--file", folder / "short.txt"}, 2, {"tokens"});
  write_whole(folder / "bad.txt", "\xff");
  expect_error({"tune", "leank", kGemma, "-o", folder / "n.json", "--file", folder / "bad.txt"}, 2, {"UTF-8"});
}

TEST(TuneLeank, RefusesWhatMakesNoSense) {
  const ScratchFolder folder;
  const std::string out = folder / "m.json";
  for (const char* keep : {"0", "-0.1", "1.5", "nan"}) {
    expect_error({"tune", "leank", kLlama, "-o", out, "--keep", keep}, 2, {"--keep", "(0, 1]"});
  }
  expect_error({"tune", "leank", kLlama, "-o", out, "--method", "learned"}, 2, {"--method"});
  expect_error({"tune", "leank", kLlama, "-o", folder / "no/m.json"}, 2, {"no such folder"});
  expect_error({"tune", "leank", tiny_model("bert"), "-o", out}, 2, {"encoder"});
  expect_error({"tune", "leank", kLlama}, 2, {"--out"});
  expect_error({"tune"}, 2, {"subcommand"});
  EXPECT_TRUE(folder.entries().empty());
}

}  // namespace
}  // namespace pare::test
