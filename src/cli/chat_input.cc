#include "cli/chat_input.h"

#include "base/limits.h"

namespace pare::cli {
namespace {

constexpr std::string_view kFence = "\"\"\"";

Status check_length(const std::string& message) {
  if (static_cast<int64_t>(message.size()) <= kMaxPromptBytes) return ok_status();
  return invalid_argument("a message longer than " + std::to_string(kMaxPromptBytes) + " bytes");
}

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

}  // namespace

Expected<LineOutcome> read_message(const NextLine& next, std::string* message) {
  message->clear();
  std::string line;
  PARE_ASSIGN_OR_RETURN(LineOutcome outcome, next(false, &line));
  if (outcome != LineOutcome::kLine) return outcome;
  const bool block = line.starts_with(kFence);
  if (block) line.erase(0, kFence.size());
  for (;;) {
    const bool ends = block ? line.ends_with(kFence) : !line.ends_with('\\');
    if (block && ends) line.erase(line.size() - kFence.size());
    if (!block && !ends) line.pop_back();
    *message += line;
    if (block && ends && line.empty() && message->ends_with('\n')) message->pop_back();
    PARE_RETURN_IF_ERROR(check_length(*message));
    if (ends) return LineOutcome::kLine;
    // A block that opens with nothing behind the quotes begins on the next line.
    if (!block || !message->empty()) *message += '\n';
    PARE_ASSIGN_OR_RETURN(outcome, next(true, &line));
    if (outcome == LineOutcome::kInterrupted) return outcome;
    if (outcome == LineOutcome::kEnd) return LineOutcome::kLine;
  }
}

std::optional<ChatCommand> parse_chat_command(std::string* message) {
  if (!message->starts_with('/') || message->find('\n') != std::string::npos) return std::nullopt;
  if (message->starts_with("//")) {
    message->erase(0, 1);
    return std::nullopt;
  }
  const std::string_view text = trimmed(std::string_view(*message).substr(1));
  const size_t space = text.find_first_of(" \t");
  ChatCommand command;
  command.name = text.substr(0, space);
  if (space != std::string_view::npos) command.argument = trimmed(text.substr(space));
  return command;
}

}  // namespace pare::cli
