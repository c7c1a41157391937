// What a line in `pare chat` means: part of a message, or a command.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "cli/line_editor.h"
#include "pare/status.h"

namespace pare::cli {

// Reads the next line; `continued` is false for the first line of a message.
using NextLine = std::function<Expected<LineOutcome>(bool continued, std::string* line)>;

// One message. A line that ends with a backslash goes on in the next one. A line that begins with """ opens a block
// that ends with the next line that ends with """ (or with the same line); inside, backslashes are plain characters.
// Input that ends inside a message delivers what is there; an interrupt drops it.
Expected<LineOutcome> read_message(const NextLine& next, std::string* message);

struct ChatCommand {
  std::string name, argument;  // "save", "talk.json"
};
// A message of one line that begins with '/'. "//..." is a message that begins with a slash: nullopt, and one slash is
// taken off `message`.
std::optional<ChatCommand> parse_chat_command(std::string* message);

}  // namespace pare::cli
