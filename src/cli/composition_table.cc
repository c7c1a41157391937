#include "cli/composition_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "attention/selector.h"
#include "cli/inspect_policies.h"
#include "kv/policy.h"

namespace pare::cli {
namespace {

constexpr std::string_view kHead =
    "# What goes with what\n\n"
    "Written by `pare inspect policies --markdown > docs/composition.md` from the capability records of the "
    "registered\n"
    "selectors (`attn=`), KV stages (`kv=`) and engine features; a test keeps this page equal to them. A record says\n"
    "what its method needs of the stored rows, what it breaks for whoever comes after it and what it alone decides\n"
    "(`src/plan/caps.h`). A configuration is legal when every pair in it is. Numbers name the reasons at the end.\n";

// Reasons are told once, in the order in which they occur.
class Reasons {
 public:
  std::string cell(const Status& legal) {
    if (legal.ok()) return "yes";
    const std::string text(legal.message());
    const auto found = std::find(texts_.begin(), texts_.end(), text);
    const auto number = static_cast<size_t>(found - texts_.begin()) + 1;
    if (found == texts_.end()) texts_.push_back(text);
    return fmt::format("no ({})", number);
  }
  std::string list() const {
    std::string out;
    for (size_t i = 0; i < texts_.size(); ++i) out += fmt::format("{}. {}\n", i + 1, texts_[i]);
    return out.empty() ? "Nothing is refused.\n" : out;
  }

 private:
  std::vector<std::string> texts_;
};

struct Pipeline {
  std::string label;
  std::vector<const Caps*> stages;
};

void add_row(std::string* out, const std::vector<std::string>& cells) {
  *out += "|";
  for (const std::string& cell : cells) *out += fmt::format(" {} |", cell);
  *out += "\n";
}

void add_header(std::string* out, const std::vector<std::string>& cells) {
  add_row(out, cells);
  *out += "|";
  for (size_t i = 0; i < cells.size(); ++i) *out += "---|";
  *out += "\n";
}

// One table of the pairs whose first and second are among these.
std::string pair_table(const std::vector<PolicyPair>& pairs, std::string_view corner,
                       const std::vector<std::string>& rows, const std::vector<std::string>& columns,
                       Reasons* reasons) {
  std::string out;
  std::vector<std::string> cells{std::string(corner)};
  for (const std::string& column : columns) cells.push_back(fmt::format("`{}`", column));
  add_header(&out, cells);
  for (const std::string& row : rows) {
    cells = {fmt::format("`{}`", row)};
    for (const std::string& column : columns) {
      const auto pair = std::find_if(pairs.begin(), pairs.end(),
                                     [&](const PolicyPair& p) { return p.first == row && p.then == column; });
      cells.push_back(pair == pairs.end() ? "" : reasons->cell(pair->legal));
    }
    add_row(&out, cells);
  }
  return out;
}

// Every KV stage, and every two that may follow each other.
std::vector<Pipeline> kv_pipelines(const std::vector<PolicyPair>& pairs) {
  std::vector<Pipeline> out;
  const auto registry = kv_policy_registry();
  for (const KvPolicyEntry& entry : registry) {
    out.push_back({fmt::format("kv={}", entry.schema.name), {entry.schema.caps}});
  }
  for (const KvPolicyEntry& a : registry) {
    for (const KvPolicyEntry& b : registry) {
      const bool legal = std::any_of(pairs.begin(), pairs.end(), [&](const PolicyPair& p) {
        return p.first == fmt::format("kv={}", a.schema.name) && p.then == fmt::format("kv={}", b.schema.name) &&
               p.legal.ok();
      });
      if (!legal) continue;
      out.push_back({fmt::format("kv={}+{}", a.schema.name, b.schema.name), {a.schema.caps, b.schema.caps}});
    }
  }
  return out;
}

std::string configuration_table(const std::vector<PolicyPair>& pairs, Reasons* reasons) {
  std::string out;
  std::vector<std::string> cells{"configuration", "by itself"};
  for (const Caps& feature : feature_caps()) cells.push_back(fmt::format("`{}`", feature.name));
  add_header(&out, cells);
  for (const SelectorEntry& selector : selector_registry()) {
    for (const Pipeline& kv : kv_pipelines(pairs)) {
      cells = {fmt::format("`attn={}; {}`", selector.schema.name, kv.label)};
      const Caps* const selectors[] = {selector.schema.caps};
      cells.push_back(reasons->cell(check_legal(selectors, kv.stages, {})));
      for (const Caps& feature : feature_caps()) {
        const Caps* const one[] = {&feature};
        cells.push_back(reasons->cell(check_legal(selectors, kv.stages, one)));
      }
      add_row(&out, cells);
    }
  }
  return out;
}

}  // namespace

std::string composition_page() {
  const std::vector<PolicyPair> pairs = policy_pairs();
  std::vector<std::string> selectors, stages, features;
  for (const SelectorEntry& e : selector_registry()) selectors.push_back(fmt::format("attn={}", e.schema.name));
  for (const KvPolicyEntry& e : kv_policy_registry()) stages.push_back(fmt::format("kv={}", e.schema.name));
  for (const Caps& f : feature_caps()) features.emplace_back(f.name);
  std::vector<std::string> methods = selectors;
  methods.insert(methods.end(), stages.begin(), stages.end());

  Reasons reasons;
  std::string page(kHead);
  page += "\n## A selector, then a KV stage\n\n" + pair_table(pairs, "", selectors, stages, &reasons);
  page += "\n## Two stages of a pipeline: the row first, then the column\n\n" +
          pair_table(pairs, "", stages, stages, &reasons);
  page += "\n## A method and an engine feature\n\n" + pair_table(pairs, "", methods, features, &reasons);
  page +=
      "\n## Whole configurations\n\nEvery selector with every KV pipeline of one or two stages, and each feature.\n\n" +
      configuration_table(pairs, &reasons);
  return page + "\n## Reasons\n\n" + reasons.list();
}

}  // namespace pare::cli
