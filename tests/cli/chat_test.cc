// `pare chat`: as a script drives it through pipes, and as a person does through a terminal.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <string>

#include "model_files.h"
#include "process.h"

namespace pare::test {
namespace {

// A bare container may lack /dev/pts.
bool has_pseudo_terminals() {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (master >= 0) ::close(master);
  return master >= 0;
}

// A program at the other end of a pseudo-terminal.
class Terminal {
 public:
  Terminal(const std::vector<std::string>& arguments, const std::string& state_home) {
    master_ = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    EXPECT_TRUE(master_ >= 0 && ::grantpt(master_) == 0 && ::unlockpt(master_) == 0);
    const std::string name = ::ptsname(master_);
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::setsid();
    const int slave = ::open(name.c_str(), O_RDWR);  // becomes the controlling terminal: Ctrl-C is a signal
    const struct winsize size { 40, 200, 0, 0 };
    ::ioctl(slave, TIOCSWINSZ, &size);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(slave, fd);
    ::setenv("XDG_STATE_HOME", state_home.c_str(), 1);
    ::setenv("TERM", "xterm", 1);
    std::vector<char*> argv{const_cast<char*>("pare")};
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    ::execv(PARE_BINARY, argv.data());
    ::_exit(127);
  }
  ~Terminal() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(master_);
  }

  void type(const std::string& keys) {
    EXPECT_EQ(::write(master_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }

  // What came up to and with `text` since the last call; a failure when it does not come.
  std::string wait_for(const std::string& text) {
    for (;;) {
      if (const size_t at = seen_.find(text); at != std::string::npos) {
        const std::string result = seen_.substr(0, at + text.size());
        seen_.erase(0, result.size());
        return result;
      }
      if (read_some()) continue;
      ADD_FAILURE() << "'" << text << "' did not come, but: " << seen_;
      return "";
    }
  }

  // Drops what came, at least so much.
  void wait_for_bytes(size_t count) {
    while (seen_.size() < count && read_some()) {
    }
    seen_.clear();
  }

  // -1 when it does not end.
  int exit_code() {
    int status = 0;
    for (int waited_ms = 0; waited_ms < 20'000; waited_ms += 10) {
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      }
      ::usleep(10'000);
    }
    return -1;
  }

 private:
  // Appends what comes next; false when nothing does for twenty seconds.
  bool read_some() {
    struct pollfd ready {
      master_, POLLIN, 0
    };
    char block[4096];
    if (::poll(&ready, 1, 20'000) <= 0) return false;
    const ssize_t n = ::read(master_, block, sizeof(block));
    if (n > 0) seen_.append(block, static_cast<size_t>(n));
    return n > 0;
  }

  int master_ = -1;
  pid_t pid_ = -1;
  std::string seen_;
};

class Chat : public testing::Test {
 protected:
  void SetUp() override {
    write_changed(model_, [](Parts* p) { p->metadata.set("tokenizer.chat_template", std::string(kTinyTemplate)); });
  }

  const ScratchFolder folder_;
  const std::string model_ = folder_ / "chat.gguf";
};

TEST_F(Chat, AScriptGetsOneObjectWithEveryTurn) {
  const nlohmann::json talk = pare_json({"chat", model_, "--max-tokens", "3", "--system", "s"},
                                        {.input = "one\ntwo \\\nlines\n\"\"\"\na\\\nblock\"\"\"\n//slash\n"});
  ASSERT_EQ(talk["turns"].size(), 4u);
  const char* const kSaid[] = {"one", "two \nlines", "a\\\nblock", "/slash"};
  for (size_t i = 0; i < 4; ++i) {
    const nlohmann::json& turn = talk["turns"][i];
    EXPECT_EQ(turn["user"], kSaid[i]);
    EXPECT_TRUE(turn["text"].is_string() && turn["tokens"].is_array() && turn["finish"].is_string());
    EXPECT_TRUE(turn["stats"].is_object());
  }
  // The cache keeps the conversation.
  EXPECT_GT(talk["turns"][3]["stats"]["prompt_tokens"], talk["turns"][0]["stats"]["prompt_tokens"]);
  EXPECT_EQ(pare_json({"chat", model_})["turns"], nlohmann::json::array());
}

TEST_F(Chat, AScriptStopsAtTheFirstError) {
  expect_error({"chat", model_}, 2, {"unknown command '/bogus'"}, {.input = "/bogus\nhi\n"});
  expect_error({"chat", model_}, 2, {"message", "UTF-8", "byte 1"}, {.input = "a\xFF\n"});
  expect_error({"chat", model_}, 2, {"tokens", "256"}, {.input = std::string(300, 'x') + "\n"});
  expect_error({"chat", tiny_model("llama")}, 2, {"no chat template"});
  const std::string saved = folder_ / "talk.json";
  const std::string commands = "hi\n/save " + saved + "\n/reset\n/quit\nignored\n";
  EXPECT_EQ(pare_json({"chat", model_, "--max-tokens", "2"}, {.input = ""})["turns"].size(), 0u);
  const ProcessResult result = run_pare({"chat", model_, "--max-tokens", "2"}, {.input = commands});
  EXPECT_EQ(result.code, 0) << result.err;
  const auto messages = nlohmann::json::parse(read_whole(saved), nullptr, false);
  ASSERT_TRUE(messages.is_array());
  EXPECT_EQ(messages[0]["content"], "hi");
  EXPECT_EQ(messages[1]["role"], "assistant");
  expect_error({"chat", model_}, 2, {saved, "exists"}, {.input = "/save " + saved + "\n"});
}

TEST_F(Chat, APersonEditsAndLeaves) {
  if (!has_pseudo_terminals()) GTEST_SKIP() << "no pseudo-terminals here";
  Terminal terminal({"chat", model_, "--max-tokens", "3"}, folder_ / "state");
  terminal.wait_for("/help lists the commands");
  terminal.wait_for("> ");  // before it the terminal itself would echo
  terminal.type("/help\n");
  terminal.wait_for("Ctrl-C stops the answer");
  terminal.type("first question\n/stats\n");
  terminal.wait_for("generated | TTFT");
  // What is typed and interrupted is dropped; the program goes on.
  terminal.wait_for("\r\n> ");
  terminal.type("never sent");
  terminal.wait_for("never sent");
  terminal.type("\x03");
  terminal.wait_for("\r\n> ");
  terminal.type("/bogus\n");
  terminal.wait_for("unknown command '/bogus'");
  terminal.type("two \\\n");
  terminal.wait_for(". ");
  terminal.type("lines\n/save " + (folder_ / "talk.json") + "\n");
  terminal.wait_for("4 messages");
  // History: four lines up is the line before "two".
  terminal.type("\x1b[A\x1b[A\x1b[A\x1b[A");
  terminal.wait_for("/bogus");
  terminal.type("\x15\x04");  // Ctrl-U empties the line, Ctrl-D leaves
  EXPECT_EQ(terminal.exit_code(), 0);

  const auto messages = nlohmann::json::parse(read_whole(folder_ / "talk.json"));
  EXPECT_EQ(messages[0]["content"], "first question");
  EXPECT_EQ(messages[2]["content"], "two \nlines");
  const std::string history = folder_ / "state/pare/history";
  EXPECT_THAT(read_whole(history), testing::HasSubstr("first\\040question"));
  EXPECT_THAT(read_whole(history), testing::Not(testing::HasSubstr("never")));
  EXPECT_EQ(std::filesystem::status(history).permissions(), std::filesystem::perms(0600));
}

TEST_F(Chat, CtrlCStopsTheAnswerAndNotTheProgram) {
  if (!has_pseudo_terminals()) GTEST_SKIP() << "no pseudo-terminals here";
  const std::string model = pulled("smollm2-135m-instruct");
  if (model.empty()) GTEST_SKIP() << "smollm2-135m-instruct is not in the store";
  Terminal terminal({"chat", model, "--max-tokens", "4000"}, folder_ / "state");
  terminal.wait_for("/help lists the commands");
  terminal.wait_for("> ");  // before it the terminal itself would echo
  terminal.type("Write a very long story about a dragon.\n");
  terminal.wait_for("a dragon.\r\n");
  terminal.wait_for_bytes(100);  // more than a second echo of the question: the answer has begun
  terminal.type("\x03");
  terminal.wait_for("> ");
  terminal.type("/save " + (folder_ / "talk.json") + "\n");
  terminal.wait_for("2 messages");
  terminal.wait_for("\r\n> ");
  terminal.type("\x04");
  EXPECT_EQ(terminal.exit_code(), 0);
}

}  // namespace
}  // namespace pare::test
