#include "io/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <limits>
#include <map>

#include "base/limits.h"
#include "io/mapped_file.h"
#include "model_test_files.h"

namespace pare {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kTypeU32 = 4, kTypeBool = 7, kTypeString = 8, kTypeArray = 9;

Bytes header(uint64_t tensors, uint64_t pairs, uint32_t version = 3) {
  return std::move(Bytes().raw("GGUF").u32(version).u64(tensors).u64(pairs));
}

Bytes& tensor_info(Bytes& out, std::string_view name, std::vector<uint64_t> ne, uint32_t type, uint64_t offset) {
  out.string(name).u32(static_cast<uint32_t>(ne.size()));
  for (const uint64_t dim : ne) out.u64(dim);
  return out.u32(type).u64(offset);
}

// One of everything: every value type, nested arrays, three tensors.
std::string small_file() {
  Bytes out = header(3, 17);
  out.string("u8").u32(0).number<uint8_t>(200);
  out.string("i8").u32(1).number<int8_t>(-5);
  out.string("u16").u32(2).number<uint16_t>(60000);
  out.string("i16").u32(3).number<int16_t>(-300);
  out.string("u32").u32(4).u32(4'000'000'000);
  out.string("i32").u32(5).number<int32_t>(-70000);
  out.string("f32").u32(6).number(0.1f);
  out.string("yes").u32(7).number<uint8_t>(1);
  out.string("text").u32(8).string("hello");
  out.string("u64").u32(10).u64(std::numeric_limits<uint64_t>::max());
  out.string("i64").u32(11).number<int64_t>(INT64_MIN);
  out.string("f64").u32(12).number(0.1);
  out.string("strings").u32(kTypeArray).u32(kTypeString).u64(2).string("a").string("");
  out.string("ints").u32(kTypeArray).u32(5).u64(3).number<int32_t>(1).number<int32_t>(-2).number<int32_t>(3);
  out.string("bools").u32(kTypeArray).u32(kTypeBool).u64(2).number<uint8_t>(0).number<uint8_t>(1);
  out.string("nested").u32(kTypeArray).u32(kTypeArray).u64(2);
  out.u32(6).u64(1).number(1.5f);
  out.u32(6).u64(2).number(2.5f).number(3.5f);
  out.string("general.alignment").u32(kTypeU32).u32(16);
  tensor_info(out, "a", {3, 2}, 0, 0);
  tensor_info(out, "b", {32}, 8, 32);
  tensor_info(out, "c", {5}, 24, 80);
  out.pad(16);
  for (int i = 0; i < 6; ++i) out.number(static_cast<float>(i));
  out.pad(16).raw(std::string(34, 'q')).pad(16).raw("12345");
  return out.text();
}

Status status_of(const Bytes& bytes) { return read_gguf(as_bytes(bytes.text())).status(); }

TEST(Gguf, ReadsEveryValueTypeAndTensor) {
  const std::string file = small_file();
  const auto read = read_gguf(as_bytes(file));
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  const Metadata& m = read->metadata;
  EXPECT_EQ(read->version, 3u);
  EXPECT_EQ(read->alignment, 16u);
  EXPECT_EQ(m.values().size(), 17u);
  EXPECT_EQ(std::get<uint64_t>(*m.find("u8")), 200u);
  EXPECT_EQ(std::get<int64_t>(*m.find("i8")), -5);
  EXPECT_EQ(std::get<uint64_t>(*m.find("u16")), 60000u);
  EXPECT_EQ(std::get<int64_t>(*m.find("i16")), -300);
  EXPECT_EQ(std::get<uint64_t>(*m.find("u32")), 4'000'000'000u);
  EXPECT_EQ(std::get<int64_t>(*m.find("i32")), -70000);
  EXPECT_EQ(std::get<double>(*m.find("f32")), static_cast<double>(0.1f));
  EXPECT_EQ(std::get<bool>(*m.find("yes")), true);
  EXPECT_EQ(std::get<std::string>(*m.find("text")), "hello");
  EXPECT_EQ(std::get<uint64_t>(*m.find("u64")), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(std::get<int64_t>(*m.find("i64")), INT64_MIN);
  EXPECT_EQ(std::get<double>(*m.find("f64")), 0.1);
  EXPECT_THAT(std::get<std::vector<std::string>>(*m.find("strings")), ElementsAre("a", ""));
  EXPECT_THAT(std::get<std::vector<int64_t>>(*m.find("ints")), ElementsAre(1, -2, 3));
  EXPECT_THAT(std::get<std::vector<bool>>(*m.find("bools")), ElementsAre(false, true));
  EXPECT_THAT(std::get<std::vector<double>>(*m.find("nested")), ElementsAre(1.5, 2.5, 3.5));
  ASSERT_EQ(read->tensors.size(), 3u);
  EXPECT_EQ(read->tensors[0].name, "a");
  EXPECT_EQ(read->tensors[0].dtype, DType::F32);
  EXPECT_THAT(read->tensors[0].shape, ElementsAre(2, 3));
  EXPECT_EQ(read->tensors[0].data.size(), 24u);
  EXPECT_EQ(read->tensors[1].dtype, DType::Q8_0);
  EXPECT_EQ(text_of(read->tensors[1]), std::string(34, 'q'));
  EXPECT_EQ(text_of(read->tensors[2]), "12345");
}

TEST(Gguf, VersionTwoIsReadAndOthersAreRefusedByNumber) {
  EXPECT_TRUE(read_gguf(as_bytes(header(0, 0, 2).text())).ok());
  EXPECT_THAT(status_of(header(0, 0, 1)).message(), HasSubstr("version 1"));
  EXPECT_THAT(status_of(header(0, 0, 4)).message(), HasSubstr("version 4"));
  EXPECT_THAT(status_of(header(0, 0, 0x03000000)).message(), HasSubstr("big-endian"));
  EXPECT_EQ(status_of(Bytes().raw("GGML").u32(3)).code(), StatusCode::kDataLoss);
}

TEST(Gguf, EveryTruncationIsAnErrorWithAPlace) {
  const std::string file = small_file();
  for (size_t n = 0; n < file.size(); ++n) {
    // A copy of exactly n bytes, so that the sanitizer sees a read beyond them.
    const std::vector<char> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(n));
    const auto read = read_gguf(std::as_bytes(std::span(cut)));
    EXPECT_FALSE(read.ok()) << n << " of " << file.size() << " bytes";
  }
}

TEST(Gguf, NoBitFlipCrashesOrReachesOutside) {
  const std::string file = small_file();
  for (size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::vector<char> flipped(file.begin(), file.end());
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    const auto bytes = std::as_bytes(std::span(flipped));
    const auto read = read_gguf(bytes);
    if (!read.ok()) {
      EXPECT_FALSE(read.status().message().empty());
      continue;
    }
    for (const TensorEntry& entry : read->tensors) {
      EXPECT_GE(entry.data.data(), bytes.data());
      EXPECT_LE(entry.data.data() + entry.data.size(), bytes.data() + bytes.size());
    }
  }
}

TEST(Gguf, OversizedCountsAreRefusedBeforeAllocation) {
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  EXPECT_EQ(status_of(header(kHuge, 0)).code(), StatusCode::kLimitExceeded);
  EXPECT_EQ(status_of(header(0, kHuge)).code(), StatusCode::kLimitExceeded);
  EXPECT_EQ(status_of(header(60'000, 0)).code(), StatusCode::kDataLoss);
  EXPECT_EQ(status_of(header(0, 60'000)).code(), StatusCode::kDataLoss);
  EXPECT_FALSE(status_of(header(0, 1).u64(kHuge).raw("key")).ok());
  for (const uint32_t type : {0u, 6u, 7u, 8u, 9u, 10u}) {
    for (const uint64_t count : {kHuge, ~uint64_t{0}, uint64_t{16'000'000}}) {
      const Status status = status_of(header(0, 1).string("k").u32(kTypeArray).u32(type).u64(count).u64(0));
      EXPECT_FALSE(status.ok());
      EXPECT_THAT(status.message(), HasSubstr("'k'"));
    }
  }
  EXPECT_FALSE(status_of(header(0, 1).string("k").u32(kTypeString).u64(kHuge).raw("x")).ok());
}

TEST(Gguf, NestedArraysAreBoundedAndOfOneType) {
  Bytes deep = header(0, 1);
  deep.string("k").u32(kTypeArray);
  for (int i = 0; i < 10; ++i) deep.u32(kTypeArray).u64(1);
  EXPECT_THAT(status_of(deep).message(), HasSubstr("nested deeper than 4"));
  Bytes mixed = header(0, 1);
  mixed.string("k").u32(kTypeArray).u32(kTypeArray).u64(2).u32(6).u64(1).number(1.0f).u32(4).u64(1).u32(1);
  EXPECT_THAT(status_of(mixed).message(), HasSubstr("different types"));
  // Small arrays below one another must not add up beyond the limit either: 2^24 in all.
  Bytes wide = header(0, 1);
  wide.string("k").u32(kTypeArray).u32(kTypeArray).u64(17);
  for (int i = 0; i < 17; ++i) wide.u32(0).u64(1 << 20).raw(std::string(1 << 20, '\1'));
  EXPECT_EQ(status_of(wide).code(), StatusCode::kLimitExceeded);
}

TEST(Gguf, ContradictionsNameTheThing) {
  const auto one_tensor = [](std::string_view name, std::vector<uint64_t> ne, uint32_t type, uint64_t offset,
                             size_t data) {
    Bytes out = header(1, 0);
    tensor_info(out, name, std::move(ne), type, offset);
    return status_of(out.pad(32).raw(std::string(data, 'x')));
  };
  EXPECT_TRUE(one_tensor("t", {8}, 0, 0, 32).ok());
  EXPECT_THAT(one_tensor("t", {8}, 0, 0, 31).message(), HasSubstr("tensor 't': 32 bytes at data offset 0"));
  EXPECT_THAT(one_tensor("t", {8}, 0, 32, 32).message(), HasSubstr("tensor 't'"));
  EXPECT_THAT(one_tensor("t", {8}, 0, 7, 64).message(), HasSubstr("no multiple of the alignment 32"));
  EXPECT_THAT(one_tensor("t", {8}, 0, ~uint64_t{31}, 64).message(), HasSubstr("tensor 't'"));
  EXPECT_THAT(one_tensor("t", {33}, 8, 0, 64).message(), HasSubstr("no multiple of Q8_0's block of 32"));
  EXPECT_THAT(one_tensor("t", {8}, 19, 0, 64).message(), HasSubstr("tensor type 19 (IQ1_S) is not read"));
  EXPECT_THAT(one_tensor("t", {8}, 4, 0, 64).message(), HasSubstr("unknown tensor type 4"));
  EXPECT_THAT(one_tensor("t", {8}, 1000, 0, 64).message(), HasSubstr("unknown tensor type 1000"));
  EXPECT_THAT(one_tensor("t", {}, 0, 0, 64).message(), HasSubstr("0 dimensions"));
  EXPECT_THAT(one_tensor("t", {1, 1, 1, 1, 1}, 0, 0, 64).message(), HasSubstr("5 dimensions"));
  EXPECT_THAT(one_tensor("t", {8, 0}, 0, 0, 64).message(), HasSubstr("dimension 1 is 0"));
  EXPECT_THAT(one_tensor("t", {1ull << 40, 1ull << 40}, 0, 0, 64).message(), HasSubstr("2^63"));
  EXPECT_THAT(one_tensor("t", {1ull << 62}, 0, 0, 64).message(), HasSubstr("2^63"));
  EXPECT_THAT(one_tensor("", {8}, 0, 0, 64).message(), HasSubstr("tensor 1 of 1: empty name"));
}

TEST(Gguf, DuplicatesAndOverlapsAreRefused) {
  Bytes keys = header(0, 2);
  keys.string("k").u32(kTypeU32).u32(1).string("k").u32(kTypeU32).u32(2);
  EXPECT_THAT(status_of(keys).message(), HasSubstr("'k' occurs twice"));
  Bytes names = header(2, 0);
  tensor_info(names, "t", {8}, 0, 0);
  tensor_info(names, "t", {8}, 0, 32);
  EXPECT_THAT(status_of(names.pad(32).raw(std::string(64, 'x'))).message(), HasSubstr("tensor 't' occurs twice"));
  Bytes overlap = header(2, 0);
  tensor_info(overlap, "low", {9}, 0, 0);
  tensor_info(overlap, "high", {8}, 0, 32);
  EXPECT_THAT(status_of(overlap.pad(32).raw(std::string(64, 'x'))).message(),
              HasSubstr("tensors 'low' and 'high' overlap"));
}

TEST(Gguf, AlignmentIsAPowerOfTwoWithinBounds) {
  const auto with_alignment = [](uint32_t alignment) {
    return status_of(header(0, 1).string("general.alignment").u32(kTypeU32).u32(alignment));
  };
  for (const uint32_t good : {8u, 16u, 32u, 4096u, 65'536u}) EXPECT_TRUE(with_alignment(good).ok()) << good;
  for (const uint32_t bad : {0u, 1u, 4u, 24u, 131'072u, 0xFFFFFFFFu}) EXPECT_FALSE(with_alignment(bad).ok()) << bad;
}

TEST(Gguf, UnknownValueTypesAndBooleansAreRefused) {
  EXPECT_THAT(status_of(header(0, 1).string("k").u32(13).u32(1)).message(), HasSubstr("unknown value type 13"));
  EXPECT_THAT(status_of(header(0, 1).string("k").u32(kTypeArray).u32(99).u64(1).u32(1)).message(),
              HasSubstr("unknown value type 99"));
  EXPECT_THAT(status_of(header(0, 1).string("k").u32(kTypeBool).number<uint8_t>(2)).message(),
              HasSubstr("boolean is 2"));
}

Metadata sample_metadata() {
  const std::string file = small_file();
  return read_gguf(as_bytes(file))->metadata;
}

TEST(GgufWriter, StopsWhenToldAndLeavesNothing) {
  const ScratchFolder folder;
  const std::vector<std::string> data = {std::string(24, 'a'), std::string(24, 'b')};
  const std::vector<TensorSpec> specs = {{"x", DType::F32, {2, 3}}, {"y", DType::F32, {2, 3}}};
  const Status status = write_gguf(folder / "out.gguf", sample_metadata(), specs, produce_texts(data),
                                   [](uint64_t done, uint64_t) { return done < 48; });
  EXPECT_EQ(status.code(), StatusCode::kCancelled) << status.to_string();
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(GgufWriter, RoundTripsMetadataAndTensors) {
  const ScratchFolder folder;
  const std::vector<std::string> data = {std::string(24, 'a'), std::string(36, 'b'), std::string(3, 'c')};
  const std::vector<TensorSpec> specs = {
      {"x", DType::F32, {2, 3}}, {"y", DType::Q4_0, {2, 32}}, {"z", DType::I8, {1, 1, 3}}};
  std::vector<uint64_t> seen;
  const Status status = write_gguf(folder / "out.gguf", sample_metadata(), specs, produce_texts(data),
                                   [&](uint64_t done, uint64_t total) {
                                     EXPECT_EQ(total, 63u);
                                     seen.push_back(done);
                                     return true;
                                   });
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.back(), 63u);
  EXPECT_EQ(folder.entries(), 1u);
  const std::string file = read_whole(folder / "out.gguf");
  const auto read = read_gguf(as_bytes(file));
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->metadata.values(), sample_metadata().values());
  ASSERT_EQ(read->tensors.size(), specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    EXPECT_EQ(read->tensors[i].name, specs[i].name);
    EXPECT_EQ(read->tensors[i].dtype, specs[i].dtype);
    EXPECT_EQ(read->tensors[i].shape, specs[i].shape);
    EXPECT_EQ(text_of(read->tensors[i]), data[i]);
  }
}

TEST(GgufWriter, AFailingProducerLeavesWhatWasThere) {
  const ScratchFolder folder;
  write_whole(folder / "out.gguf", "precious");
  const std::vector<TensorSpec> specs = {{"x", DType::I8, {4}}};
  const auto attempt = [&](const TensorProducer& produce) {
    return write_gguf(folder / "out.gguf", Metadata(), specs, produce).code();
  };
  EXPECT_EQ(attempt([](size_t, const TensorSink&) { return cancelled("stop"); }), StatusCode::kCancelled);
  EXPECT_EQ(attempt([](size_t, const TensorSink& sink) { return sink(as_bytes("abc")); }), StatusCode::kInternal);
  EXPECT_EQ(attempt([](size_t, const TensorSink& sink) { return sink(as_bytes("abcde")); }), StatusCode::kInternal);
  EXPECT_EQ(read_whole(folder / "out.gguf"), "precious");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(GgufWriter, RefusesWhatTheReaderWould) {
  const ScratchFolder folder;
  const std::vector<std::string> none;
  const auto write = [&](const Metadata& metadata, std::vector<TensorSpec> specs) {
    return write_gguf(folder / "out.gguf", metadata, specs, produce_texts(none)).code();
  };
  Metadata bad_alignment;
  bad_alignment.set("general.alignment", uint64_t{12});
  EXPECT_EQ(write(bad_alignment, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(write({}, {{"x", DType::U8, {4}}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(write({}, {{"x", DType::F32, {}}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(write({}, {{"x", DType::F32, {0}}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(write({}, {{"x", DType::Q4_K, {255}}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(write({}, {{"x", DType::F32, {1}}, {"x", DType::F32, {1}}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(folder.entries(), 0u);
}

RC_GTEST_PROP(GgufProperty, AnyMetadataRoundTrips, ()) {
  const auto ints = *rc::gen::arbitrary<std::map<std::string, int64_t>>();
  const auto doubles = *rc::gen::arbitrary<std::vector<double>>();
  const auto texts = *rc::gen::arbitrary<std::vector<std::string>>();
  const auto wide = *rc::gen::arbitrary<std::vector<int64_t>>();
  Metadata metadata;
  for (const auto& [key, value] : ints) metadata.set("i." + key, value);
  metadata.set("doubles", doubles);
  metadata.set("texts", texts);
  metadata.set("wide", wide);
  const ScratchFolder folder;
  RC_ASSERT(write_gguf(folder / "m.gguf", metadata, {}, [](size_t, const TensorSink&) { return ok_status(); }).ok());
  const std::string file = read_whole(folder / "m.gguf");
  const auto read = read_gguf(as_bytes(file));
  RC_ASSERT(read.ok());
  RC_ASSERT(read->metadata.values() == metadata.values());
}

RC_GTEST_PROP(GgufProperty, RandomBytesNeverCrash, ()) {
  const auto tail = *rc::gen::arbitrary<std::vector<uint8_t>>();
  Bytes out = header(*rc::gen::inRange(0, 4), *rc::gen::inRange(0, 4));
  for (const uint8_t byte : tail) out.number(byte);
  (void)read_gguf(as_bytes(out.text())).ok();
}

}  // namespace
}  // namespace pare
