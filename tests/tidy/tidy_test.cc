// The tree's own rules, checked like anything else: include arrows, file sizes, forbidden names, unfinished work.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

constexpr int kMaxLines = 1000;
constexpr int kMaxMedianLines = 150;

const fs::path kRoot = PARE_SOURCE_DIR;

struct SourceFile {
  fs::path path;  // relative to the root
  std::vector<std::string> lines;
};

bool is_source(const fs::path& p) {
  static const std::set<std::string> kEndings = {".h", ".cc", ".cu", ".cuh", ".inc"};
  return kEndings.contains(p.extension().string());
}

std::vector<SourceFile> read_sources(const std::vector<std::string>& folders) {
  std::vector<SourceFile> files;
  for (const std::string& folder : folders) {
    if (!fs::exists(kRoot / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      if (!entry.is_regular_file() || !is_source(entry.path())) continue;
      SourceFile file{fs::relative(entry.path(), kRoot), {}};
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) file.lines.push_back(line);
      files.push_back(std::move(file));
    }
  }
  return files;
}

// Generated tables are exempt from size limits; their first lines say what generated them.
bool is_generated(const SourceFile& file) {
  for (size_t i = 0; i < std::min<size_t>(3, file.lines.size()); ++i) {
    if (file.lines[i].find("enerated by tools/") != std::string::npos) return true;
  }
  return false;
}

// Folder -> folders it may include, closed over what those may include; read from the targets that are really linked.
std::map<std::string, std::set<std::string>> read_arrows() {
  std::map<std::string, std::set<std::string>> direct;
  const std::regex call(R"(pare_module\((\w+)([^)]*)\))"), deps(R"(DEPS([a-z_ ]*))"), word(R"([a-z_]+)");
  for (const auto& entry : fs::directory_iterator(kRoot / "src")) {
    std::ifstream in(entry.path() / "CMakeLists.txt");
    std::stringstream buffer;
    buffer << in.rdbuf();
    const std::string text = buffer.str();
    std::smatch module;
    if (!std::regex_search(text, module, call)) continue;
    std::set<std::string>& allowed = direct[module[1]];
    allowed.insert(module[1]);
    const std::string arguments = module[2];
    std::smatch list;
    if (!std::regex_search(arguments, list, deps)) continue;
    const std::string names = list[1];
    for (std::sregex_iterator it(names.begin(), names.end(), word), end; it != end; ++it) allowed.insert(it->str());
  }
  for (bool grew = true; grew;) {
    grew = false;
    for (auto& [folder, allowed] : direct) {
      for (const std::string& dep : std::set<std::string>(allowed)) {
        for (const std::string& further : direct[dep]) grew |= allowed.insert(further).second;
      }
    }
  }
  return direct;
}

TEST(Tidy, IncludesFollowTheArrows) {
  const auto arrows = read_arrows();
  ASSERT_GE(arrows.size(), 12u);
  const std::regex include(R"re(^\s*#\s*include\s+"([a-z_]+)/[^"]+")re");
  for (const SourceFile& file : read_sources({"src", "include"})) {
    const std::string top = *std::next(file.path.begin());
    for (size_t i = 0; i < file.lines.size(); ++i) {
      std::smatch match;
      if (!std::regex_search(file.lines[i], match, include) || match[1] == "pare") continue;
      if (*file.path.begin() == "include") {
        ADD_FAILURE() << file.path << ":" << i + 1 << ": a public header includes " << match[1] << "/";
        continue;
      }
      EXPECT_TRUE(arrows.at(top).contains(match[1]))
          << file.path << ":" << i + 1 << ": " << top << " may not include " << match[1] << "/";
    }
  }
}

TEST(Tidy, SelectorsAndPoliciesNeverMeet) {
  const auto arrows = read_arrows();
  EXPECT_FALSE(arrows.at("attention").contains("kv"));
  EXPECT_FALSE(arrows.at("kv").contains("attention"));
  EXPECT_FALSE(arrows.at("kernels").contains("model"));
}

TEST(Tidy, FilesStaySmall) {
  std::vector<size_t> sizes;
  for (const SourceFile& file : read_sources({"src", "include", "tests", "fuzz", "bench"})) {
    if (is_generated(file)) continue;
    EXPECT_LE(file.lines.size(), static_cast<size_t>(kMaxLines)) << file.path;
    if (*file.path.begin() == "src") sizes.push_back(file.lines.size());
  }
  ASSERT_FALSE(sizes.empty());
  std::nth_element(sizes.begin(), sizes.begin() + sizes.size() / 2, sizes.end());
  EXPECT_LE(sizes[sizes.size() / 2], static_cast<size_t>(kMaxMedianLines)) << "median over src";
}

TEST(Tidy, NoGrabBags) {
  const std::regex grab_bag(R"((^|_)(utils?|helpers?|misc|common)\.(h|cc|cu))");
  for (const SourceFile& file : read_sources({"src", "include"})) {
    EXPECT_FALSE(std::regex_search(file.path.filename().string(), grab_bag)) << file.path;
  }
}

TEST(Tidy, NothingUnfinished) {
  // Spelt in pieces, so that this file passes its own test.
  const std::regex marker(std::string("TO") + "DO|FIX" + "ME|\\bXX" + "X\\b|HA" + "CK|NOLINT" + "NEXTLINE");
  for (const SourceFile& file : read_sources({"src", "include", "tests", "fuzz", "bench"})) {
    if (is_generated(file)) continue;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      EXPECT_FALSE(std::regex_search(file.lines[i], marker)) << file.path << ":" << i + 1 << ": " << file.lines[i];
    }
  }
}

TEST(Tidy, LibraryNeverPrintsOrStops) {
  const std::regex call(R"((^|[^\w:.])(std::)?(printf|fprintf|puts|abort|exit|_exit|quick_exit|terminate)\s*\()");
  const std::regex stream(R"(std::(cout|cerr|clog)\b)");
  for (const SourceFile& file : read_sources({"src"})) {
    const std::string top = *std::next(file.path.begin());
    if (top == "cli" || file.path == fs::path("src/base/check.cc")) continue;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      const std::string code = file.lines[i].substr(0, file.lines[i].find("//"));
      EXPECT_FALSE(std::regex_search(code, call) || std::regex_search(code, stream))
          << file.path << ":" << i + 1 << ": " << file.lines[i];
    }
  }
}

TEST(Tidy, IsFormatted) {
  if (std::system("clang-format-14 --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "clang-format-14 is not here";
  std::string command = "cd '" + kRoot.string() + "' && clang-format-14 --dry-run --Werror";
  for (const SourceFile& file : read_sources({"src", "include", "tests", "fuzz", "bench"})) {
    if (!is_generated(file) && file.path.extension() != ".inc") command += " '" + file.path.string() + "'";
  }
  EXPECT_EQ(std::system(command.c_str()), 0) << "clang-format-14 -i <file> mends it";
}

TEST(Tidy, NamesNoMachine) {
  // A path that holds on one machine only. /home/me is the tests' own user.
  const std::regex path(R"((^|[^\w./~-])/(work|root|mnt|srv|workspace|Users|home/(?!me\b)\w+)(/|\b))");
  const std::set<std::string> kText = {".h",  ".cc",  ".inc", ".txt", ".cmake", ".json",
                                       ".md", ".tsv", ".sh",  ".py",  ".yml",   ""};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(kRoot)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  for (const char* folder : {".ci", "bench", "cmake", "docs", "examples", "fuzz", "include", "src", "tests", "tools"}) {
    if (!fs::exists(kRoot / folder)) continue;
    for (auto it = fs::recursive_directory_iterator(kRoot / folder); it != fs::recursive_directory_iterator(); ++it) {
      // Recorded data is what it is.
      if (it->path() == kRoot / "tests/data" || it->path() == kRoot / "fuzz/corpus") it.disable_recursion_pending();
      if (it->is_regular_file()) files.push_back(it->path());
    }
  }
  for (const fs::path& file : files) {
    if (!kText.contains(file.extension()) || file.filename() == ".git" || file.filename() == "tidy_test.cc") continue;
    std::ifstream in(file);
    int number = 0;
    for (std::string line; std::getline(in, line);) {
      ++number;
      std::smatch match;
      EXPECT_FALSE(std::regex_search(line, match, path)) << fs::relative(file, kRoot) << ":" << number << ": " << line;
    }
  }
}

TEST(Tidy, HeadersAreGuardedAndExplained) {
  for (const SourceFile& file : read_sources({"src", "include"})) {
    if (file.path.extension() != ".h" || file.lines.empty()) continue;
    const bool reentrant = file.path.filename().string().find("-inl.h") != std::string::npos;  // Highway's, per target
    const bool guarded = std::find(file.lines.begin(), file.lines.end(), "#pragma once") != file.lines.end();
    EXPECT_TRUE(guarded || reentrant) << file.path;
    EXPECT_EQ(file.lines[0].substr(0, 2), "//") << file.path << " begins without its contract";
  }
}

}  // namespace
