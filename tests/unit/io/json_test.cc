#include "io/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>

#include "base/limits.h"

namespace pare {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Metadata flat(std::string_view text) {
  const auto json = parse_json(text);
  EXPECT_TRUE(json.ok()) << json.status().to_string();
  const auto metadata = flatten_json(*json);
  EXPECT_TRUE(metadata.ok()) << metadata.status().to_string();
  return *metadata;
}

TEST(Json, KeepsTheFilesOrder) {
  const auto json = parse_json(R"({"z":1,"a":{"y":[1,"x",null,true,-2,0.5]},"b":[]})");
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(json->dump(), R"({"z":1,"a":{"y":[1,"x",null,true,-2,0.5]},"b":[]})");
}

TEST(Json, SyntaxErrorsNameTheByteAndHideTheToken) {
  const Status status = parse_json("{\"a\": 1, \x1b[2J}").status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("not JSON at byte 10"));
  EXPECT_EQ(status.message().find('\x1b'), std::string_view::npos);
  for (const char* bad : {"", "{", "[1,]", "{\"a\"}", "nul", "1 2", "\"\xff\"", "1e999", "NaN", "{'a':1}"}) {
    EXPECT_FALSE(parse_json(bad).ok()) << bad;
  }
}

TEST(Json, DuplicateKeysAreRefusedAtEveryDepth) {
  EXPECT_THAT(parse_json(R"({"a":1,"b":2,"a":3})").status().message(), HasSubstr("'a' occurs twice"));
  EXPECT_FALSE(parse_json(R"([{"x":{"k":1,"k":1}}])").ok());
  EXPECT_TRUE(parse_json(R"([{"k":1},{"k":1}])").ok());
}

TEST(Json, DepthIsBounded) {
  const auto nested = [](int64_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(parse_json(nested(kMaxJsonDepth)).ok());
  EXPECT_EQ(parse_json(nested(kMaxJsonDepth + 1)).status().code(), StatusCode::kLimitExceeded);
  EXPECT_EQ(parse_json(std::string(1 << 20, '[')).status().code(), StatusCode::kLimitExceeded);
}

TEST(Json, LargeObjectsDoNotCostTheSquare) {
  // The library's own builder would compare 1.3e10 pairs of keys here.
  std::string text = "{";
  for (int i = 0; i < 160'000; ++i) text += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":0";
  EXPECT_EQ(parse_json(text + "}")->size(), 160'000u);
}

TEST(FlattenJson, NamesNestedValuesWithDots) {
  const Metadata m =
      flat(R"({"hidden":64,"rope":{"factor":8.0,"type":"yarn","off":null},"tie":true,"big":18446744073709551615,
                              "low":-9223372036854775808,"ids":[1,2],"mixed":[1,2.5],"names":["a"],"flags":[true],
                              "blocks":[{"size":1},7,[3]],"none":[]})");
  EXPECT_EQ(*m.get_int("hidden"), 64);
  EXPECT_EQ(*m.get_float("rope.factor"), 8.0);
  EXPECT_EQ(*m.get_string("rope.type"), "yarn");
  EXPECT_FALSE(m.has("rope.off"));
  EXPECT_TRUE(*m.get_bool("tie"));
  EXPECT_EQ(std::get<uint64_t>(*m.find("big")), ~uint64_t{0});
  EXPECT_EQ(*m.get_int("low"), INT64_MIN);
  EXPECT_THAT(*m.get_int_array("ids"), ElementsAre(1, 2));
  EXPECT_THAT(*m.get_float_array("mixed"), ElementsAre(1.0, 2.5));
  EXPECT_THAT(**m.get_string_array("names"), ElementsAre("a"));
  EXPECT_EQ(*m.get_int("blocks.0.size"), 1);
  EXPECT_EQ(*m.get_int("blocks.1"), 7);
  EXPECT_THAT(*m.get_int_array("blocks.2"), ElementsAre(3));
  EXPECT_TRUE((*m.get_string_array("none"))->empty());
}

TEST(FlattenJson, RefusesCollisionsAndOtherThings) {
  EXPECT_EQ(flatten_json(*parse_json(R"({"a.b":1,"a":{"b":2}})")).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(flatten_json(*parse_json("[1]")).status().code(), StatusCode::kInvalidArgument);
}

RC_GTEST_PROP(JsonProperty, AnyBytesAreParsedOrRefused, (const std::string& text)) {
  const auto json = parse_json(text);
  if (json.ok()) RC_ASSERT(*parse_json(json->dump()) == *json);
}

}  // namespace
}  // namespace pare
