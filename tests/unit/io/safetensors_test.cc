#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "model_test_files.h"

namespace pare {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string file_of(std::string_view header, std::string_view data) { return Bytes().string(header).raw(data).text(); }

Status status_of(std::string_view header, size_t data_bytes) {
  const std::string file = file_of(header, std::string(data_bytes, 'x'));
  return read_safetensors(as_bytes(file)).status();
}

constexpr std::string_view kSmallHeader =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},)"
    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"none":{"dtype":"I64","shape":[0,2],"data_offsets":[4,4]},)"
    R"("flags":{"dtype":"BOOL","shape":[3],"data_offsets":[16,19]}}   )";

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirData) {
  const std::string file = file_of(kSmallHeader, "AAAABBBBBBBBBBBBccc");
  const auto read = read_safetensors(as_bytes(file));
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->metadata.at("format"), "pt");
  ASSERT_EQ(read->tensors.size(), 4u);
  EXPECT_EQ(read->tensors[0].name, "a");
  EXPECT_THAT(read->tensors[0].shape, ElementsAre(1));
  EXPECT_EQ(text_of(read->tensors[0]), "AAAA");
  EXPECT_EQ(read->tensors[1].name, "none");
  EXPECT_EQ(read->tensors[2].name, "b");
  EXPECT_EQ(read->tensors[2].dtype, DType::F16);
  EXPECT_THAT(read->tensors[2].shape, ElementsAre(2, 3));
  EXPECT_EQ(read->tensors[3].dtype, DType::U8);
  EXPECT_EQ(text_of(read->tensors[3]), "ccc");
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const std::string file = file_of(kSmallHeader, "AAAABBBBBBBBBBBBccc");
  for (size_t n = 0; n < file.size(); ++n) {
    const std::vector<char> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(n));
    EXPECT_FALSE(read_safetensors(std::as_bytes(std::span(cut))).ok()) << n;
  }
}

TEST(Safetensors, NoBitFlipCrashesOrReachesOutside) {
  const std::string file = file_of(kSmallHeader, "AAAABBBBBBBBBBBBccc");
  for (size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::vector<char> flipped(file.begin(), file.end());
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    const auto bytes = std::as_bytes(std::span(flipped));
    const auto read = read_safetensors(bytes);
    if (!read.ok()) continue;
    for (const TensorEntry& entry : read->tensors) {
      EXPECT_GE(entry.data.data(), bytes.data());
      EXPECT_LE(entry.data.data() + entry.data.size(), bytes.data() + bytes.size());
    }
  }
}

TEST(Safetensors, ContradictionsNameTheTensor) {
  const auto one = [](std::string_view info, size_t data) {
    return status_of(R"({"t":)" + std::string(info) + "}", data);
  };
  EXPECT_TRUE(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 8).ok());
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 7).message(),
              HasSubstr("tensor 't': data from 0 to 8"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 9).message(),
              HasSubstr("1 bytes after the last"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8).message(), HasSubstr("the shape make 12"));
  EXPECT_THAT(one(R"({"dtype":"F16","shape":[2],"data_offsets":[0,8]})", 8).message(),
              HasSubstr("F16 and the shape make 4"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", 8).message(), HasSubstr("data from 8 to 0"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", 8).message(), HasSubstr("hole"));
  EXPECT_EQ(one(R"({"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]})", 2).code(), StatusCode::kUnsupported);
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]})", 0).message(),
              HasSubstr("2^63"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]})", 4).message(),
              HasSubstr("5 dimensions"));
  for (const char* bad : {"1", R"({"shape":[1],"data_offsets":[0,4]})", R"({"dtype":"F32","data_offsets":[0,4]})",
                          R"({"dtype":"F32","shape":[1]})", R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})",
                          R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})",
                          R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})"}) {
    EXPECT_THAT(one(bad, 4).message(), HasSubstr("tensor 't'")) << bad;
  }
}

TEST(Safetensors, OverlapsAndDuplicatesAreRefused) {
  EXPECT_THAT(
      status_of(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
          12)
          .message(),
      HasSubstr("'b' begins at data byte 4, inside its neighbour"));
  EXPECT_FALSE(
      status_of(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
          1)
          .ok());
}

TEST(Safetensors, OversizedHeadersAreRefusedBeforeAllocation) {
  EXPECT_EQ(read_safetensors(as_bytes(Bytes().u64(~uint64_t{0}).raw("{}").text())).status().code(),
            StatusCode::kLimitExceeded);
  EXPECT_EQ(read_safetensors(as_bytes(Bytes().u64(1 << 20).raw("{}").text())).status().code(), StatusCode::kDataLoss);
  EXPECT_FALSE(read_safetensors(as_bytes(file_of("[]", ""))).ok());
}

TEST(SafetensorsIndex, FileNamesCannotLeaveTheFolder) {
  const auto index = [](std::string_view file) {
    return read_safetensors_index(R"({"weight_map":{"t":")" + std::string(file) + "\"}}");
  };
  EXPECT_EQ(index("model-00001-of-00002.safetensors")->at("t"), "model-00001-of-00002.safetensors");
  for (const char* bad :
       {"", "..", "../x.safetensors", "/etc/passwd", "a/b.safetensors", "a\\\\b", ".hidden", "a\\u0000b"}) {
    EXPECT_THAT(index(bad).status().message(), HasSubstr("not a plain file name")) << bad;
  }
  EXPECT_FALSE(read_safetensors_index("{}").ok());
  EXPECT_FALSE(read_safetensors_index("[]").ok());
  EXPECT_FALSE(read_safetensors_index(R"({"weight_map":{"t":1}})").ok());
}

const std::vector<TensorSpec> kSpecs = {
    {"x", DType::F32, {2, 1}}, {"y", DType::BF16, {3}}, {"z", DType::U8, {5}}, {"w", DType::I64, {1}}};
const std::vector<std::string> kData = {"xxxxXXXX", "yyYYyy", "zzzzz", "wwwwwwww"};

TEST(SafetensorsWriter, RoundTrips) {
  const ScratchFolder folder;
  const Status status = write_safetensors(folder / "m.safetensors", {{"format", "pt"}}, kSpecs, produce_texts(kData));
  ASSERT_TRUE(status.ok()) << status.to_string();
  const std::string file = read_whole(folder / "m.safetensors");
  const auto read = read_safetensors(as_bytes(file));
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->data_offset % 8, 0u);
  EXPECT_EQ(read->metadata.at("format"), "pt");
  ASSERT_EQ(read->tensors.size(), kSpecs.size());
  for (size_t i = 0; i < kSpecs.size(); ++i) {
    EXPECT_EQ(read->tensors[i].name, kSpecs[i].name);
    EXPECT_EQ(read->tensors[i].dtype, kSpecs[i].dtype);
    EXPECT_EQ(read->tensors[i].shape, kSpecs[i].shape);
    EXPECT_EQ(text_of(read->tensors[i]), kData[i]);
  }
}

TEST(SafetensorsWriter, ShardsStayBelowTheLimitAndTheIndexNamesAll) {
  const ScratchFolder folder;
  ASSERT_TRUE(write_safetensors_model(folder.path(), {}, kSpecs, 12, produce_texts(kData)).ok());
  const auto index = read_safetensors_index(read_whole(folder / "model.safetensors.index.json"));
  ASSERT_TRUE(index.ok()) << index.status().to_string();
  ASSERT_EQ(index->size(), 4u);
  EXPECT_EQ(index->at("x"), "model-00001-of-00003.safetensors");
  EXPECT_EQ(index->at("y"), "model-00002-of-00003.safetensors");
  EXPECT_EQ(index->at("z"), "model-00002-of-00003.safetensors");
  EXPECT_EQ(index->at("w"), "model-00003-of-00003.safetensors");
  for (size_t i = 0; i < kSpecs.size(); ++i) {
    const std::string file = read_whole(folder / index->at(kSpecs[i].name));
    const auto read = read_safetensors(as_bytes(file));
    ASSERT_TRUE(read.ok());
    for (const TensorEntry& entry : read->tensors) {
      if (entry.name != kSpecs[i].name) continue;
      EXPECT_EQ(text_of(entry), kData[i]);
    }
  }
}

TEST(SafetensorsWriter, AFailureInTheLastShardLeavesNothing) {
  const ScratchFolder folder;
  const auto produce = [](size_t index, const TensorSink& sink) -> Status {
    return index == 3 ? cancelled("stop") : sink(as_bytes(kData[index]));
  };
  EXPECT_EQ(write_safetensors_model(folder.path(), {}, kSpecs, 12, produce).code(), StatusCode::kCancelled);
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(SafetensorsWriter, RefusesWhatTheFormatLacks) {
  const ScratchFolder folder;
  const auto write = [&](std::vector<TensorSpec> specs) {
    return write_safetensors(folder / "m.safetensors", {}, specs, produce_texts(kData));
  };
  EXPECT_THAT(write({{"q", DType::Q8_0, {32}}}).message(), HasSubstr("safetensors has no type Q8_0"));
  EXPECT_FALSE(write({{"__metadata__", DType::U8, {1}}}).ok());
  EXPECT_FALSE(write({{"\xff", DType::U8, {1}}}).ok());
  EXPECT_EQ(folder.entries(), 0u);
}

}  // namespace
}  // namespace pare
