// Lines to messages and commands.
#include "cli/chat_input.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace pare::cli {
namespace {

struct Read {
  LineOutcome outcome;
  std::string message;
  size_t lines;  // that were asked for
};

// Reads one message from `lines`; after the last comes `end`.
Read read(const std::vector<std::string>& lines, LineOutcome end = LineOutcome::kEnd) {
  Read result{LineOutcome::kEnd, "", 0};
  const NextLine next = [&](bool continued, std::string* line) -> Expected<LineOutcome> {
    EXPECT_EQ(continued, result.lines > 0);
    if (result.lines == lines.size()) return end;
    *line = lines[result.lines++];
    return LineOutcome::kLine;
  };
  result.outcome = *read_message(next, &result.message);
  return result;
}

TEST(ChatInput, OneLine) {
  EXPECT_EQ(read({"hello", "next"}).message, "hello");
  EXPECT_EQ(read({"hello", "next"}).lines, 1u);
  EXPECT_EQ(read({""}).message, "");
  EXPECT_EQ(read({}).outcome, LineOutcome::kEnd);
  EXPECT_EQ(read({}, LineOutcome::kInterrupted).outcome, LineOutcome::kInterrupted);
}

TEST(ChatInput, BackslashGoesOn) {
  EXPECT_EQ(read({"one\\", "two\\", "three", "next"}).message, "one\ntwo\nthree");
  EXPECT_EQ(read({"one\\"}).message, "one\n");
  EXPECT_EQ(read({"one\\"}, LineOutcome::kInterrupted).outcome, LineOutcome::kInterrupted);
}

TEST(ChatInput, Blocks) {
  EXPECT_EQ(read({"\"\"\"", "a\\", "", "b", "\"\"\"", "next"}).message, "a\\\n\nb");
  EXPECT_EQ(read({"\"\"\"a", "b\"\"\""}).message, "a\nb");
  EXPECT_EQ(read({"\"\"\"a\"\"\"", "next"}).message, "a");
  EXPECT_EQ(read({"\"\"\"", "a"}).message, "a\n");  // input ended inside
}

TEST(ChatInput, Commands) {
  const auto parse = [](std::string text) {
    const auto command = parse_chat_command(&text);
    return command ? command->name + "|" + command->argument : text;
  };
  EXPECT_EQ(parse("/help"), "help|");
  EXPECT_EQ(parse("/system  Be brief. "), "system|Be brief.");
  EXPECT_EQ(parse("hello /help"), "hello /help");
  EXPECT_EQ(parse("//etc/passwd"), "/etc/passwd");
  EXPECT_EQ(parse("/a\nb"), "/a\nb");
  EXPECT_EQ(parse("/"), "|");
}

}  // namespace
}  // namespace pare::cli
