// convert and quantize: what is written loads, says the same, and appears whole or not at all.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "model_files.h"
#include "process.h"

namespace pare::test {
namespace {

const std::string kLlama = tiny_model("llama");

double nll_of(const std::string& model) {
  return pare_json(
      {"eval", "perplexity", model, "--file", source_path("README.md"), "--context", "64", "--chunks", "2"})["nll"];
}

// Bytes of every tensor, by name.
std::map<std::string, std::string> tensors_of(const std::string& path) {
  const std::string bytes = read_whole(path);
  const auto file = read_gguf(std::as_bytes(std::span(bytes)));
  EXPECT_TRUE(file.ok()) << file.status().to_string();
  std::map<std::string, std::string> tensors;
  if (!file.ok()) return tensors;
  for (const TensorEntry& entry : file->tensors) {
    tensors[entry.name] = std::string(reinterpret_cast<const char*>(entry.data.data()), entry.data.size());
  }
  return tensors;
}

TEST(Conversion, EveryWritableFormatLoadsAndSaysNearlyTheSame) {
  const ScratchFolder folder;
  const double exact = nll_of(kLlama);
  // Bounds on the change of the mean negative log-likelihood of a random model, in nats: what a format's step allows.
  const std::map<std::string, double> formats{{"F32", 0.0},   {"F16", 2e-3},   {"BF16", 2e-2}, {"Q8_0", 2e-2},
                                              {"Q6_K", 5e-2}, {"Q5_1", 0.1},   {"Q5_0", 0.1},  {"Q4_1", 0.3},
                                              {"Q4_0", 0.3},  {"Q4_K_S", 0.3}, {"Q4_K_M", 0.3}};
  for (const auto& [format, bound] : formats) {
    const std::string path = folder / (format + ".gguf");
    const nlohmann::json written = pare_json({"quantize", kLlama, path, format});
    EXPECT_EQ(written["path"], path);
    EXPECT_EQ(written["type"], format);
    EXPECT_EQ(written["bytes"], std::filesystem::file_size(path));
    EXPECT_LE(std::abs(nll_of(path) - exact), bound) << format;
  }
}

TEST(Conversion, ThereAndBackChangesNothingMore) {
  const ScratchFolder folder;
  for (const char* name : {"llama", "qwen2", "qwen3", "gemma3"}) {
    const testing::ScopedTrace trace(__FILE__, __LINE__, name);
    const std::string config = source_path("tests/data/tiny/" + std::string(name) + "/config.json");
    const auto path = [&](const char* what) { return folder / (std::string(name) + what); };
    pare_json({"quantize", tiny_model(name), path(".gguf"), "BF16"});
    pare_json({"convert", tiny_model(name), path(".hf")});
    std::filesystem::copy_file(config, path(".hf/config.json"), std::filesystem::copy_options::overwrite_existing);
    pare_json({"convert", path(".hf"), path(".back.gguf")});
    const auto direct = tensors_of(path(".gguf")), back = tensors_of(path(".back.gguf"));
    for (const auto& [tensor, bytes] : direct) {
      ASSERT_TRUE(back.contains(tensor)) << tensor;
      if (!tensor.ends_with("norm.weight") && !tensor.ends_with(".bias")) {
        EXPECT_EQ(back.at(tensor), bytes) << tensor;
        continue;
      }
      // Vectors are F32 in GGUF and went through BF16.
      ASSERT_EQ(back.at(tensor).size(), bytes.size()) << tensor;
      for (size_t i = 0; i < bytes.size(); i += sizeof(float)) {
        float a, b;
        std::memcpy(&a, bytes.data() + i, sizeof(a));
        std::memcpy(&b, back.at(tensor).data() + i, sizeof(b));
        EXPECT_NEAR(a, b, (std::abs(a) + 1.0f) / 256) << tensor;  // gemma3's norms are stored less one
      }
    }
    EXPECT_EQ(back.size(), direct.size());
  }
}

TEST(Conversion, RefusesToOverwrite) {
  const ScratchFolder folder;
  const std::string path = folder / "m.gguf";
  write_whole(path, "precious");
  expect_error({"quantize", kLlama, path, "F16"}, 2, {path, "--force"});
  EXPECT_EQ(read_whole(path), "precious");
  pare_json({"quantize", kLlama, path, "F16", "--force"});
  expect_error({"quantize", path, path, "F16", "--force"}, 2, {path, "OUT is IN"});
  expect_error({"quantize", kLlama, folder / "none/m.gguf", "F16"}, 2, {folder / "none"});
  expect_error({"quantize", kLlama, folder / "x.gguf", "Q9"}, 2, {"'Q9'", "Q4_K_M"});
  expect_error({"convert", kLlama, folder / "x", "--type", "Q8_0"}, 2, {"BF16", ".gguf"});
  expect_error({"convert", kLlama, folder / "x.safetensors"}, 2, {"folder"});
  expect_error({"convert", source_path("tests/data/tiny/bert"), folder / "x.gguf"}, 2, {"'bert'"});
  EXPECT_EQ(folder.entries(), std::vector<std::string>{"m.gguf"});
}

TEST(Conversion, ABrokenInputLeavesNoOutput) {
  const ScratchFolder folder;
  const std::string bytes = read_whole(kLlama);
  write_whole(folder / "short.gguf", std::string_view(bytes).substr(0, bytes.size() / 2));
  expect_error({"quantize", folder / "short.gguf", folder / "q.gguf", "F16"}, 2, {folder / "short.gguf"});
  write_changed(folder / "odd.gguf", [](Parts* p) { p->specs.push_back({"surprise.weight", DType::F32, {4}}); });
  expect_error({"convert", folder / "odd.gguf", folder / "hf"}, 2, {folder / "odd.gguf", "surprise.weight"});
  EXPECT_EQ(folder.entries(), (std::vector<std::string>{"odd.gguf", "short.gguf"}));
}

}  // namespace
}  // namespace pare::test
