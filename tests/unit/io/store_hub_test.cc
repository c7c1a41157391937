#include "io/store_hub.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "store_test_files.h"
#include "store_test_server.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::HttpServer;
using test::mentions;
using test::read_text;
using test::redirect;
using test::reply;
using test::Reply;
using test::Request;
using test::sha256_of;
using test::write_text;
using Names = std::vector<std::string>;

TEST(HubNameTest, ParsesOwnerRepositoryAndFile) {
  const auto whole = parse_hub_name("hf:Qwen/Qwen2.5-0.5B");
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(whole->owner, "Qwen");
  EXPECT_EQ(whole->repo, "Qwen2.5-0.5B");
  EXPECT_EQ(whole->file, "");
  EXPECT_EQ(parse_hub_name("hf:a/b:sub/model.Q4_K_M.gguf")->file, "sub/model.Q4_K_M.gguf");
}

TEST(HubNameTest, RefusesWhatIsNoPlainName) {
  for (const char* text : {"hf:",         "hf:a",          "hf:a/",        "hf:/b",     "hf:a/b/c",
                           "hf:../b",     "hf:a/..",       "hf:a/.hidden", "hf:a/b:",   "hf:a/b:/etc/passwd",
                           "hf:a/b:../c", "hf:a/b:c/../d", "hf:a/b:c//d",  "hf:a/b:c/", "hf:a/b:.partial/x",
                           "hf:a/b:c\\d", "hf:a\n/b",      "hf:a/b\x7f",   "a/b",       ""}) {
    EXPECT_EQ(parse_hub_name(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(parse_hub_name("hf:a/" + std::string(256, 'x')).ok());
  EXPECT_FALSE(parse_hub_name(std::string("hf:a/b\0c", 8)).ok());
}

// A listing as the hub sends it; every file has size 10 and, when it is large by nature, an LFS hash.
std::string listing(const Names& names) {
  nlohmann::json siblings = nlohmann::json::array();
  for (const std::string& name : names) {
    nlohmann::json file = {{"rfilename", name}, {"size", 10}, {"blobId", "0"}};
    if (name.ends_with(".gguf") || name.ends_with(".safetensors")) {
      file["lfs"] = {{"sha256", std::string(64, 'a')}, {"size", 10}, {"pointerSize", 3}};
    }
    siblings.push_back(file);
  }
  return nlohmann::json{{"id", "o/r"}, {"siblings", siblings}}.dump();
}

Expected<Names> chosen(const Names& listed, const std::string& file = "") {
  const auto files = choose_hub_files({"o", "r", file}, listing(listed));
  if (!files.ok()) return files.status();
  Names names;
  for (const HubFile& f : *files) names.push_back(f.name);
  return names;
}

TEST(HubChoiceTest, TakesTheNamedFileOrTheOnlyGguf) {
  EXPECT_EQ(chosen({"README.md", "a.gguf"}).value(), Names{"a.gguf"});
  EXPECT_EQ(chosen({"a.gguf", "b.gguf"}, "b.gguf").value(), Names{"b.gguf"});
  const Status several = chosen({"a.gguf", "sub/b.gguf"}).status();
  EXPECT_EQ(several.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(mentions(several, "a.gguf, sub/b.gguf")) << several.message();
  const Status absent = chosen({"a.gguf"}, "c.gguf").status();
  EXPECT_EQ(absent.code(), StatusCode::kNotFound);
  EXPECT_TRUE(mentions(absent, "there are a.gguf")) << absent.message();
}

TEST(HubChoiceTest, TakesSafetensorsWithTheirConfigurationLast) {
  EXPECT_EQ(
      chosen({".gitattributes", "README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"})
          .value(),
      (Names{"model.safetensors", "tokenizer.json", "config.json"}));
  EXPECT_EQ(
      chosen({"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
              "model.safetensors.index.json", "other/model-00001-of-00002.safetensors", "consolidated.safetensors"})
          .value(),
      (Names{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
             "config.json"}));
  for (const Names& files : {Names{"model.safetensors"}, Names{"config.json"},
                             Names{"config.json", "model-00001-of-00002.safetensors"}, Names{}}) {
    EXPECT_EQ(chosen(files).status().code(), StatusCode::kNotFound);
  }
}

TEST(HubChoiceTest, ListedNamesThatLeaveTheFolderDoNotExist) {
  EXPECT_EQ(chosen({"../a.gguf", "/b.gguf", "c/../../d.gguf", "e.gguf"}).value(), Names{"e.gguf"});
  EXPECT_FALSE(chosen({"../a.gguf"}).ok());
}

TEST(HubChoiceTest, ContradictoryListingsAreErrors) {
  const std::string hash(64, 'a');
  for (const std::string& text :
       {std::string(), std::string("<html>"), std::string("[]"), std::string("{}"), std::string("null"),
        std::string(R"({"siblings": 3})"), std::string(R"({"siblings": [3]})"),
        std::string(R"({"siblings": [{"rfilename": 3}]})"),
        std::string(R"({"siblings": [{"rfilename": "a.gguf", "lfs": {}}]})"),
        std::string(R"({"siblings": [{"rfilename": "a.gguf", "lfs": {"sha256": "short"}}]})"),
        R"({"siblings": [{"rfilename": "a.gguf", "lfs": {"sha256": ")" + hash +
            R"(", "size": 18446744073709551615}}]})",
        std::string("{\"siblings\": [{\"rfilename\": \"a.gguf\"}"), std::string(100'000, '[')}) {
    EXPECT_EQ(choose_hub_files({"o", "r", ""}, text).status().code(), StatusCode::kDataLoss) << text.substr(0, 80);
  }
  // A size that makes no sense is a size that is not known.
  const auto odd = choose_hub_files({"o", "r", ""}, R"({"siblings": [{"rfilename": "a.gguf", "size": -5}]})");
  ASSERT_TRUE(odd.ok());
  EXPECT_EQ(odd->at(0).bytes, kUnknownBytes);
}

// A hub with one repository, o/r, that sends files from a second host, as the real one does.
class HubPullTest : public ::testing::Test {
 protected:
  HubPullTest() {
    options_.hub_endpoint = hub_.url();
    options_.http.attempts = 1;
    files_["model.gguf"] = std::string(50'000, 'g');
    files_["README.md"] = "read me";
  }

  Reply answer_hub(const Request& request) {
    if (request.target == "/api/models/o/r?blobs=true") return reply("200 OK", {}, listing_override_.value_or(list()));
    const std::string prefix = "/o/r/resolve/main/";
    if (!request.target.starts_with(prefix)) return reply("404 Not Found", {}, "");
    const std::string name = request.target.substr(prefix.size());
    if (files_.count(name) == 0) return reply("404 Not Found", {}, "");
    return redirect(storage_.url("/" + name));
  }
  Reply answer_storage(const Request& request) {
    const Reply whole = test::serve_file(request, files_.at(request.target.substr(1)), "\"tag\"");
    return cut_at_ ? test::cut(whole, *cut_at_) : whole;
  }
  std::string list() const {
    nlohmann::json siblings = nlohmann::json::array();
    for (const auto& [name, content] : files_) {
      nlohmann::json file = {{"rfilename", name}, {"size", content.size()}};
      if (name.ends_with(".gguf") || name.ends_with(".safetensors")) {
        file["lfs"] = {{"sha256", sha256_of(content)}, {"size", content.size()}};
      }
      siblings.push_back(file);
    }
    return nlohmann::json{{"siblings", siblings}}.dump();
  }
  Expected<fs::path> pull(const std::string& what = "hf:o/r") {
    options_.store = store_;
    return pull_model(what, options_, {});
  }

  const test::ScopedEnv no_proxy_{"no_proxy", "127.0.0.1"}, no_token_{"HF_TOKEN", nullptr},
      no_endpoint_{"HF_ENDPOINT", nullptr};
  test::ScratchFolder folder_;
  const fs::path store_ = folder_.path() / "store";
  std::map<std::string, std::string> files_;
  std::optional<std::string> listing_override_;
  std::optional<size_t> cut_at_;
  PullOptions options_;
  HttpServer storage_{[this](const Request& request) { return answer_storage(request); }};
  HttpServer hub_{[this](const Request& request) { return answer_hub(request); }};
};

TEST_F(HubPullTest, PullsTheOnlyGgufAndResolvesIt) {
  EXPECT_TRUE(mentions(resolve_model("hf:o/r", store_).status(), "pare pull hf:o/r"));
  const auto path = pull();
  ASSERT_TRUE(path.ok()) << path.status().to_string();
  EXPECT_EQ(*path, store_ / "hf" / "o" / "r" / "model.gguf");
  EXPECT_EQ(read_text(*path), files_["model.gguf"]);
  EXPECT_EQ(resolve_model("hf:o/r", store_).value(), *path);
  EXPECT_EQ(resolve_model("hf:o/r:model.gguf", store_).value(), *path);
  EXPECT_FALSE(fs::exists(store_ / ".partial" / "hf" / "o" / "r"));
}

TEST_F(HubPullTest, SecondPullDownloadsNothingAndAChangedFileIsReplaced) {
  ASSERT_TRUE(pull().ok());
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(storage_.requests().size(), 1u);
  files_["model.gguf"] = std::string(50'000, 'h');
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(storage_.requests().size(), 2u);
  EXPECT_EQ(read_text(store_ / "hf" / "o" / "r" / "model.gguf"), files_["model.gguf"]);
}

TEST_F(HubPullTest, PullsAFolderOfSafetensors) {
  files_ = {{"config.json", "{}"},
            {"model.safetensors", std::string(999, 's')},
            {"tokenizer.json", "{\"t\":1}"},
            {"1_Pooling/config.json", "{ }"}};
  const auto path = pull();
  ASSERT_TRUE(path.ok()) << path.status().to_string();
  EXPECT_EQ(*path, store_ / "hf" / "o" / "r");
  for (const auto& [name, content] : files_) EXPECT_EQ(read_text(*path / name), content) << name;
}

TEST_F(HubPullTest, SeveralModelsInOneRepositoryNeedAName) {
  files_["other.gguf"] = "other";
  EXPECT_EQ(pull().status().code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(pull("hf:o/r:other.gguf").ok());
  ASSERT_TRUE(pull("hf:o/r:model.gguf").ok());
  EXPECT_EQ(resolve_model("hf:o/r", store_).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(read_text(resolve_model("hf:o/r:other.gguf", store_).value()), "other");
  EXPECT_EQ(pull("hf:o/r:third.gguf").status().code(), StatusCode::kNotFound);
}

TEST_F(HubPullTest, CutPullResumesWhereItEnded) {
  cut_at_ = 20'000;
  const Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_TRUE(mentions(status, "hf:o/r: model.gguf: ")) << status.message();
  EXPECT_TRUE(mentions(status, "20000 of 50000")) << status.message();
  EXPECT_FALSE(resolve_model("hf:o/r", store_).ok());
  cut_at_.reset();
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(storage_.requests().back().header("range"), "bytes=20000-");
  EXPECT_EQ(read_text(store_ / "hf" / "o" / "r" / "model.gguf"), files_["model.gguf"]);
}

TEST_F(HubPullTest, WrongHashIsAnErrorAndNothingStays) {
  listing_override_ = list();
  files_["model.gguf"][7] = 'x';
  const Status status = pull().status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_TRUE(mentions(status, "model.gguf: SHA-256 is ")) << status.message();
  EXPECT_FALSE(fs::exists(store_ / "hf"));
  EXPECT_FALSE(fs::exists(store_ / ".partial" / "hf" / "o" / "r" / "model.gguf"));
  // The right file is then fetched whole, not appended to the wrong one.
  files_["model.gguf"][7] = 'g';
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(storage_.requests().back().header("range"), "");
}

TEST_F(HubPullTest, TokenReachesTheHubAndNotItsStorage) {
  options_.hub_token = "hf_secret";
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(hub_.requests().size(), 2u);
  for (const Request& request : std::vector<Request>(hub_.requests())) {
    EXPECT_EQ(request.header("authorization"), "Bearer hf_secret") << request.target;
  }
  ASSERT_EQ(storage_.requests().size(), 1u);
  EXPECT_EQ(storage_.requests()[0].header("authorization"), "");
}

TEST_F(HubPullTest, EndpointAndTokenComeFromTheEnvironment) {
  const std::string endpoint = options_.hub_endpoint + "/";
  options_.hub_endpoint.clear();
  const test::ScopedEnv chosen_endpoint("HF_ENDPOINT", endpoint.c_str()), chosen_token("HF_TOKEN", "hf_environment");
  ASSERT_TRUE(pull().ok());
  EXPECT_EQ(hub_.requests()[0].header("authorization"), "Bearer hf_environment");
}

TEST_F(HubPullTest, UnknownRepositoryAndOversizedListingAreErrors) {
  const Status absent = pull("hf:o/unknown").status();
  EXPECT_EQ(absent.code(), StatusCode::kNotFound);
  EXPECT_TRUE(mentions(absent, "hf:o/unknown")) << absent.message();
  listing_override_ = std::string(static_cast<size_t>(kMaxHubListingBytes) + 1, ' ');
  EXPECT_EQ(pull().status().code(), StatusCode::kLimitExceeded);
}

TEST_F(HubPullTest, NamesWithSpacesAndSignsAreEscaped) {
  files_ = {{"config.json", "{}"}};
  files_["a b%#?.gguf"] = "odd";
  EXPECT_EQ(pull().status().code(), StatusCode::kNotFound);
  EXPECT_EQ(hub_.requests().back().target, "/o/r/resolve/main/a%20b%25%23%3F.gguf");
}

}  // namespace
}  // namespace pare
