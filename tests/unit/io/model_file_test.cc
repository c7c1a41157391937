#include "io/model_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>

#include "io/atomic_file.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "model_test_files.h"

namespace pare {
namespace {

using ::testing::HasSubstr;

// part -> (split.no, split.count, total) and one tensor named after it.
void write_part(const std::filesystem::path& path, uint64_t number, uint64_t count, int64_t total,
                const std::string& name) {
  Metadata m;
  m.set("general.architecture", std::string("llama"));
  m.set("split.no", number);
  m.set("split.count", count);
  m.set("split.tensors.count", total);
  const std::vector<TensorSpec> specs = {{name, DType::I8, {4}}};
  const std::vector<std::string> data = {name.substr(0, 1) + "..."};
  ASSERT_TRUE(write_gguf(path, m, specs, produce_texts(data)).ok());
}

void write_hf(const ScratchFolder& folder, uint64_t shard_bytes = 1 << 20) {
  const std::vector<TensorSpec> specs = {{"a", DType::U8, {4}}, {"b", DType::U8, {4}}};
  const std::vector<std::string> data = {"aaaa", "bbbb"};
  ASSERT_TRUE(write_safetensors_model(folder.path(), {}, specs, shard_bytes, produce_texts(data)).ok());
  write_whole(folder / "config.json", R"({"model_type":"llama","hidden_size":64})");
}

Status open_status(const std::filesystem::path& path) { return ModelFile::open(path).status(); }

TEST(ModelFile, OpensBothContainersOfTheSameModel) {
  const auto gguf = ModelFile::open(source_path("tests/data/tiny/llama/model.gguf"));
  const auto hf = ModelFile::open(source_path("tests/data/tiny/llama"));
  const auto file = ModelFile::open(source_path("tests/data/tiny/llama/model.safetensors"));
  ASSERT_TRUE(gguf.ok() && hf.ok() && file.ok());
  EXPECT_EQ(gguf->container(), ModelFile::Container::kGguf);
  EXPECT_EQ(hf->container(), ModelFile::Container::kSafetensors);
  EXPECT_EQ(*gguf->metadata().get_int("llama.embedding_length"), *hf->metadata().get_int("hidden_size"));
  EXPECT_EQ(gguf->tensors().size(), hf->tensors().size());
  EXPECT_EQ(hf->content_hash(), file->content_hash());
  EXPECT_NE(hf->content_hash(), gguf->content_hash());
  const TensorEntry *a = gguf->find("token_embd.weight"), *b = hf->find("model.embed_tokens.weight");
  ASSERT_TRUE(a && b);
  EXPECT_EQ(text_of(*a), text_of(*b));
  EXPECT_EQ(gguf->find("absent"), nullptr);
}

TEST(ModelFile, PartsInMemoryAreAModel) {
  const auto parts = [] {
    ModelParts p;
    p.metadata.set("model_type", std::string("llama"));
    p.memory = std::move(*AlignedBuffer::allocate(64));
    std::memcpy(p.memory.data(), "overlapping", 11);
    p.tensors.push_back({"a", DType::U8, {4}, {p.memory.data(), 4}});
    p.tensors.push_back({"b", DType::U8, {2, 3}, {p.memory.data() + 2, 6}});
    return p;
  };
  auto made = ModelFile::from_parts(parts());
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  const ModelFile file = std::move(*made);
  EXPECT_EQ(file.container(), ModelFile::Container::kSafetensors);
  EXPECT_EQ(text_of(*file.find("a")), "over");
  EXPECT_EQ(text_of(*file.find("b")), "erlapp");
  file.drop_resident(file.find("b")->data);
  EXPECT_EQ(text_of(*file.find("b")), "erlapp");

  ModelParts twice = parts();
  twice.tensors[1].name = "a";
  EXPECT_EQ(ModelFile::from_parts(std::move(twice)).status().code(), StatusCode::kDataLoss);
  ModelParts short_of_bytes = parts();
  short_of_bytes.tensors[1].data = short_of_bytes.tensors[1].data.first(5);
  EXPECT_THAT(ModelFile::from_parts(std::move(short_of_bytes)).status().message(), HasSubstr("'b'"));
  ModelParts outside = parts();
  outside.tensors[0].data = {outside.memory.data() + 62, 4};
  EXPECT_EQ(ModelFile::from_parts(std::move(outside)).status().code(), StatusCode::kDataLoss);
}

TEST(ModelFile, DroppedPagesReadTheSameAgainAndMovesKeepReferences) {
  auto opened = ModelFile::open(source_path("tests/data/tiny/llama/model.gguf"));
  ASSERT_TRUE(opened.ok());
  const TensorEntry* const entry = opened->find("token_embd.weight");
  const std::string before = text_of(*entry);
  const ModelFile moved = std::move(*opened);
  EXPECT_EQ(moved.find("token_embd.weight"), entry);
  for (const TensorEntry& each : moved.tensors()) moved.drop_resident(each.data);
  EXPECT_EQ(text_of(*entry), before);
}

TEST(ModelFile, SplitGgufOpensFromAnyPart) {
  const ScratchFolder folder;
  for (int i = 0; i < 3; ++i) {
    write_part(folder / ("m-0000" + std::to_string(i + 1) + "-of-00003.gguf"), i, 3, 3,
               std::string(1, static_cast<char>('a' + i)));
  }
  for (const char* name : {"m-00001-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    const auto model = ModelFile::open(folder / name);
    ASSERT_TRUE(model.ok()) << model.status().to_string();
    ASSERT_EQ(model->tensors().size(), 3u);
    EXPECT_EQ(text_of(*model->find("c")), "c...");
  }
}

TEST(ModelFile, SplitGgufErrorsNameThePart) {
  const ScratchFolder folder;
  const auto first = folder / "m-00001-of-00002.gguf", second = folder / "m-00002-of-00002.gguf";
  write_part(first, 0, 2, 2, "a");
  EXPECT_THAT(open_status(first).message(), HasSubstr("m-00002-of-00002.gguf"));
  write_part(second, 0, 2, 2, "b");
  EXPECT_THAT(open_status(first).message(), HasSubstr("split.no is 0"));
  write_part(second, 1, 3, 2, "b");
  EXPECT_THAT(open_status(first).message(), HasSubstr("split.count is 3"));
  write_part(second, 1, 2, 2, "a");
  EXPECT_THAT(open_status(first).message(), HasSubstr("'a' is in two parts"));
  write_part(second, 1, 2, 2, "b");
  EXPECT_TRUE(open_status(first).ok());
  write_part(first, 0, 2, 9, "a");
  EXPECT_THAT(open_status(first).message(), HasSubstr("split.tensors.count is 9"));
  std::filesystem::rename(second, folder / "alone.gguf");
  EXPECT_THAT(open_status(folder / "alone.gguf").message(), HasSubstr("the file name says 1"));
}

TEST(ModelFile, ShardsOpenThroughFolderAndIndex) {
  const ScratchFolder folder;
  write_hf(folder, 4);
  for (const auto& path : {folder.path(), folder / "model.safetensors.index.json"}) {
    const auto model = ModelFile::open(path);
    ASSERT_TRUE(model.ok()) << model.status().to_string();
    EXPECT_EQ(text_of(*model->find("a")), "aaaa");
    EXPECT_EQ(text_of(*model->find("b")), "bbbb");
  }
  write_whole(folder / "model.safetensors.index.json", R"({"weight_map":{"a":"model-00001-of-00002.safetensors",
      "b":"model-00002-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}})");
  EXPECT_THAT(open_status(folder.path()).message(), HasSubstr("'c' is not in 'model-00002-of-00002.safetensors'"));
  write_whole(folder / "model.safetensors.index.json", R"({"weight_map":{"a":"model-00001-of-00002.safetensors"}})");
  EXPECT_TRUE(open_status(folder.path()).ok());  // the second shard is not named, hence not part of the model
  write_whole(folder / "model.safetensors.index.json", R"({"weight_map":{"a":"gone.safetensors"}})");
  EXPECT_EQ(open_status(folder.path()).code(), StatusCode::kNotFound);
  EXPECT_THAT(open_status(folder.path()).message(), HasSubstr("gone.safetensors"));
}

TEST(ModelFile, FoldersSayWhatIsMissing) {
  const ScratchFolder folder;
  EXPECT_THAT(open_status(folder.path()).message(), HasSubstr("config.json"));
  write_whole(folder / "config.json", "{}");
  EXPECT_THAT(open_status(folder.path()).message(), HasSubstr("model.safetensors"));
  EXPECT_EQ(open_status(folder / "absent").code(), StatusCode::kNotFound);
  write_whole(folder / "text.txt", "hello, this is no model");
  EXPECT_THAT(open_status(folder / "text.txt").message(), HasSubstr("text.txt: not a GGUF file"));
  write_whole(folder / "empty.gguf", "");
  EXPECT_FALSE(open_status(folder / "empty.gguf").ok());
  ASSERT_EQ(::mkfifo((folder / "pipe.gguf").c_str(), 0600), 0);
  EXPECT_THAT(open_status(folder / "pipe.gguf").message(), HasSubstr("not a regular file"));
}

TEST(ModelFile, ChatTemplateComesFromTheFirstPlaceThatHasOne) {
  const ScratchFolder folder;
  write_hf(folder);
  const auto chat_template = [&] { return ModelFile::open(folder.path())->chat_template(); };
  EXPECT_EQ(chat_template(), "");
  write_whole(folder / "tokenizer_config.json", R"({"chat_template":null})");
  EXPECT_EQ(chat_template(), "");
  write_whole(folder / "tokenizer_config.json", R"({"chat_template":"one"})");
  EXPECT_EQ(chat_template(), "one");
  write_whole(folder / "tokenizer_config.json",
              R"({"chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d"}]})");
  EXPECT_EQ(chat_template(), "d");
  write_whole(folder / "tokenizer_config.json", R"({"chat_template":[{"name":"rag","template":"r"}]})");
  EXPECT_EQ(chat_template(), "r");
  write_whole(folder / "tokenizer_config.json", R"({"chat_template":[{"name":"rag"}]})");
  EXPECT_THAT(open_status(folder.path()).message(), HasSubstr("tokenizer_config.json"));
  write_whole(folder / "tokenizer_config.json", "{}");
  write_whole(folder / "chat_template.jinja", "file");
  EXPECT_EQ(chat_template(), "file");
}

TEST(ModelFile, ContentHashSeesWeightsAndConfiguration) {
  const ScratchFolder folder;
  write_hf(folder);
  const auto hash = [&] { return ModelFile::open(folder.path())->content_hash(); };
  const uint64_t before = hash();
  EXPECT_EQ(hash(), before);
  std::string weights = read_whole(folder / "model.safetensors");
  weights.back() = 'c';
  write_whole(folder / "model.safetensors", weights);
  const uint64_t changed = hash();
  EXPECT_NE(changed, before);
  write_whole(folder / "config.json", R"({"model_type":"llama","hidden_size":65})");
  EXPECT_NE(hash(), changed);
}

TEST(AtomicFile, WithoutCommitTheOldFileStays) {
  const ScratchFolder folder;
  write_whole(folder / "f", "old");
  {
    auto file = AtomicFile::create(folder / "f");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->write("new").ok());
    AtomicFile moved = std::move(*file);
    EXPECT_EQ(folder.entries(), 2u);
  }
  EXPECT_EQ(read_whole(folder / "f"), "old");
  EXPECT_EQ(folder.entries(), 1u);
  auto file = AtomicFile::create(folder / "f");
  ASSERT_TRUE(file->write("new").ok());
  ASSERT_TRUE(file->commit().ok());
  EXPECT_EQ(read_whole(folder / "f"), "new");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(AtomicFile, AFullDiskIsAnErrorAndLeavesNothing) {
  const ScratchFolder folder;
  // A limit on file sizes stands in for the end of the disk.
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::vector<TensorSpec> specs = {{"x", DType::I8, {100'000}}};
  const std::vector<std::string> data = {std::string(100'000, 'x')};
  const Status status = write_gguf(folder / "big.gguf", Metadata(), specs, produce_texts(data));
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, ignored);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr("big.gguf"));
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(AtomicFile, AMissingFolderIsNamed) {
  const ScratchFolder folder;
  const Status status = AtomicFile::create(folder / "absent/f").status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("absent"));
}

}  // namespace
}  // namespace pare
