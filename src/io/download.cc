#include "io/download.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "io/download_http.h"
#include "io/quote_name.h"
#include "io/store_files.h"

namespace pare {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kProgressStepBytes = 1 << 20;
constexpr size_t kMaxEtagBytes = 1'024;

std::optional<int64_t> parse_int(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

template <typename Attempt>
Status with_retries(const HttpOptions& options, Attempt attempt) {
  int64_t wait_ms = options.retry_wait_ms;
  for (int left = options.attempts;; --left) {
    HttpOutcome outcome = attempt();
    if (outcome.status.ok() || !outcome.transient || left <= 1) return outcome.status;
    std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
    wait_ms *= 2;
  }
}

class StringSink : public HttpSink {
 public:
  explicit StringSink(int64_t max_bytes) : max_bytes_(max_bytes) {}
  bool accepts(int64_t status) const override { return status == 200; }
  Status begin(const HttpAnswer&) override {
    text_.clear();
    return ok_status();
  }
  Status write(std::string_view bytes) override {
    if (static_cast<int64_t>(text_.size() + bytes.size()) > max_bytes_) {
      return limit_exceeded("the answer exceeds " + std::to_string(max_bytes_) + " bytes");
    }
    text_ += bytes;
    return ok_status();
  }
  std::string& text() { return text_; }

 private:
  int64_t max_bytes_;
  std::string text_;
};

// Appends to a file, or starts it over, as the answer's status and range say.
class FileSink : public HttpSink {
 public:
  FileSink(const fs::path& path, int64_t expected_bytes,
           const std::function<void(int64_t done, int64_t total)>& on_bytes)
      : path_(path), etag_path_(path), expected_(expected_bytes), on_bytes_(on_bytes) {
    etag_path_ += ".etag";
  }

  // Sets `offset` to where the next request starts, and returns its headers.
  Expected<std::vector<std::string>> request_headers() {
    offset_ = 0;
    const int64_t have = file_bytes(path_);
    if (have <= 0 || (expected_ >= 0 && have > expected_)) return std::vector<std::string>{};
    PARE_ASSIGN_OR_RETURN(const std::string etag, read_etag());
    if (etag.empty()) return std::vector<std::string>{};
    offset_ = have;
    return std::vector<std::string>{"Range: bytes=" + std::to_string(have) + "-", "If-Range: " + etag};
  }

  bool accepts(int64_t status) const override {
    return status == 200 || (offset_ > 0 && (status == 206 || status == 416));
  }

  Status begin(const HttpAnswer& answer) override {
    if (answer.status == 416) return data_loss("the server has no bytes from " + std::to_string(offset_) + " on");
    const bool append = answer.status == 206;
    if (append) PARE_RETURN_IF_ERROR(check_range(answer.content_range));
    done_ = append ? offset_ : 0;
    total_ = expected_;
    if (answer.content_bytes >= 0) {
      if (answer.content_bytes > kMaxDownloadBytes) return too_large(answer.content_bytes);
      const int64_t announced = done_ + answer.content_bytes;
      if (expected_ >= 0 && announced != expected_) {
        return data_loss("the server announces " + std::to_string(announced) + " bytes, the listing says " +
                         std::to_string(expected_));
      }
      total_ = announced;
    }
    PARE_ASSIGN_OR_RETURN(file_, open_file(path_, O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC)));
    if (!append) PARE_RETURN_IF_ERROR(write_etag(answer.etag));
    return ok_status();
  }

  Status write(std::string_view bytes) override {
    const int64_t limit = expected_ >= 0 ? expected_ : kMaxDownloadBytes;
    if (static_cast<int64_t>(bytes.size()) > limit - done_) {
      return expected_ >= 0 ? data_loss("the body exceeds the listed " + std::to_string(expected_) + " bytes")
                            : too_large(done_);
    }
    PARE_RETURN_IF_ERROR(write_all(file_.get(), bytes, path_));
    done_ += static_cast<int64_t>(bytes.size());
    if (on_bytes_ && (done_ - reported_ >= kProgressStepBytes || done_ == total_ || done_ < reported_)) {
      on_bytes_(done_, std::max<int64_t>(total_, 0));
      reported_ = done_;
    }
    return ok_status();
  }

  // After a transfer that curl found whole: whether it is what was asked for.
  HttpOutcome check_complete() const {
    if (expected_ < 0 || done_ == expected_) return {};
    return {io_error(path_.filename().string() + " ended after " + std::to_string(done_) + " of " +
                     std::to_string(expected_) + " bytes; pull again to resume"),
            true};
  }

  // Says in a failed transfer's message how far it came.
  Status describe(const Status& status) const {
    if (status.code() != StatusCode::kIoError || !file_is_open() || total_ <= 0) return status;
    return io_error(std::string(status.message()) + " (ended after " + std::to_string(done_) + " of " +
                    std::to_string(total_) + " bytes; pull again to resume)");
  }

  Status forget() const {
    PARE_RETURN_IF_ERROR(remove_tree(path_));
    return remove_tree(etag_path_);
  }
  Status finish() {
    file_.reset();
    return remove_tree(etag_path_);
  }
  int64_t offset() const { return offset_; }
  bool file_is_open() const { return file_.get() >= 0; }
  void close() { file_.reset(); }

 private:
  static Status too_large(int64_t bytes) {
    return limit_exceeded(std::to_string(bytes) + " bytes, limit " + std::to_string(kMaxDownloadBytes));
  }

  // "bytes 100-199/200", starting where we asked and ending with the file we expect.
  Status check_range(const std::string& range) const {
    const std::string_view text = range;
    const size_t dash = text.find('-'), slash = text.find('/');
    if (text.starts_with("bytes ") && dash != std::string_view::npos && slash != std::string_view::npos &&
        dash < slash) {
      const auto first = parse_int(text.substr(6, dash - 6));
      const auto last = parse_int(text.substr(dash + 1, slash - dash - 1));
      const auto total = parse_int(text.substr(slash + 1));
      const bool fits = first == offset_ && last && total && *last < *total && *last == *total - 1 &&
                        (expected_ < 0 || *total == expected_);
      if (fits) return ok_status();
    }
    return data_loss("asked for bytes from " + std::to_string(offset_) + ", the server sends " + quote_name(range));
  }

  Expected<std::string> read_etag() const {
    const int64_t bytes = file_bytes(etag_path_);
    if (bytes <= 0 || bytes > static_cast<int64_t>(kMaxEtagBytes)) return std::string();
    PARE_ASSIGN_OR_RETURN(const UniqueFd file, open_file(etag_path_, O_RDONLY));
    std::string etag(static_cast<size_t>(bytes), '\0');
    if (::read(file.get(), etag.data(), etag.size()) != bytes || !is_strong_etag(etag)) return std::string();
    return etag;
  }

  // Only a strong tag vouches for equal bytes; without one the next call starts over.
  static bool is_strong_etag(std::string_view etag) {
    return etag.size() >= 2 && etag.size() <= kMaxEtagBytes && etag.front() == '"' && etag.back() == '"' &&
           std::all_of(etag.begin(), etag.end(), [](char c) { return c >= ' ' && c < 0x7f; });
  }
  Status write_etag(const std::string& etag) const {
    if (!is_strong_etag(etag)) return remove_tree(etag_path_);
    PARE_ASSIGN_OR_RETURN(const UniqueFd file, open_file(etag_path_, O_WRONLY | O_CREAT | O_TRUNC));
    return write_all(file.get(), etag, etag_path_);
  }

  const fs::path path_;
  fs::path etag_path_;
  const int64_t expected_;
  const std::function<void(int64_t done, int64_t total)>& on_bytes_;
  UniqueFd file_;
  int64_t offset_ = 0, done_ = 0, total_ = kUnknownBytes, reported_ = 0;
};

}  // namespace

Expected<std::string> http_get(const std::string& url, int64_t max_bytes, const HttpOptions& options) {
  StringSink sink(max_bytes);
  PARE_RETURN_IF_ERROR(with_retries(options, [&] { return http_fetch(url, {}, options, sink); }));
  return std::move(sink.text());
}

Status http_download(const std::string& url, const fs::path& path, int64_t expected_bytes, const HttpOptions& options,
                     const std::function<void(int64_t done, int64_t total)>& on_bytes) {
  FileSink sink(path, expected_bytes, on_bytes);
  // A pull may have been interrupted between the last byte and the check of the whole.
  if (expected_bytes >= 0 && file_bytes(path) == expected_bytes) return sink.finish();
  return with_retries(options, [&]() -> HttpOutcome {
    const auto headers = sink.request_headers();
    if (!headers.ok()) return {headers.status()};
    HttpOutcome outcome = http_fetch(url, *headers, options, sink);
    outcome.status = sink.describe(outcome.status);
    if (outcome.status.ok()) outcome = sink.check_complete();
    if (outcome.status.ok()) return {sink.finish()};
    sink.close();
    if (outcome.status.code() == StatusCode::kDataLoss) {
      // What the server contradicts is no beginning to build on; without it the next attempt may do.
      outcome.transient = sink.offset() > 0;
      if (Status removed = sink.forget(); !removed.ok()) return {removed};
    }
    return outcome;
  });
}

std::string url_escape(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string escaped;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || std::string_view("-._~").find(c) != std::string_view::npos) {
      escaped += c;
    } else {
      escaped += '%';
      escaped += kHex[byte >> 4];
      escaped += kHex[byte & 15];
    }
  }
  return escaped;
}

}  // namespace pare
