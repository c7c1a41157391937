#include "cli/line_editor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <histedit.h>
#include <langinfo.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cwchar>
#include <system_error>

#include "base/limits.h"
#include "cli/console.h"
#include "text/utf8.h"

namespace pare::cli {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxHistoryFileBytes = 4 << 20;
constexpr size_t kMaxHistoryLineBytes = 4096;  // longer ones are pasted documents

// libedit's own reader tries again after a signal, so Ctrl-C would not end the line; this one looks.
int read_wide(EditLine*, wchar_t* out) {
  std::mbstate_t state{};
  for (;;) {
    if (!wait_for_input()) return -1;
    char byte;
    const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return static_cast<int>(n);
    const size_t used = std::mbrtowc(out, &byte, 1, &state);
    if (used == static_cast<size_t>(-2)) continue;  // more bytes belong to it
    if (used == static_cast<size_t>(-1)) *out = 0xFFFD;
    return 1;
  }
}

// libedit decodes what is typed by the locale. Only the character set is taken from the environment: numbers keep
// their point everywhere in the program.
void use_utf8() {
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
}

}  // namespace

fs::path history_path() {
  const auto absolute = [](const char* variable) {
    const char* value = std::getenv(variable);
    const fs::path path = value == nullptr ? "" : value;
    return path.is_absolute() ? path : fs::path();
  };
  if (const fs::path state = absolute("XDG_STATE_HOME"); !state.empty()) return state / "pare" / "history";
  if (const fs::path home = absolute("HOME"); !home.empty()) return home / ".local" / "state" / "pare" / "history";
  return {};
}

struct LineEditor::Terminal {
  EditLine* editor = nullptr;
  History* history = nullptr;
  HistEvent event{};
  std::string prompt;

  Terminal() {
    use_utf8();
    history = history_init();
    editor = el_init("pare", stdin, stderr, stderr);
    if (history == nullptr || editor == nullptr) return;
    ::history(history, &event, H_SETSIZE, kMaxHistoryLines);
    ::history(history, &event, H_SETUNIQUE, 1);
    el_set(editor, EL_CLIENTDATA, this);
    el_set(editor, EL_PROMPT, &Terminal::show_prompt);
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_HIST, ::history, history);
    el_wset(editor, EL_GETCFN, read_wide);
    el_source(editor, nullptr);  // the user's ~/.editrc
    load();
  }
  ~Terminal() {
    if (ready()) save();
    if (editor != nullptr) el_end(editor);
    if (history != nullptr) history_end(history);
  }
  bool ready() const { return editor != nullptr && history != nullptr; }

  static char* show_prompt(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return static_cast<Terminal*>(self)->prompt.data();
  }

  void load() {
    const fs::path path = history_path();
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    if (!error && bytes <= static_cast<uintmax_t>(kMaxHistoryFileBytes))
      ::history(history, &event, H_LOAD, path.c_str());
  }

  void save() {
    const fs::path path = history_path();
    if (path.empty()) return;
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    const std::string staged = fmt::format("{}.{}", path.string(), ::getpid());
    const int fd = ::open(staged.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0) return;
    std::FILE* file = ::fdopen(fd, "w");
    if (file == nullptr) {
      ::close(fd);
    } else {
      const bool written = ::history(history, &event, H_SAVE_FP, file) >= 0;
      if (std::fclose(file) == 0 && written) fs::rename(staged, path, error);
    }
    ::unlink(staged.c_str());
  }
};

LineEditor::LineEditor() {
  if (!::isatty(STDIN_FILENO) || !::isatty(STDERR_FILENO)) return;
  terminal_ = std::make_unique<Terminal>();
  if (!terminal_->ready()) terminal_.reset();
}

LineEditor::~LineEditor() = default;

bool LineEditor::interactive() const { return terminal_ != nullptr; }

Expected<LineOutcome> LineEditor::read(const std::string& prompt, std::string* line) {
  line->clear();
  if (!terminal_) return read_plain(line);
  Terminal& t = *terminal_;
  t.prompt = prompt;
  el_resize(t.editor);
  int count = 0;
  const wchar_t* typed = el_wgets(t.editor, &count);
  if (typed == nullptr || count <= 0) {
    fmt::print(stderr, "\n");
    return interrupted() ? LineOutcome::kInterrupted : LineOutcome::kEnd;
  }
  for (int i = 0; i < count; ++i) utf8_append(static_cast<char32_t>(typed[i]), line);
  if (!line->empty() && line->back() == '\n') line->pop_back();
  if (line->find_first_not_of(" \t") != std::string::npos && line->size() <= kMaxHistoryLineBytes) {
    ::history(t.history, &t.event, H_ENTER, line->c_str());
  }
  return LineOutcome::kLine;
}

Expected<LineOutcome> LineEditor::read_plain(std::string* line) {
  size_t searched = 0;
  for (;;) {
    if (const size_t end = buffered_.find('\n', searched); end != std::string::npos) {
      line->assign(buffered_, 0, end);
      buffered_.erase(0, end + 1);
      return LineOutcome::kLine;
    }
    searched = buffered_.size();
    if (static_cast<int64_t>(searched) > kMaxPromptBytes) {
      return invalid_argument(fmt::format("standard input: a line longer than {} bytes", kMaxPromptBytes));
    }
    if (!wait_for_input()) return LineOutcome::kInterrupted;
    char block[1 << 16];
    const ssize_t n = ::read(STDIN_FILENO, block, sizeof(block));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(fmt::format("standard input: {}", std::strerror(errno)));
    if (n == 0) {
      if (buffered_.empty()) return LineOutcome::kEnd;
      line->swap(buffered_);
      return LineOutcome::kLine;
    }
    buffered_.append(block, static_cast<size_t>(n));
  }
}

}  // namespace pare::cli
