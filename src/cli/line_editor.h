// One line at a time from whoever types: with editing and history on a terminal, plainly otherwise.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "pare/status.h"

namespace pare::cli {

enum class LineOutcome {
  kLine,
  kEnd,          // end of input, or Ctrl-D on an empty line
  kInterrupted,  // Ctrl-C: what was typed of the line is dropped
};

// Reads standard input. It edits (libedit) when standard input and standard error are both terminals; prompts and
// editing go to standard error, so that standard output holds answers only. One instance at a time.
class LineEditor {
 public:
  LineEditor();
  // Writes the history file: owner-only, at most kMaxHistoryLines lines, replaced in one rename. A history that cannot
  // be read or written is silently left alone: it is a convenience.
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  bool interactive() const;
  // A line without its newline. kInvalidArgument beyond kMaxPromptBytes; kIoError.
  Expected<LineOutcome> read(const std::string& prompt, std::string* line);

 private:
  struct Terminal;
  Expected<LineOutcome> read_plain(std::string* line);

  std::unique_ptr<Terminal> terminal_;  // null when not interactive
  std::string buffered_;
};

inline constexpr int kMaxHistoryLines = 1000;

// $XDG_STATE_HOME/pare/history, else $HOME/.local/state/pare/history; empty when neither names an absolute folder.
std::filesystem::path history_path();

}  // namespace pare::cli
