// The interface, places of errors, and what bounds a hostile template.
#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/limits.h"

namespace pare {
namespace {

using ::testing::HasSubstr;

Expected<std::string> render(std::string_view source, ChatTemplateInputs inputs = {.messages_json = "[]"}) {
  auto parsed = ChatTemplate::parse(source);
  if (!parsed.ok()) return parsed.status();
  return parsed->render(inputs);
}

std::string repeated(std::string_view text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

void expect_error(std::string_view source, StatusCode code, std::string_view message) {
  const auto result = render(source);
  EXPECT_FALSE(result.ok()) << source.substr(0, 80);
  EXPECT_EQ(result.status().code(), code) << result.status().to_string();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(std::string(message)));
}

constexpr std::string_view kChatMl =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% "
    "endif %}";

TEST(ChatTemplate, RendersConversation) {
  const ChatTemplateInputs inputs = {.messages_json = R"([{"role": "user", "content": "Grüße"}])"};
  EXPECT_EQ(render(kChatMl, inputs).value(), "<|im_start|>user\nGrüße<|im_end|>\n<|im_start|>assistant\n");
  ChatTemplateInputs without = inputs;
  without.add_generation_prompt = false;
  EXPECT_EQ(render(kChatMl, without).value(), "<|im_start|>user\nGrüße<|im_end|>\n");
}

TEST(ChatTemplate, PassesVariables) {
  const ChatTemplateInputs inputs = {.messages_json = "[]",
                                     .tools_json = R"([{"name": "f", "a": 1}])",
                                     .extra_json = R"({"enable_thinking": false, "eos_token": "replaced"})",
                                     .bos_token = "<s>",
                                     .eos_token = "</s>",
                                     .strftime_now = [](std::string_view f) { return "now " + std::string(f); }};
  EXPECT_EQ(render("{{ bos_token }} {{ eos_token }} {{ tools | tojson }} {{ enable_thinking }} {{ "
                   "strftime_now('%Y') }}",
                   inputs)
                .value(),
            R"(<s> replaced [{"name": "f", "a": 1}] False now %Y)");
  EXPECT_EQ(render("{{ tools }} {{ documents }} {{ bos_token is defined }}").value(), "None None True");
}

TEST(ChatTemplate, LocalTimeByDefault) {
  const std::string year = render("{{ strftime_now('%Y') }}").value();
  EXPECT_EQ(year.size(), 4u);
  EXPECT_EQ(year.find_first_not_of("0123456789"), std::string::npos);
}

TEST(ChatTemplate, SharedBetweenThreads) {
  const auto parsed =
      ChatTemplate::parse("{% macro m(x) %}{{ x * 2 }}{% endmacro %}{% for i in range(200) %}{{ m(i) }},{% endfor %}");
  ASSERT_TRUE(parsed.ok());
  const std::string wanted = parsed->render({.messages_json = "[]"}).value();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 20; ++k) EXPECT_EQ(parsed->render({.messages_json = "[]"}).value(), wanted);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ChatTemplateErrors, GivePlace) {
  expect_error("a\n  {{ x | nope }}", StatusCode::kInvalidArgument, "line 2, column 10: no filter named 'nope'");
  expect_error("{{ 1 is nope }}", StatusCode::kInvalidArgument, "line 1, column 6: no test named 'nope'");
  expect_error("{% if %}", StatusCode::kInvalidArgument, "line 1, column 7: unexpected '%}', expected an expression");
  expect_error("\n\n{% endfor %}", StatusCode::kInvalidArgument, "line 3, column 4: unknown tag 'endfor'");
  expect_error("{{ 'a\nb' + 1 }}", StatusCode::kInvalidArgument, "line 2, column 4: can only concatenate str");
  expect_error("x\n{{ messages.a.b }}", StatusCode::kInvalidArgument,
               "line 2, column 14: 'list object' has no attribute 'a'");
  expect_error("{{ nothing() }}", StatusCode::kInvalidArgument, "line 1, column 11: 'nothing' is undefined");
  expect_error("{% for x in y %}", StatusCode::kInvalidArgument, "unexpected end of template");
  expect_error("{# open", StatusCode::kInvalidArgument, "line 1, column 1: comment has no end");
  expect_error("{% include 'x' %}", StatusCode::kUnsupported, "line 1, column 4: tag 'include' is not supported");
}

TEST(ChatTemplateErrors, RaiseExceptionIsTheMessageAlone) {
  const auto result = render("{% macro m() %}{{ raise_exception('roles must alternate') }}{% endmacro %}{{ m() }}");
  EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(result.status().message(), "roles must alternate");
}

TEST(ChatTemplateErrors, BadInputs) {
  const auto code = [](ChatTemplateInputs inputs) { return render("{{ messages }}", inputs).status().code(); };
  EXPECT_EQ(code({.messages_json = ""}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.messages_json = "[1,"}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.messages_json = "[\"\xff\"]"}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.messages_json = "[\"\\ud800\"]"}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.messages_json = "[]", .tools_json = "{"}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.messages_json = "[]", .extra_json = "[]"}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.messages_json = "[]", .bos_token = "\xc3"}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.messages_json = "[1e999]"}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.messages_json = "[9223372036854775808]"}), StatusCode::kLimitExceeded);
  EXPECT_EQ(code({.messages_json = "[123456789012345678901234567890]"}), StatusCode::kLimitExceeded);
  EXPECT_EQ(code({.messages_json = repeated("[", 65)}), StatusCode::kLimitExceeded);
  EXPECT_EQ(ChatTemplate::parse("\xff").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ChatTemplate::parse(std::string(kMaxTemplateBytes + 1, 'x')).status().code(), StatusCode::kLimitExceeded);
  EXPECT_TRUE(ChatTemplate::parse(std::string(kMaxTemplateBytes, 'x')).ok());
}

TEST(ChatTemplateJson, KeepsOrderAndLastDuplicate) {
  EXPECT_EQ(render("{{ messages }}", {.messages_json = R"({"b": 1, "a": 2.0, "b": [null, true]})"}).value(),
            "{'b': [None, True], 'a': 2.0}");
}

TEST(ChatTemplateLimits, Steps) {
  expect_error("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
               StatusCode::kLimitExceeded, "steps");
  expect_error("{% for a in range(99999) %}{% set x = ('a' * 10000000) %}{% endfor %}", StatusCode::kLimitExceeded,
               "steps");
  expect_error("{% set x = range(60000) | list %}{% for a in x %}{{ x == x }}{% endfor %}", StatusCode::kLimitExceeded,
               "steps");
}

TEST(ChatTemplateLimits, MemoryIsAskedForBeforeItIsTaken) {
  for (const std::string_view source :
       {"{{ 'a' * 9000000000000000000 }}", "{{ [1] * 4000000000 }}", "{{ 'ab' | center(9000000000000) }}",
        "{{ 'a'.ljust(99999999999) }}", "{{ '%*d' % (99999999999, 1) }}", "{{ '{:>99999999999}'.format('a') }}",
        "{{ 'a' | indent(99999999999, true) }}", "{{ [1] | tojson(indent=99999999999) }}",
        "{{ 'a\tb'.expandtabs(99999999999) }}", "{{ [1] | batch(99999999999, 0) | list }}",
        "{{ '5'.zfill(99999999999) }}", "{% set x = 'a' * 50000000 %}{{ x.replace('a', x) }}",
        "{% set x = 'a' * 50000000 %}{{ [1, 2, 3, 4, 5, 6, 7] | join(x) }}",
        "{% set x = 'a' * 50000000 %}{{ x | list | length }}"}) {
    const auto result = render(source);
    EXPECT_EQ(result.status().code(), StatusCode::kLimitExceeded) << source;
  }
  expect_error("{{ range(100001) }}", StatusCode::kLimitExceeded, "MAX_RANGE");
  expect_error(
      "{% set ns = namespace(x='a' * 1000000) %}{% for i in range(400) %}{% set ns.x = ns.x + ns.x %}{% "
      "endfor %}",
      StatusCode::kLimitExceeded, "bytes");
}

TEST(ChatTemplateLimits, MemoryIsGivenBack) {
  // More than kMaxTemplateMemoryBytes in all, 10 MB at a time.
  EXPECT_EQ(render("{% for i in range(50) %}{% set x = 'a' * 10000000 %}{% endfor %}ok").value(), "ok");
}

TEST(ChatTemplateLimits, Output) {
  expect_error("{% set x = 'a' * 10000000 %}{{ x }}{{ x }}{{ x }}{{ x }}{{ x }}{{ x }}{{ x }}",
               StatusCode::kLimitExceeded, "output");
}

TEST(ChatTemplateLimits, Integers) {
  for (const std::string_view source :
       {"{{ 9223372036854775807 + 1 }}", "{{ -9223372036854775807 - 2 }}", "{{ 4611686018427387904 * 2 }}",
        "{{ 2 ** 63 }}", "{{ 10 ** 1000000000000 }}", "{{ 99999999999999999999 }}",
        "{{ (-9223372036854775807 - 1) // -1 }}", "{{ -(-9223372036854775807 - 1) }}",
        "{{ (-9223372036854775807 - 1) | abs }}", "{{ '99999999999999999999' | int }}"}) {
    const auto result = render(source);
    EXPECT_FALSE(result.ok()) << source;
  }
  EXPECT_EQ(render("{{ 2 ** 62 }} {{ (-9223372036854775807 - 1) % -1 }} {{ -9223372036854775807 - 1 }}").value(),
            "4611686018427387904 0 -9223372036854775808");
}

TEST(ChatTemplateLimits, NestingOfSource) {
  const auto nested = [](std::string_view open, std::string_view middle, std::string_view close, int n) {
    return repeated(open, n) + std::string(middle) + repeated(close, n);
  };
  EXPECT_TRUE(render("{{ " + nested("(", "1", ")", 20) + " }}").ok());
  for (const int n : {200, 80'000}) {
    expect_error("{{ " + nested("(", "1", ")", n) + " }}", StatusCode::kInvalidArgument, "nested deeper");
    expect_error("{{ " + nested("[", "1", "]", n) + " }}", StatusCode::kInvalidArgument, "nested deeper");
    expect_error("{{ " + repeated("not ", n) + "1 }}", StatusCode::kInvalidArgument, "nested deeper");
    expect_error("{{ " + repeated("- ", n) + "1 }}", StatusCode::kInvalidArgument, "nested deeper");
    expect_error("{{ " + repeated("1 if 1 else ", n) + "1 }}", StatusCode::kInvalidArgument, "nested deeper");
  }
  expect_error(nested("{% if 1 %}", "x", "{% endif %}", 20'000), StatusCode::kInvalidArgument, "nested deeper");
  EXPECT_EQ(render("{{ 0" + repeated(" + 1", 300) + " }}").value(), "300");
  expect_error("{{ 0" + repeated(" + 1", 100'000) + " }}", StatusCode::kInvalidArgument, "deeper than");
  expect_error("{{ s" + repeated(".a", 100'000) + " }}", StatusCode::kInvalidArgument, "deeper than");
  expect_error("{{ s" + repeated("|e", 100'000) + " }}", StatusCode::kInvalidArgument, "deeper than");
  EXPECT_EQ(render("{{ 0" + repeated(" ~ 1", 10'000) + " }}").value().size(), 10'001u);
}

TEST(ChatTemplateLimits, NestingOfValuesAndCalls) {
  expect_error("{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
               StatusCode::kLimitExceeded, "nested deeper");
  expect_error("{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = dict(a=ns.x) %}{% endfor %}",
               StatusCode::kLimitExceeded, "nested deeper");
  expect_error(
      "{% set ns = namespace(x=1) %}{% macro m() %}{% set ns.x = varargs %}{% endmacro %}"
      "{% for i in range(99999) %}{{ m(ns.x) }}{% endfor %}",
      StatusCode::kLimitExceeded, "nested deeper");
  expect_error("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", StatusCode::kLimitExceeded, "macros");
  expect_error("{{ 'a' | map(" + repeated("'map', ", 2'000) + "'upper') | list }}", StatusCode::kLimitExceeded,
               "filters inside filters");
  expect_error("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", StatusCode::kLimitExceeded, "namespaces");
  // The same list twice in each of 60 levels: 2^60 elements to print or compare, none of them in memory.
  expect_error(
      "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}"
      "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
      StatusCode::kLimitExceeded, "steps");
  expect_error(
      "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ "
      "ns.a }}",
      StatusCode::kLimitExceeded, "");
}

TEST(ChatTemplateLimits, RingsOfValuesAreFreed) {
  // Checked by the leak sanitizer: a namespace and a macro's scope that hold themselves.
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.self = ns %}{% macro m() %}x{% endmacro %}{% set ns.m = m %}"
                   "{% for i in range(3) %}{% macro k() %}{{ i }}{% endmacro %}{% set ns.k = k %}{% set ns.l = loop %}"
                   "{% endfor %}{{ ns.k() }}{{ ns.m() }}")
                .value(),
            "2x");
}

}  // namespace
}  // namespace pare
