#include "io/download.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "io/download_http.h"
#include "store_test_files.h"
#include "store_test_server.h"

namespace pare {
namespace {

using test::HttpServer;
using test::mentions;
using test::read_text;
using test::redirect;
using test::reply;
using test::Reply;
using test::Request;
using test::write_text;

std::string pattern(size_t bytes) {
  Philox random(7);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

class DownloadTest : public ::testing::Test {
 protected:
  DownloadTest() {
    options_.attempts = 1;
    options_.retry_wait_ms = 1;
  }
  Status download(const std::string& url, int64_t expected_bytes) {
    return http_download(url, path_, expected_bytes, options_, {});
  }
  // The chain that a server's handler serves, as text.
  Expected<std::string> get(const std::string& url, int64_t max_bytes = 1'000'000) {
    return http_get(url, max_bytes, options_);
  }

  test::ScopedEnv no_proxy_{"no_proxy", "127.0.0.1"};
  test::ScratchFolder folder_;
  std::filesystem::path path_ = folder_.path() / "model.gguf";
  std::filesystem::path etag_path_ = folder_.path() / "model.gguf.etag";
  HttpOptions options_;
  const std::string content_ = pattern(100'000);
};

TEST_F(DownloadTest, GetsABodyUpToTheLimit) {
  HttpServer server([](const Request&) { return reply("200 OK", {}, "hello"); });
  EXPECT_EQ(get(server.url("/a"), 5).value(), "hello");
  EXPECT_EQ(get(server.url("/a"), 4).status().code(), StatusCode::kLimitExceeded);
}

TEST_F(DownloadTest, FollowsRelativeAndAbsoluteRedirects) {
  HttpServer other([](const Request&) { return reply("200 OK", {}, "there"); });
  HttpServer server([&](const Request& request) {
    return request.target == "/first" ? redirect("/second") : redirect(other.url("/third"));
  });
  EXPECT_EQ(get(server.url("/first")).value(), "there");
}

TEST_F(DownloadTest, TokenGoesToTheFirstHostOnly) {
  HttpServer other([](const Request&) { return reply("200 OK", {}, "x"); });
  HttpServer server([&](const Request& request) {
    return request.target == "/first" ? redirect("/second") : redirect(other.url("/third"));
  });
  options_.bearer_token = "secret";
  ASSERT_TRUE(get(server.url("/first")).ok());
  ASSERT_EQ(server.requests().size(), 2u);
  for (const Request& request : server.requests()) EXPECT_EQ(request.header("authorization"), "Bearer secret");
  const std::vector<Request> leaked = other.requests();
  ASSERT_EQ(leaked.size(), 1u);
  for (const auto& [name, value] : leaked[0].headers) {
    EXPECT_EQ(value.find("secret"), std::string::npos) << name;
  }
}

TEST_F(DownloadTest, TokenThatWouldInjectAHeaderIsRefused) {
  HttpServer server([](const Request&) { return reply("200 OK", {}, "x"); });
  options_.bearer_token = "secret\r\nX-Other: 1";
  EXPECT_EQ(get(server.url()).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(server.requests().empty());
}

TEST_F(DownloadTest, EndlessRedirectStops) {
  HttpServer server([](const Request&) { return redirect("/again"); });
  const Status status = get(server.url("/again")).status();
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_TRUE(mentions(status, "more than 8 redirects")) << status.message();
  EXPECT_EQ(server.requests().size(), 9u);
}

TEST_F(DownloadTest, RedirectsLeadToHttpOnly) {
  write_text(path_, "local secret");
  for (const std::string& target :
       {"file://" + path_.string(), std::string("ftp://127.0.0.1/x"), std::string("gopher://127.0.0.1/")}) {
    HttpServer server([&](const Request&) { return redirect(target); });
    EXPECT_FALSE(get(server.url()).ok()) << target;
  }
  EXPECT_TRUE(check_redirect("https://a/", "https://b/").ok());
  EXPECT_TRUE(check_redirect("http://a/", "https://b/").ok());
  EXPECT_TRUE(check_redirect("http://a/", "http://b/").ok());
  EXPECT_EQ(check_redirect("https://a/", "http://a/").code(), StatusCode::kIoError);
  EXPECT_EQ(check_redirect("https://a/", "file:///etc/passwd").code(), StatusCode::kInvalidArgument);
}

TEST_F(DownloadTest, RedirectWithoutLocationIsAnError) {
  HttpServer server([](const Request&) { return reply("302 Found", {}, "?"); });
  EXPECT_TRUE(mentions(get(server.url()).status(), "302"));
}

TEST_F(DownloadTest, StatusesBecomeCodesAndUrlsLoseTheirQuery) {
  std::string answer;
  HttpServer server([&](const Request&) { return reply(answer, {}, "no"); });
  const auto status_of = [&](const std::string& text) {
    answer = text;
    return get(server.url("/models/x?signature=private")).status();
  };
  EXPECT_EQ(status_of("404 Not Found").code(), StatusCode::kNotFound);
  EXPECT_TRUE(mentions(status_of("404 Not Found"), "/models/x: HTTP status 404"));
  EXPECT_FALSE(mentions(status_of("404 Not Found"), "private"));
  EXPECT_TRUE(mentions(status_of("403 Forbidden"), "HF_TOKEN"));
  EXPECT_EQ(status_of("500 Oops").code(), StatusCode::kIoError);
  EXPECT_FALSE(status_of("204 No Content").ok());
  EXPECT_FALSE(status_of("206 Partial Content").ok());
}

TEST_F(DownloadTest, TransientFailuresAreTriedAgain) {
  int calls = 0;
  HttpServer server(
      [&](const Request&) { return ++calls < 3 ? reply("503 Busy", {}, "") : reply("200 OK", {}, "at last"); });
  options_.attempts = 3;
  EXPECT_EQ(get(server.url()).value(), "at last");
  calls = 0;
  options_.attempts = 2;
  EXPECT_TRUE(mentions(get(server.url()).status(), "503"));
}

TEST_F(DownloadTest, OversizedHeadersStop) {
  const std::string line = "X-Fill: " + std::string(1'000, 'x');
  HttpServer many([&](const Request&) { return reply("200 OK", std::vector<std::string>(100, line), "body"); });
  EXPECT_EQ(get(many.url()).status().code(), StatusCode::kLimitExceeded);
  HttpServer one([&](const Request&) { return reply("200 OK", {"X-Fill: " + std::string(70'000, 'x')}, "body"); });
  EXPECT_EQ(get(one.url()).status().code(), StatusCode::kLimitExceeded);
  HttpServer huge([&](const Request&) { return Reply{"HTTP/1.1 200 OK\r\nX: " + std::string(4 << 20, 'x')}; });
  EXPECT_FALSE(get(huge.url()).ok());
  HttpServer within([&](const Request&) { return reply("200 OK", std::vector<std::string>(50, line), "body"); });
  EXPECT_TRUE(get(within.url()).ok());
}

TEST_F(DownloadTest, GarbageIsAnError) {
  for (const std::string bytes : {"", "garbage\r\n\r\n", "HTTP/1.1\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\nx"}) {
    HttpServer server([&](const Request&) { return Reply{bytes}; });
    EXPECT_FALSE(get(server.url()).ok()) << bytes;
  }
  std::string dead;
  {
    HttpServer gone([](const Request&) { return Reply{}; });
    dead = gone.url();
  }
  EXPECT_EQ(get(dead).status().code(), StatusCode::kIoError);
}

TEST_F(DownloadTest, SilenceIsAnError) {
  HttpServer silent([](const Request&) { return Reply{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", true}; });
  options_.stall_timeout_s = 1;
  EXPECT_EQ(get(silent.url()).status().code(), StatusCode::kIoError);
}

TEST_F(DownloadTest, DownloadsAWholeFile) {
  HttpServer server([&](const Request& request) { return test::serve_file(request, content_, "\"v1\""); });
  std::vector<int64_t> seen;
  ASSERT_TRUE(http_download(server.url("/f"), path_, static_cast<int64_t>(content_.size()), options_,
                            [&](int64_t done, int64_t total) {
                              EXPECT_EQ(total, static_cast<int64_t>(content_.size()));
                              seen.push_back(done);
                            })
                  .ok());
  EXPECT_EQ(read_text(path_), content_);
  EXPECT_FALSE(std::filesystem::exists(etag_path_));
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.back(), static_cast<int64_t>(content_.size()));
  // Complete already: no request is made.
  ASSERT_TRUE(download(server.url("/f"), static_cast<int64_t>(content_.size())).ok());
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST_F(DownloadTest, TruncatedBodyIsAnErrorAndResumes) {
  bool whole = false;
  HttpServer server([&](const Request& request) {
    const Reply full = test::serve_file(request, content_, "\"v1\"");
    return whole ? full : test::cut(full, 40'000);
  });
  for (const int64_t expected : {static_cast<int64_t>(content_.size()), kUnknownBytes}) {
    std::filesystem::remove(path_);
    whole = false;
    const Status status = download(server.url("/f"), expected);
    EXPECT_EQ(status.code(), StatusCode::kIoError);
    EXPECT_TRUE(mentions(status, "40000 of 100000")) << status.message();
    EXPECT_EQ(read_text(path_), content_.substr(0, 40'000));
    whole = true;
    ASSERT_TRUE(download(server.url("/f"), expected).ok());
    EXPECT_EQ(read_text(path_), content_);
    EXPECT_EQ(server.requests().back().header("range"), "bytes=40000-");
    EXPECT_EQ(server.requests().back().header("if-range"), "\"v1\"");
  }
}

TEST_F(DownloadTest, AnyCutsResumeToTheSameBytesInOneCall) {
  Philox random(11);
  for (int round = 0; round < 20; ++round) {
    std::filesystem::remove(path_);
    HttpServer server([&](const Request& request) {
      return test::cut(test::serve_file(request, content_, "\"v1\""), random.below(60'000));
    });
    options_.attempts = 200;
    options_.retry_wait_ms = 0;
    ASSERT_TRUE(download(server.url("/f"), static_cast<int64_t>(content_.size())).ok());
    ASSERT_EQ(read_text(path_), content_);
  }
}

TEST_F(DownloadTest, AChangedFileStartsOver) {
  write_text(path_, std::string(500, 'o'));
  write_text(etag_path_, "\"old\"");
  HttpServer server([&](const Request& request) { return test::serve_file(request, content_, "\"new\""); });
  ASSERT_TRUE(download(server.url("/f"), static_cast<int64_t>(content_.size())).ok());
  EXPECT_EQ(server.requests()[0].header("if-range"), "\"old\"");
  EXPECT_EQ(read_text(path_), content_);
}

TEST_F(DownloadTest, OnlyAStrongEtagResumes) {
  for (const std::string etag : {"", "W/\"weak\"", "unquoted", "\"a\r\nX-Other: 1\""}) {
    write_text(path_, std::string(500, 'o'));
    write_text(etag_path_, etag);
    HttpServer server([&](const Request& request) { return test::serve_file(request, content_, "W/\"weak\""); });
    ASSERT_TRUE(download(server.url("/f"), static_cast<int64_t>(content_.size())).ok());
    EXPECT_EQ(server.requests()[0].header("range"), "") << etag;
    EXPECT_EQ(read_text(path_), content_);
    std::filesystem::remove(path_);
  }
}

TEST_F(DownloadTest, WrongRangesAreRefusedAndForgotten) {
  for (const std::string range :
       {"bytes 0-99999/100000", "bytes 501-99999/100000", "bytes 500-99998/100000", "bytes 500-99999/99999",
        "bytes 500-99999/*", "bytes 500", "", "500-99999/100000", "bytes 500-99999/99999999999999999999999"}) {
    write_text(path_, std::string(500, 'o'));
    write_text(etag_path_, "\"v1\"");
    HttpServer server([&](const Request&) {
      return reply("206 Partial Content", {"Content-Range: " + range}, content_.substr(500));
    });
    EXPECT_EQ(download(server.url("/f"), static_cast<int64_t>(content_.size())).code(), StatusCode::kDataLoss) << range;
    EXPECT_FALSE(std::filesystem::exists(path_)) << range;
  }
}

TEST_F(DownloadTest, ARangeBeyondTheEndStartsOver) {
  write_text(path_, content_ + "tail");
  write_text(etag_path_, "\"v1\"");
  HttpServer server([&](const Request& request) { return test::serve_file(request, content_, "\"v1\""); });
  options_.attempts = 2;
  ASSERT_TRUE(download(server.url("/f"), kUnknownBytes).ok());
  EXPECT_EQ(server.requests().size(), 2u);
  EXPECT_EQ(read_text(path_), content_);
}

TEST_F(DownloadTest, LengthsThatContradictTheListingAreErrors) {
  const auto size = static_cast<int64_t>(content_.size());
  std::vector<std::string> headers;
  HttpServer server([&](const Request&) { return reply("200 OK", headers, content_); });
  // Announced too long or too short: refused before the body is taken.
  EXPECT_EQ(download(server.url(), size - 1).code(), StatusCode::kDataLoss);
  EXPECT_EQ(download(server.url(), size + 1).code(), StatusCode::kDataLoss);
  // A Content-Length beyond the body is a truncation; one short of it cuts the body off.
  headers = {"Content-Length: 100001"};
  EXPECT_EQ(download(server.url(), size + 1).code(), StatusCode::kIoError);
  std::filesystem::remove(path_);
  headers = {"Content-Length: 99999"};
  EXPECT_EQ(download(server.url(), size).code(), StatusCode::kDataLoss);
  // Not announced at all: the body ends with the connection.
  HttpServer unannounced([&](const Request&) { return Reply{"HTTP/1.1 200 OK\r\n\r\n" + content_}; });
  EXPECT_EQ(download(unannounced.url(), size - 1).code(), StatusCode::kDataLoss);
  const Status too_short = download(unannounced.url(), size + 1);
  EXPECT_EQ(too_short.code(), StatusCode::kIoError);
  EXPECT_TRUE(mentions(too_short, "100000 of 100001")) << too_short.message();
  EXPECT_TRUE(download(unannounced.url(), size).ok());
}

TEST_F(DownloadTest, UnwritablePlacesAreErrors) {
  HttpServer server([&](const Request& request) { return test::serve_file(request, content_, "\"v1\""); });
  const auto missing = http_download(server.url(), folder_.path() / "no" / "folder", kUnknownBytes, options_, {});
  EXPECT_FALSE(missing.ok());
  EXPECT_TRUE(mentions(missing, "no/folder")) << missing.message();
  // A symbolic link is not written through.
  const std::filesystem::path victim = folder_.path() / "victim";
  write_text(victim, "untouched");
  std::filesystem::create_symlink(victim, path_);
  EXPECT_FALSE(download(server.url(), kUnknownBytes).ok());
  EXPECT_EQ(read_text(victim), "untouched");
}

TEST(UrlEscapeTest, EscapesAllButUnreserved) {
  EXPECT_EQ(url_escape("a-Z_0.9~"), "a-Z_0.9~");
  EXPECT_EQ(url_escape("a b/c?d#e%f&"), "a%20b%2Fc%3Fd%23e%25f%26");
  EXPECT_EQ(url_escape("\xc3\xa9"), "%C3%A9");
}

}  // namespace
}  // namespace pare
