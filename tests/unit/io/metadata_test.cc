#include "io/metadata.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace pare {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Metadata sample() {
  Metadata m;
  m.set("flag", true);
  m.set("signed", int64_t{-3});
  m.set("unsigned", uint64_t{7});
  m.set("huge", std::numeric_limits<uint64_t>::max());
  m.set("number", 0.5);
  m.set("nan", std::numeric_limits<double>::quiet_NaN());
  m.set("text", std::string("abc"));
  m.set("ints", std::vector<int64_t>{1, 2});
  m.set("whole", std::vector<double>{3.0, -4.0});
  m.set("halves", std::vector<double>{0.5});
  m.set("names", std::vector<std::string>{"a", "b"});
  m.set("none", std::vector<int64_t>{});
  return m;
}

TEST(Metadata, ReadsEachType) {
  const Metadata m = sample();
  EXPECT_TRUE(*m.get_bool("flag"));
  EXPECT_EQ(*m.get_int("signed"), -3);
  EXPECT_EQ(*m.get_int("unsigned"), 7);
  EXPECT_EQ(*m.get_float("number"), 0.5);
  EXPECT_EQ(*m.get_float("unsigned"), 7.0);
  EXPECT_EQ(*m.get_string("text"), "abc");
  EXPECT_THAT(*m.get_int_array("ints"), ElementsAre(1, 2));
  EXPECT_THAT(*m.get_int_array("whole"), ElementsAre(3, -4));
  EXPECT_THAT(*m.get_float_array("ints"), ElementsAre(1.0, 2.0));
  EXPECT_THAT(**m.get_string_array("names"), ElementsAre("a", "b"));
}

TEST(Metadata, AnEmptyArrayIsOfAnyType) {
  const Metadata m = sample();
  EXPECT_TRUE((*m.get_string_array("none"))->empty());
  EXPECT_TRUE(m.get_float_array("none")->empty());
  EXPECT_TRUE(m.get_int_array("none")->empty());
}

TEST(Metadata, ErrorsNameKeyTypeAndRange) {
  const Metadata m = sample();
  EXPECT_EQ(m.get_int("absent").status().code(), StatusCode::kNotFound);
  EXPECT_THAT(m.get_int("absent").status().message(), HasSubstr("'absent' is missing"));
  EXPECT_EQ(m.get_int("text").status().code(), StatusCode::kDataLoss);
  EXPECT_THAT(m.get_int("text").status().message(), HasSubstr("'text' is a string, wanted an integer"));
  EXPECT_THAT(m.get_int("signed", 0, 9).status().message(), HasSubstr("is -3, allowed 0 to 9"));
  EXPECT_FALSE(m.get_int("huge").ok());
  EXPECT_FALSE(m.get_float("nan").ok());
  EXPECT_FALSE(m.get_int_array("halves").ok());
  EXPECT_FALSE(m.get_string_array("ints").ok());
  EXPECT_FALSE(m.get_bool("unsigned").ok());
}

TEST(Metadata, DefaultsStandInForAbsenceOnly) {
  const Metadata m = sample();
  EXPECT_EQ(*m.get_int_or("absent", 5), 5);
  EXPECT_EQ(*m.get_float_or("absent", 0.25), 0.25);
  EXPECT_TRUE(*m.get_bool_or("absent", true));
  EXPECT_EQ(*m.get_string_or("absent", "x"), "x");
  EXPECT_FALSE(m.get_int_or("text", 5).ok());
  EXPECT_FALSE(m.get_int_or("signed", 5, 0).ok());
}

TEST(Metadata, NamesInMessagesCannotReachTheTerminal) {
  const std::string hostile = std::string("\x1b[2J") + std::string(500, 'x');
  const Status status = Metadata().get_int(hostile).status();
  EXPECT_THAT(status.message(), HasSubstr("\\x1b[2J"));
  EXPECT_LT(status.message().size(), 200u);
}

}  // namespace
}  // namespace pare
