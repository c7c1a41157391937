// Replays what Jinja2 rendered (tools/render_reference.py): the committed files, and another one on demand.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "text/chat_template.h"

namespace pare {
namespace {

using Json = nlohmann::json;

const std::string kFolder = std::string(PARE_SOURCE_DIR) + "/tests/data/templates/";

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// The JSON text of the input that a case names, or nothing.
std::string named_input(const Json& document, const Json& test, const char* group, const char* fallback) {
  return test.contains(group) ? document[group][test[group].get<std::string>()].get<std::string>() : fallback;
}

struct Tally {
  int text = 0, raised = 0, error = 0, declined = 0;
};

// Where `declines_allowed`, a kUnsupported or kLimitExceeded of ours is counted instead of compared:
// random templates reach big integers and addresses of objects.
Tally replay(const std::string& path, bool declines_allowed = false) {
  Tally tally;
  const Json document = Json::parse(read_file(path));
  const std::string bos = document["bos"], eos = document["eos"];
  std::map<std::string, std::string> sources;
  for (const Json& test : document["cases"]) {
    std::string source;
    if (test.contains("source")) {
      source = test["source"];
    } else {
      std::string& text = sources[test["template"]];
      if (text.empty()) text = read_file(kFolder + test["template"].get<std::string>());
      source = text;
    }
    const std::string messages = named_input(document, test, "messages", "[]");
    const std::string tools = named_input(document, test, "tools", "");
    const std::string extra = named_input(document, test, "extra", "");
    auto parsed = ChatTemplate::parse(source);
    const auto rendered =
        !parsed.ok()
            ? Expected<std::string>(parsed.status())
            : parsed->render({.messages_json = messages,
                              .tools_json = tools,
                              .extra_json = extra,
                              .bos_token = bos,
                              .eos_token = eos,
                              .add_generation_prompt = test.value("add_generation_prompt", true),
                              .strftime_now = [](std::string_view format) { return "<" + std::string(format) + ">"; }});
    const std::string what = test.dump(-1, ' ', false, Json::error_handler_t::replace);
    const StatusCode code = rendered.status().code();
    if (declines_allowed && (code == StatusCode::kUnsupported || code == StatusCode::kLimitExceeded)) {
      ++tally.declined;
    } else if (test.contains("text")) {
      ++tally.text;
      EXPECT_TRUE(rendered.ok()) << what << "\n" << rendered.status().to_string();
      if (rendered.ok()) {
        EXPECT_EQ(*rendered, test["text"].get<std::string>()) << what;
      }
    } else if (test.contains("raised")) {
      ++tally.raised;
      EXPECT_EQ(code, StatusCode::kInvalidArgument) << what;
      EXPECT_EQ(rendered.status().message(), test["raised"].get<std::string>()) << what;
    } else {
      ++tally.error;
      EXPECT_FALSE(rendered.ok()) << what << "\n" << (rendered.ok() ? *rendered : std::string());
    }
  }
  return tally;
}

TEST(ChatTemplateGolden, TemplatesEqualJinja) {
  const Tally tally = replay(kFolder + "golden.json");
  EXPECT_GE(tally.text, 900);
  EXPECT_GE(tally.raised, 50);
}

TEST(ChatTemplateGolden, SnippetsEqualJinja) {
  const Tally tally = replay(kFolder + "snippets.json");
  EXPECT_GE(tally.text + tally.error, 400);
}

TEST(ChatTemplateGolden, CasesFromEnvironment) {
  const char* path = std::getenv("PARE_TEMPLATE_CASES");
  if (path == nullptr) GTEST_SKIP() << "PARE_TEMPLATE_CASES names no file";
  const Tally tally = replay(path, true);
  RecordProperty("text", tally.text);
  RecordProperty("error", tally.error);
  RecordProperty("declined", tally.declined);
}

}  // namespace
}  // namespace pare
