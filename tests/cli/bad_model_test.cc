// Model files that lie: every command that opens one says what and where, and nothing crashes or hangs.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "io/safetensors.h"
#include "model_files.h"
#include "process.h"

namespace pare::test {
namespace {

const std::string kLlama = tiny_model("llama");

// Loads everything and generates nothing.
std::vector<std::string> load_command(const std::string& model) {
  return {"eval", "perplexity", model, "--file", source_path("README.md"), "--context", "8", "--chunks", "1"};
}

class BadModel : public testing::Test {
 protected:
  void expect_refused(const std::function<void(Parts*)>& change, const std::vector<std::string>& parts) {
    const std::string path = folder_ / "changed.gguf";
    write_changed(path, change);
    std::vector<std::string> named = parts;
    named.push_back(path);
    const std::string message = expect_error(load_command(path), 2, named);
    EXPECT_EQ(message.find(path), message.rfind(path)) << "the path once: " << message;
  }

  const ScratchFolder folder_;
};

TEST_F(BadModel, ContradictoryConfigurations) {
  const auto set = [](const char* key, uint64_t value) { return [=](Parts* p) { p->metadata.set(key, value); }; };
  expect_refused(set("llama.block_count", 3), {"missing tensors", "blk.2.attn_q.weight", "blk.2.ffn_down.weight"});
  expect_refused(set("llama.block_count", 1), {"does not have", "blk.1.attn_q.weight"});
  expect_refused(set("llama.attention.head_count", 5), {"head"});
  expect_refused(set("llama.attention.head_count", 0), {"heads", "0"});
  expect_refused(set("llama.embedding_length", 128), {"tensor", "shape"});
  expect_refused(set("llama.feed_forward_length", 96), {"ffn", "shape", "96"});
  expect_refused(set("llama.context_length", uint64_t{1} << 40), {"context_length"});
  expect_refused([](Parts* p) { p->metadata.set("general.architecture", std::string("gpt17")); }, {"gpt17", "llama"});
}

TEST_F(BadModel, MissingExtraAndMisshapenTensors) {
  expect_refused(
      [](Parts* p) {
        std::erase_if(p->specs, [](const TensorSpec& s) {
          return s.name == "blk.0.attn_k.weight" || s.name == "output_norm.weight";
        });
      },
      {"missing tensors", "blk.0.attn_k.weight", "output_norm.weight"});
  expect_refused(
      [](Parts* p) {
        p->specs.push_back({"blk.0.attn_gate.weight", DType::F32, {4, 4}});
        p->specs.push_back({"surprise.weight", DType::F32, {4}});
      },
      {"blk.0.attn_gate.weight", "surprise.weight"});
  expect_refused([](Parts* p) { p->specs[0].shape[0] -= 1; }, {"tensor"});
}

TEST_F(BadModel, Vocabularies) {
  const auto tokens = [](const std::function<void(std::vector<std::string>*)>& change) {
    return [=](Parts* p) {
      auto list = std::get<std::vector<std::string>>(*p->metadata.find("tokenizer.ggml.tokens"));
      change(&list);
      p->metadata.set("tokenizer.ggml.tokens", list);
    };
  };
  expect_refused(tokens([](auto* list) { (*list)[20] = (*list)[10]; }), {"tokens[20]", "duplicate of token 10"});
  expect_refused(tokens([](auto* list) { (*list)[20].clear(); }), {"tokens[20]", "hole"});
  expect_refused(tokens([](auto* list) { list->push_back("one more"); }), {"265"});
  expect_refused([](Parts* p) { p->metadata.set("tokenizer.ggml.merges", std::vector<std::string>{"a nowhere"}); },
                 {"merges", "nowhere"});
  expect_refused([](Parts* p) { p->metadata.set("tokenizer.ggml.eos_token_id", uint64_t{9999}); },
                 {"eos_token_id", "9999"});
}

TEST_F(BadModel, UnknownTensorTypeAndOversizedCounts) {
  std::string bytes = read_whole(kLlama);
  const auto with = [&](size_t at, auto value, const std::vector<std::string>& parts) {
    std::string copy = bytes;
    std::memcpy(copy.data() + at, &value, sizeof(value));
    write_whole(folder_ / "patched.gguf", copy);
    expect_error(load_command(folder_ / "patched.gguf"), 2, parts);
  };
  const size_t name = bytes.find("blk.1.ffn_up.weight");
  ASSERT_NE(name, std::string::npos);
  const size_t type = name + std::strlen("blk.1.ffn_up.weight") + 4 + 2 * 8;  // after the rank and two sizes
  with(type, uint32_t{999}, {"blk.1.ffn_up.weight", "999"});
  with(type + 4, uint64_t{1} << 60, {"blk.1.ffn_up.weight"});
  with(type - 8, uint64_t{1} << 62, {"blk.1.ffn_up.weight"});
  with(0, uint32_t{0x46554746}, {"not a GGUF file"});
  with(4, uint32_t{99}, {"version 99"});
  with(8, uint64_t{1} << 60, {"1152921504606846976 tensors", "65536"});
  with(16, uint64_t{1} << 60, {"1152921504606846976", "65536"});
}

TEST_F(BadModel, TruncationAnywhere) {
  const std::string bytes = read_whole(kLlama);
  for (const size_t size :
       {size_t{0}, size_t{3}, size_t{23}, size_t{1000}, size_t{5000}, bytes.size() / 2, bytes.size() - 1}) {
    write_whole(folder_ / "short.gguf", std::string_view(bytes).substr(0, size));
    expect_error(load_command(folder_ / "short.gguf"), 2, {folder_ / "short.gguf"});
  }
}

TEST_F(BadModel, BitFlips) {
  const std::string bytes = read_whole(kLlama);
  const auto contents = read_gguf(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(contents.ok());
  std::mt19937 random(20);
  for (int i = 0; i < 120; ++i) {
    std::string copy = bytes;
    // Most in the header, where structure is.
    const size_t range = i % 8 == 0 ? bytes.size() : contents->data_offset;
    const size_t at = random() % range;
    copy[at] = static_cast<char>(copy[at] ^ (1 << (random() % 8)));
    write_whole(folder_ / "flipped.gguf", copy);
    std::vector<std::string> command = load_command(folder_ / "flipped.gguf");
    command.push_back("--json");
    const ProcessResult result = run_pare(command);
    EXPECT_TRUE(result.code == 0 || result.code == 2) << "byte " << at << ": " << result.out << result.err;
    one_object(result);
  }
}

TEST_F(BadModel, Safetensors) {
  const auto expect_folder = [&](const std::string& config, const std::string& weights,
                                 const std::vector<std::string>& parts) {
    std::filesystem::create_directories(folder_ / "m");
    write_whole(folder_ / "m/config.json", config);
    write_whole(folder_ / "m/model.safetensors", weights);
    expect_error(load_command(folder_ / "m"), 2, parts);
  };
  const std::string config = read_whole(source_path("tests/data/tiny/llama/config.json"));
  const std::string weights = read_whole(source_path("tests/data/tiny/llama/model.safetensors"));
  const std::string file = folder_ / "m/model.safetensors";
  expect_folder("{", weights, {folder_ / "m/config.json", "JSON"});
  expect_folder("[]", weights, {folder_ / "m/config.json"});
  expect_folder("{}", weights, {"model_type"});
  expect_folder(config, "", {file});
  expect_folder(config, weights.substr(0, weights.size() - 1), {file});
  expect_folder(config, std::string(8, '\xFF') + weights.substr(8), {file, "limit"});
  std::string overlapping = weights;
  const size_t at = overlapping.find("\"data_offsets\":[");
  ASSERT_NE(at, std::string::npos);
  overlapping[at + std::strlen("\"data_offsets\":[")] = '9';
  expect_folder(config, overlapping, {file});
}

TEST_F(BadModel, InspectShowsWhatItCan) {
  write_changed(folder_ / "odd.gguf", [](Parts* p) {
    p->metadata.set("llama.attention.head_count", uint64_t{5});
    p->metadata.set("tokenizer.chat_template", std::string("{{"));
  });
  const nlohmann::json model = pare_json({"inspect", "model", folder_ / "odd.gguf"});
  EXPECT_TRUE(model["config"].contains("error"));
  EXPECT_TRUE(model["template"].contains("error"));
  EXPECT_FALSE(model["tokenizer"].contains("error"));
}

}  // namespace
}  // namespace pare::test
