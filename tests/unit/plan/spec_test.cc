#include "plan/spec.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/limits.h"
#include "base/rng.h"

namespace pare {
namespace {

using ::testing::HasSubstr;

std::string canonical(std::string_view text) {
  auto spec = parse_spec(text, "kv");
  return spec.ok() ? print_spec(*spec) : std::string(spec.status().message());
}

TEST(Spec, PrintsEveryKindOfValueCanonically) {
  EXPECT_EQ(canonical("dense"), "dense");
  EXPECT_EQ(canonical("dense()"), "dense");
  EXPECT_EQ(canonical(" a ( x = 1 , y=-2 ) + b "), "a(x=1,y=-2)+b");
  EXPECT_EQ(canonical("a(x=1.50,y=1e3,z=1e300)"), "a(x=1.5,y=1000.0,z=1e+300)");
  EXPECT_EQ(canonical("wave(retrieve=1.8%,p=2%)"), "wave(retrieve=1.8%,p=2%)");
  EXPECT_EQ(canonical("wave(host=8GiB,b=2048KiB,c=1025B,d=0TiB)"), "wave(host=8GiB,b=2MiB,c=1025B,d=0B)");
  EXPECT_EQ(canonical("a(layers=0-3,7,sink=4)"), "a(layers=0-3,7,sink=4)");
  EXPECT_EQ(canonical("a(layers=3, 4 ,9-9)"), "a(layers=3-4,9)");
  EXPECT_EQ(canonical("a(layers=7-7)"), "a(layers=7)");
  EXPECT_EQ(canonical("leank(mask=data/m-1.bin,q=\"a b;\\\"\\\\\")"), "leank(mask=data/m-1.bin,q=\"a b;\\\"\\\\\")");
  EXPECT_EQ(canonical("a(p=\"plain\")"), "a(p=plain)");
}

TEST(Spec, SplitsAPairIntoItsHalves) {
  auto pair = parse_spec_pair(
      "attn=triangle(sink=8,window=512,last=128,layers=16-31)+minference; "
      "kv=leank(mask=file)+wave(retrieve=1.8%,host=8GiB)");
  ASSERT_TRUE(pair.ok()) << pair.status().message();
  EXPECT_EQ(print_spec(pair->attn), "triangle(sink=8,window=512,last=128,layers=16-31)+minference");
  EXPECT_EQ(print_spec(pair->kv), "leank(mask=file)+wave(retrieve=1.8%,host=8GiB)");
  pair = parse_spec_pair("kv=a(p=\";attn=\")");
  ASSERT_TRUE(pair.ok()) << pair.status().message();
  EXPECT_EQ(print_spec(pair->attn), "dense");
  EXPECT_EQ(print_spec(pair->kv), "a(p=\";attn=\")");
  EXPECT_THAT(std::string(parse_spec_pair("attn=a;attn=b").status().message()), HasSubstr("given twice"));
  EXPECT_THAT(std::string(parse_spec_pair("a=b").status().message()), HasSubstr("expected attn=... or kv=..."));
  EXPECT_THAT(std::string(parse_spec_pair("attn=a;kv=b(").status().message()), HasSubstr("column 13"));
}

TEST(Spec, ErrorsPointAtTheCharacter) {
  EXPECT_EQ(canonical("streaming(sink=)"),
            "kv spec, column 16: expected a value: a number, a layer list, a word or a \"string\"\n"
            "  streaming(sink=)\n"
            "                 ^");
  EXPECT_THAT(canonical(""), HasSubstr("column 1: the spec is empty"));
  EXPECT_THAT(canonical("Dense"), HasSubstr("column 1: expected a policy name"));
  EXPECT_THAT(canonical("a+"), HasSubstr("column 3: expected a policy name"));
  EXPECT_THAT(canonical("a b"), HasSubstr("column 3: expected '+'"));
  EXPECT_THAT(canonical("a(x=1 y=2)"), HasSubstr("column 7: expected ',' or ')'"));
  EXPECT_THAT(canonical("a(x=1,x=2)"), HasSubstr("column 7: parameter 'x' is given twice"));
  EXPECT_THAT(canonical("a(x=5-3)"), HasSubstr("column 5: a layer range runs from low to high"));
  EXPECT_THAT(canonical("a(x=5,3)"), HasSubstr("column 7: layer lists are ascending"));
  EXPECT_THAT(canonical("a(x=5-)"), HasSubstr("column 7: expected a layer number"));
  EXPECT_THAT(canonical("a(x=0-99999)"), HasSubstr("layer number out of range (limit 1023)"));
  EXPECT_THAT(canonical("a(x=12GB)"), HasSubstr("column 7: unknown unit"));
  EXPECT_THAT(canonical("a(x=1.5GiB)"), HasSubstr("column 5: a byte size is a whole number"));
  EXPECT_THAT(canonical("a(x=9999999999TiB)"), HasSubstr("byte size out of range"));
  EXPECT_THAT(canonical("a(x=99999999999999999999)"), HasSubstr("integer out of range"));
  EXPECT_THAT(canonical("a(x=1e999)"), HasSubstr("number out of range"));
  EXPECT_THAT(canonical("a(x=\"ab)"), HasSubstr("column 5: string without closing quote"));
  EXPECT_THAT(canonical("a(x=\"a\nb\")"), HasSubstr("column 7: control character"));
  EXPECT_THAT(canonical("a(x=\"a\\n\")"), HasSubstr("expected \\\" or \\\\"));
}

TEST(Spec, LimitsAreErrors) {
  EXPECT_THAT(canonical(std::string(kMaxSpecBytes + 1, 'a')), HasSubstr("4097 bytes, limit 4096"));
  std::string terms = "a";
  for (int i = 0; i < kMaxSpecTerms; ++i) terms += "+a";
  EXPECT_THAT(canonical(terms), HasSubstr("more than 16 terms"));
  std::string params = "a(";
  for (int i = 0; i <= kMaxSpecParams; ++i) params += fmt::format("p{}=1,", i);
  EXPECT_THAT(canonical(params), HasSubstr("more than 32 parameters"));
  std::string layers = "a(l=0";
  for (int i = 1; i <= kMaxSpecLayerRanges; ++i) layers += fmt::format(",{}", 2 * i);
  EXPECT_THAT(canonical(layers + ")"), HasSubstr("more than 64 layer ranges"));
}

TEST(Spec, TheCaretStaysBelowItsCharacterInLongAndForeignText) {
  const std::string text = std::string(200, 'a') + "(\xc3\xa4)" + std::string(200, 'b');
  const std::string message(parse_spec(text, "attn").status().message());
  EXPECT_THAT(message, HasSubstr("column 202"));
  const size_t shown = message.find('\n') + 1, caret = message.rfind('\n') + 1;
  EXPECT_EQ(message[shown + (message.find('^') - caret)], '?');
  EXPECT_LT(message.size(), 300u);
}

// print(parse(text)) is a fixed point, for random well-formed specs.
TEST(Spec, RandomSpecsRoundTrip) {
  Philox rng(1);
  const auto name = [&] {
    std::string s(1, static_cast<char>('a' + rng.below(26)));
    for (uint32_t i = rng.below(6); i > 0; --i) s += "abz019_"[rng.below(7)];
    return s;
  };
  const auto value = [&]() -> std::string {
    switch (rng.below(6)) {
      case 0: return std::to_string(static_cast<int32_t>(rng()));
      case 1: {
        SpecValue v;
        v.kind = SpecValue::Kind::kFloat;
        v.number = std::ldexp(rng.normal(), static_cast<int>(rng.below(200)) - 100);
        return print_value(v);
      }
      case 2: return fmt::format("{}.{}%", rng.below(1000), rng.below(1000));
      case 3: {
        constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB"};
        return fmt::format("{}{}", rng.below(100000), kUnits[rng.below(4)]);
      }
      case 4: {
        std::string s;
        uint32_t layer = rng.below(4);
        for (uint32_t i = 0; i < 1 + rng.below(5); ++i) {
          if (i > 0) s += ",";
          s += std::to_string(layer);
          if (rng.below(2)) s += fmt::format("-{}", layer += rng.below(5));
          layer += 1 + rng.below(4);
        }
        return s;
      }
      default: {
        std::string s = "\"";
        for (uint32_t i = rng.below(8); i > 0; --i) {
          const char c = static_cast<char>(' ' + rng.below(95));
          if (c == '"' || c == '\\') s += '\\';
          s += c;
        }
        return s + "\"";
      }
    }
  };
  for (int n = 0; n < 3000; ++n) {
    std::string text;
    for (uint32_t t = 0; t < 1 + rng.below(3); ++t) {
      if (t > 0) text += " + ";
      text += name();
      const uint32_t params = rng.below(4);
      for (uint32_t p = 0; p < params; ++p) {
        text += p == 0 ? "(" : ", ";
        text += fmt::format("{}{} = {}", name(), p, value());
      }
      if (params > 0) text += ")";
    }
    auto spec = parse_spec(text, "attn");
    ASSERT_TRUE(spec.ok()) << text << "\n" << spec.status().message();
    const std::string printed = print_spec(*spec);
    auto again = parse_spec(printed, "attn");
    ASSERT_TRUE(again.ok()) << printed << "\n" << again.status().message();
    EXPECT_EQ(*again, *spec) << text;
    EXPECT_EQ(print_spec(*again), printed);
  }
}

// Damaged text: an error or a spec that round-trips, never anything else.
TEST(Spec, MutatedTextNeverBreaks) {
  Philox rng(2);
  const std::string seed = "triangle(sink=8,window=1.8%,layers=16-31,40)+wave(host=8GiB,p=\"x\\\"\")";
  int parsed = 0;
  for (int n = 0; n < 20000; ++n) {
    std::string text = seed;
    for (uint32_t i = 0; i < 1 + rng.below(3); ++i)
      text[rng.below(static_cast<uint32_t>(text.size()))] = static_cast<char>(rng());
    auto spec = parse_spec(text, "attn");
    if (!spec.ok()) {
      EXPECT_THAT(std::string(spec.status().message()), HasSubstr("column "));
      continue;
    }
    ++parsed;
    auto again = parse_spec(print_spec(*spec), "attn");
    ASSERT_TRUE(again.ok()) << text;
    EXPECT_EQ(*again, *spec);
  }
  EXPECT_GT(parsed, 100);
}

}  // namespace
}  // namespace pare
