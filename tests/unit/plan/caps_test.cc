#include "plan/caps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/layer_map.h"
#include "plan/reach.h"
#include "plan/registry.h"

namespace pare {
namespace {

using ::testing::HasSubstr;

TEST(Caps, NeedsMeetBreaksInTheirPhase) {
  const Caps prune = {.name = "prune", .phase = Phase::kDecode, .breaks = kFactFullWidth, .owns = kOwnMidRows};
  const Caps drop = {.name = "drop", .phase = Phase::kDecode, .breaks_sealed = kFactAllRows, .owns = kOwnPredicate};
  const Caps wide = {.name = "wide", .phase = Phase::kDecode, .needs = kFactFullWidth | kFactAllRows};
  EXPECT_FALSE(check_order(prune, wide, false).ok());
  EXPECT_THAT(std::string(check_order(prune, wide, false).message()),
              ::testing::AllOf(HasSubstr("'wide'"), HasSubstr("'prune'"), HasSubstr("FullWidth")));
  EXPECT_TRUE(check_order(drop, wide, false).ok());
  EXPECT_THAT(std::string(check_order(drop, wide, true).message()),
              ::testing::AllOf(HasSubstr("AllRows"), HasSubstr("once the prompt has ended")));
  EXPECT_TRUE(check_order(wide, prune, false).ok()) << "the order matters";
}

TEST(Caps, OneOwnerForAPhase) {
  Caps a = {.name = "a", .phase = Phase::kDecode, .owns = kOwnPredicate | kOwnCodec};
  Caps b = {.name = "b", .phase = Phase::kBoth, .owns = kOwnCodec};
  EXPECT_THAT(std::string(check_order(a, b, false).message()), HasSubstr("both own Codec"));
  b.phase = Phase::kPrefill;
  EXPECT_TRUE(check_order(a, b, false).ok());
}

TEST(Caps, FeaturesAreEntries) {
  ASSERT_NE(find_feature("second_turn"), nullptr);
  EXPECT_EQ(find_feature("nothing"), nullptr);
  const Caps drop = {.name = "drop", .phase = Phase::kDecode, .breaks_sealed = kFactAllRows, .owns = kOwnPredicate};
  const Caps* stages[] = {&drop};
  const Caps* chunks[] = {find_feature("chunked_prefill")};
  const Caps* turn[] = {find_feature("second_turn")};
  EXPECT_TRUE(check_legal({}, stages, chunks).ok());
  EXPECT_THAT(std::string(check_legal({}, stages, turn).message()), HasSubstr("'second_turn' cannot follow 'drop'"));
  EXPECT_EQ(fact_names(kFactPosOrder | kFactPrefixPure), "PosOrder|PrefixPure");
  EXPECT_EQ(fact_names(0), "nothing");
}

constexpr Caps kToyCaps = {.name = "toy"};
constexpr ParamSchema kToyParams[] = {
    {.name = "sink", .kind = ParamKind::kInt, .fallback = 4, .min = 0, .max = 64, .help = ""},
    {.name = "rate", .kind = ParamKind::kFraction, .fallback = 0.5, .min = 0, .max = 1, .help = ""},
    {.name = "host", .kind = ParamKind::kBytes, .fallback = 1 << 20, .min = 0, .max = 1e12, .help = ""},
    {.name = "scale", .kind = ParamKind::kFloat, .fallback = 1, .min = -10, .max = 10, .help = ""},
    {.name = "mask", .kind = ParamKind::kString, .optional = true, .help = ""},
    {.name = "layers", .kind = ParamKind::kLayers, .optional = true, .max = 1023, .help = ""},
};
constexpr PolicySchema kToy = {.name = "toy", .summary = "", .neutral = "toy", .caps = &kToyCaps, .params = kToyParams};

Expected<BoundTerm> bind(std::string_view text) {
  PARE_ASSIGN_OR_RETURN(const Spec spec, parse_spec(text, "kv"));
  return bind_term(spec, 0, kToy);
}
std::string bound(std::string_view text) {
  auto term = bind(text);
  return term.ok() ? term->canonical() : std::string(term.status().message());
}

TEST(Registry, CanonicalFormNamesDefaultsInSchemaOrder) {
  EXPECT_EQ(bound("toy"), "toy(sink=4,rate=0.5,host=1MiB,scale=1.0)");
  EXPECT_EQ(bound("toy(layers=0-3,mask=m,scale=2,host=1024,rate=1.8%,sink=7)"),
            "toy(sink=7,rate=0.018000000000000002,host=1KiB,scale=2.0,mask=m,layers=0-3)");
  for (const char* text : {"toy", "toy(rate=1.8%)", "toy(layers=7)", "toy(mask=\"a b\",host=3B)"}) {
    EXPECT_EQ(bound(bound(text)), bound(text)) << text;
  }
  auto term = bind("toy(layers=7,rate=25%)");
  ASSERT_TRUE(term.ok());
  EXPECT_EQ(term->integer("sink"), 4);
  EXPECT_EQ(term->number("rate"), 0.25);
  EXPECT_EQ(term->integer("host"), 1 << 20);
  EXPECT_EQ(term->layers("layers"), (std::vector<LayerRange>{{7, 7}}));
}

TEST(Registry, ErrorsListWhatIsKnown) {
  EXPECT_THAT(bound("toy(sunk=1)"),
              HasSubstr("column 5: unknown parameter 'sunk'; 'toy' takes sink, rate, host, scale, mask, layers"));
  EXPECT_THAT(bound("toy(sink=65)"), HasSubstr("column 10: sink: 65 is out of range; 0 to 64 is possible"));
  EXPECT_THAT(bound("toy(sink=-1)"), HasSubstr("out of range"));
  EXPECT_THAT(bound("toy(sink=1.5)"), HasSubstr("expected an integer"));
  EXPECT_THAT(bound("toy(rate=101%)"), HasSubstr("out of range; 0.0 to 1.0"));
  EXPECT_THAT(bound("toy(host=abc)"), HasSubstr("expected a byte size"));
  EXPECT_THAT(bound("toy(layers=x)"), HasSubstr("expected a layer list"));
  EXPECT_THAT(bound("toy(mask=1)"), HasSubstr("expected a word"));
}

TEST(LayerMap, GroupsByWindow) {
  std::vector<LayerInfo> layers(6);
  for (int l = 0; l < 6; ++l) layers[l] = {.window = l == 2 || l == 5 ? kNoWindow : 512, .kv_layer = l};
  auto map = make_layer_map(layers);
  ASSERT_TRUE(map.ok());
  EXPECT_EQ(map->class_of, (std::vector<int32_t>{0, 0, 1, 0, 0, 1}));
  EXPECT_EQ(map->classes[1].layers, (std::vector<int32_t>{2, 5}));
  layers[4].kv_layer = 3;
  EXPECT_THAT(std::string(make_layer_map(layers).status().message()),
              HasSubstr("layers 3 and 4 both write KV layer 3"));
  layers[4].writes_kv = false;
  layers[5].kv_layer = 4;
  EXPECT_TRUE(make_layer_map(layers).ok());
  layers[2].writes_kv = false;
  layers[2].kv_layer = 0;
  EXPECT_FALSE(make_layer_map(layers).ok()) << "another window's rows";
  EXPECT_FALSE(make_layer_map({}).ok());
}

TEST(Reach, LayerWindowHoldsAndHasNoSinks) {
  EXPECT_EQ(within_layer_window({4, 100}, kNoWindow), (Reach{4, 100}));
  EXPECT_EQ(within_layer_window({4, 100}, 512), (Reach{0, 100}));
  EXPECT_EQ(within_layer_window({4, 1000}, 512), (Reach{0, 512}));
  EXPECT_EQ(within_layer_window({}, 512), (Reach{0, 512}));
  EXPECT_EQ(reach_of(3, kMaxContext), Reach{});
}

}  // namespace
}  // namespace pare
