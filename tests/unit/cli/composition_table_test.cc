#include "cli/composition_table.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "attention/selector.h"
#include "cli/inspect_policies.h"
#include "kv/policy.h"

namespace pare::cli {
namespace {

TEST(CompositionPage, IsWhatTheRecordsSay) {
  std::ifstream in(std::filesystem::path(PARE_SOURCE_DIR) / "docs/composition.md", std::ios::binary);
  const std::string page(std::istreambuf_iterator<char>(in), {});
  EXPECT_EQ(page, composition_page()) << "pare inspect policies --markdown > docs/composition.md";
}

TEST(CompositionPage, NamesEveryMethodAndEveryReason) {
  const std::string page = composition_page();
  for (const SelectorEntry& e : selector_registry()) {
    EXPECT_NE(page.find("`attn=" + std::string(e.schema.name) + "`"), std::string::npos) << e.schema.name;
  }
  for (const KvPolicyEntry& e : kv_policy_registry()) {
    EXPECT_NE(page.find("`kv=" + std::string(e.schema.name) + "`"), std::string::npos) << e.schema.name;
  }
  int refused = 0;
  for (const PolicyPair& p : policy_pairs()) {
    if (p.legal.ok()) continue;
    ++refused;
    EXPECT_NE(page.find(". " + std::string(p.legal.message()) + "\n"), std::string::npos) << p.legal.message();
  }
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace pare::cli
