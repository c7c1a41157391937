// Conversion, against the tiny models that were written to both containers from the same values.
#include "quant/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "../../scratch_folder.h"
#include "quant/blocks.h"
#include "quant/recipe.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

fs::path tiny(const std::string& name) { return fs::path(PARE_SOURCE_DIR) / "tests/data/tiny" / name; }

std::vector<float> values_of(const TensorEntry& entry) {
  std::vector<float> values(entry.data.size() / dtype_info(entry.dtype).block_bytes *
                            dtype_info(entry.dtype).block_items);
  EXPECT_TRUE(dequantize_row(entry.dtype, entry.data, values).ok());
  return values;
}

void expect_same_tensors(const ModelFile& got, const ModelFile& wanted) {
  EXPECT_EQ(got.tensors().size(), wanted.tensors().size());
  for (const TensorEntry& entry : wanted.tensors()) {
    const TensorEntry* const twin = got.find(entry.name);
    ASSERT_NE(twin, nullptr) << entry.name;
    EXPECT_EQ(twin->shape, entry.shape) << entry.name;
    const std::vector<float> a = values_of(*twin), b = values_of(entry);
    ASSERT_EQ(a.size(), b.size()) << entry.name;
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i], 1e-6f * std::abs(b[i])) << entry.name << " element " << i;
  }
}

class HfToGguf : public testing::TestWithParam<const char*> {};

TEST_P(HfToGguf, GivesTheTensorsAndKeysThatAnIndependentWriterGave) {
  const test::ScratchFolder scratch;
  const auto in = ModelFile::open(tiny(GetParam()));
  const auto wanted = ModelFile::open(tiny(std::string(GetParam()) + "/model.gguf"));
  ASSERT_TRUE(in.ok() && wanted.ok());
  ConvertOptions options;
  options.recipe = "F32";
  const Status status = convert_to_gguf(*in, scratch / "out.gguf", options);
  ASSERT_TRUE(status.ok()) << status.to_string();
  const auto out = ModelFile::open(scratch / "out.gguf");
  ASSERT_TRUE(out.ok()) << out.status().to_string();
  expect_same_tensors(*out, *wanted);
  for (const auto& [key, value] : wanted->metadata().values()) {
    if (key.starts_with("tokenizer.") || key == "general.name") continue;
    // The independent writer leaves out or adds a few optional keys; what both have must agree.
    const MetaValue* const mine = out->metadata().find(key);
    EXPECT_TRUE(!mine || *mine == value) << key;
  }
  for (const char* key :
       {"block_count", "embedding_length", "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    const std::string full = std::string(*out->metadata().get_string("general.architecture")) + "." + key;
    EXPECT_TRUE(out->metadata().has(full)) << full;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, HfToGguf,
                         testing::Values("llama", "qwen2", "qwen3", "gemma3", "llama_rope_linear", "llama_rope_llama3",
                                         "llama_rope_yarn"),
                         [](const auto& param) { return std::string(param.param); });

class GgufToSafetensors : public testing::TestWithParam<const char*> {};

TEST_P(GgufToSafetensors, GivesTheOriginalTensors) {
  const test::ScratchFolder scratch;
  const auto in = ModelFile::open(tiny(std::string(GetParam()) + "/model.gguf"));
  const auto wanted = ModelFile::open(tiny(GetParam()));
  ASSERT_TRUE(in.ok() && wanted.ok());
  const Status status = convert_to_safetensors(*in, scratch.path(), 64 << 10, {});
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_TRUE(fs::exists(scratch / "model.safetensors.index.json"));
  fs::copy_file(tiny(std::string(GetParam()) + "/config.json"), scratch / "config.json");
  const auto out = ModelFile::open(scratch.path());
  ASSERT_TRUE(out.ok()) << out.status().to_string();
  // The tiny weights are bfloat16 values; gemma's norms lose bits when one is added and taken off again.
  EXPECT_EQ(out->tensors().size(), wanted->tensors().size());
  for (const TensorEntry& entry : wanted->tensors()) {
    const TensorEntry* const twin = out->find(entry.name);
    ASSERT_NE(twin, nullptr) << entry.name;
    EXPECT_EQ(twin->dtype, DType::BF16);
    const std::vector<float> a = values_of(*twin), b = values_of(entry);
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-6f) << entry.name << " element " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GgufToSafetensors, testing::Values("llama", "qwen2", "qwen3", "gemma3"),
                         [](const auto& param) { return std::string(param.param); });

TEST(Convert, EveryRecipeWritesAFileThatOpensAndStaysClose) {
  const test::ScratchFolder scratch;
  const auto in = ModelFile::open(tiny("llama/model.gguf"));
  ASSERT_TRUE(in.ok());
  ThreadPool pool(2);
  for (const Recipe& recipe : recipes()) {
    ConvertOptions options;
    options.recipe = recipe.name;
    const fs::path serial = scratch / "serial.gguf", parallel = scratch / "parallel.gguf";
    ASSERT_TRUE(convert_to_gguf(*in, serial, options).ok()) << recipe.name;
    options.pool = &pool;
    ASSERT_TRUE(convert_to_gguf(*in, parallel, options).ok()) << recipe.name;
    const auto out = ModelFile::open(serial), again = ModelFile::open(parallel);
    ASSERT_TRUE(out.ok() && again.ok()) << recipe.name;
    EXPECT_EQ(*out->metadata().get_int("general.file_type"), recipe.file_type);
    for (const TensorEntry& entry : in->tensors()) {
      const std::vector<float> a = values_of(*out->find(entry.name)), b = values_of(entry);
      EXPECT_EQ(a, values_of(*again->find(entry.name))) << recipe.name << " " << entry.name;
      double miss = 0.0, norm = 0.0;
      for (size_t i = 0; i < a.size(); ++i) {
        miss += std::pow(a[i] - b[i], 2);
        norm += std::pow(b[i], 2);
      }
      EXPECT_LE(miss, 0.011 * norm) << recipe.name << " " << entry.name;  // 4 bits: about 0.7 % of the energy
    }
  }
}

TEST(Convert, RecipesChooseByRoleAndRow) {
  const Recipe medium = *find_recipe("q4_k_m");
  const std::vector<int64_t> wide = {512, 256}, odd = {512, 96}, ragged = {512, 80}, vector = {512};
  const auto choose = [&](const char* name, const std::vector<int64_t>& shape) {
    return recipe_dtype(medium, name, shape, 16, false);
  };
  EXPECT_EQ(choose("blk.5.attn_q.weight", wide), DType::Q4_K);
  EXPECT_EQ(choose("blk.0.attn_v.weight", wide), DType::Q6_K);
  EXPECT_EQ(choose("blk.2.attn_v.weight", wide), DType::Q4_K);
  EXPECT_EQ(choose("blk.4.ffn_down.weight", wide), DType::Q6_K);
  EXPECT_EQ(choose("blk.15.ffn_down.weight", wide), DType::Q6_K);
  EXPECT_EQ(choose("output.weight", wide), DType::Q6_K);
  EXPECT_EQ(choose("token_embd.weight", wide), DType::Q4_K);
  EXPECT_EQ(recipe_dtype(medium, "token_embd.weight", wide, 16, true), DType::Q6_K);
  EXPECT_EQ(choose("blk.5.attn_q.weight", odd), DType::Q5_0);
  EXPECT_EQ(choose("blk.0.attn_v.weight", odd), DType::Q8_0);
  EXPECT_EQ(choose("blk.5.attn_q.weight", ragged), DType::F16);
  EXPECT_EQ(choose("blk.5.attn_norm.weight", vector), DType::F32);
}

TEST(Convert, ErrorsNameWhatIsWrong) {
  const test::ScratchFolder scratch;
  const auto bert = ModelFile::open(tiny("bert"));
  const auto llama = ModelFile::open(tiny("llama"));
  ASSERT_TRUE(bert.ok() && llama.ok());
  ConvertOptions options;
  options.recipe = "Q3";
  EXPECT_THAT(convert_to_gguf(*llama, scratch / "x.gguf", options).message(), HasSubstr("unknown format 'Q3'"));
  options.recipe = "F16";
  EXPECT_THAT(convert_to_gguf(*bert, scratch / "x.gguf", options).message(), HasSubstr("model_type 'bert'"));
  EXPECT_EQ(convert_to_gguf(*llama, scratch / "absent/x.gguf", options).code(), StatusCode::kNotFound);
  EXPECT_EQ(convert_to_safetensors(*llama, scratch.path(), 1 << 20, {}).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

}  // namespace
}  // namespace pare
