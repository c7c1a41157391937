#include "io/download_http.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <memory>
#include <utility>

namespace pare {
namespace {

struct FreeCurl {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
  void operator()(char* text) const { curl_free(text); }
};
template <typename T>
using CurlPtr = std::unique_ptr<T, FreeCurl>;

bool curl_ready() {
  static const bool kReady = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return kReady;
}

std::string without_query(std::string_view url) { return std::string(url.substr(0, url.find_first_of("?#"))); }

// Who a URL talks to. A token may be shown only to an equal origin.
struct Origin {
  std::string scheme, host, port;
  bool operator==(const Origin&) const = default;
};

Expected<Origin> origin_of(const std::string& url) {
  const CurlPtr<CURLU> parsed(curl_url());
  if (!parsed) return resource_exhausted("no memory for a URL");
  const CURLUcode code = curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0);
  if (code != CURLUE_OK) return invalid_argument(without_query(url) + ": " + curl_url_strerror(code));
  const auto part = [&](CURLUPart what) {
    char* text = nullptr;
    if (curl_url_get(parsed.get(), what, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return std::string();
    const CurlPtr<char> owner(text);
    std::string lower(text);
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return lower;
  };
  Origin origin{part(CURLUPART_SCHEME), part(CURLUPART_HOST), part(CURLUPART_PORT)};
  if (origin.scheme != "http" && origin.scheme != "https") {
    return invalid_argument(without_query(url) + ": scheme '" + origin.scheme + "' is neither http nor https");
  }
  return origin;
}

bool is_token(std::string_view token) {
  return std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

// One request and its answer, no redirects followed.
class Exchange {
 public:
  Exchange(const HttpOptions& options, HttpSink& sink) : options_(options), sink_(sink) {}

  HttpOutcome run(const std::string& url, const std::vector<std::string>& headers) {
    const CurlPtr<CURL> curl(curl_easy_init());
    if (!curl) return {resource_exhausted("no memory for a request")};
    curl_ = curl.get();
    CurlPtr<curl_slist> list;
    for (const std::string& header : headers) {
      curl_slist* longer = curl_slist_append(list.get(), header.c_str());
      if (longer == nullptr) return {resource_exhausted("no memory for a request")};
      static_cast<void>(list.release());
      list.reset(longer);
    }
    std::array<char, CURL_ERROR_SIZE> error_text{};
    set(CURLOPT_URL, url.c_str());
    set(CURLOPT_HTTPHEADER, list.get());
    set(CURLOPT_ERRORBUFFER, error_text.data());
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_USERAGENT, "pare");
    set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options_.connect_timeout_ms));
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(options_.stall_timeout_s));
    set(CURLOPT_HEADERFUNCTION, &Exchange::on_header);
    set(CURLOPT_HEADERDATA, this);
    set(CURLOPT_WRITEFUNCTION, &Exchange::on_body);
    set(CURLOPT_WRITEDATA, this);
    const CURLcode code = curl_easy_perform(curl_);
    if (!stopped_.ok()) return {stopped_};
    // An unwanted body is cut off, which curl reports as a failed write: the answer itself stands.
    if (code != CURLE_OK && !body_refused_) {
      return failure(code, error_text[0] != '\0' ? error_text.data() : curl_easy_strerror(code));
    }
    read_answer();
    char* target = nullptr;
    if (answer_.status / 100 == 3 && curl_easy_getinfo(curl_, CURLINFO_REDIRECT_URL, &target) == CURLE_OK &&
        target != nullptr) {
      redirect_ = target;
      return {};
    }
    if (!sink_.accepts(answer_.status)) return refused();
    return {begin_once()};
  }

  const HttpAnswer& answer() const { return answer_; }
  const std::string& redirect() const { return redirect_; }  // empty when the answer was final

 private:
  template <typename T>
  void set(CURLoption option, T value) {
    curl_easy_setopt(curl_, option, value);
  }

  static size_t on_header(char* data, size_t, size_t size, void* self) {
    return static_cast<Exchange*>(self)->header({data, size}) ? size : 0;
  }
  static size_t on_body(char* data, size_t, size_t size, void* self) {
    return static_cast<Exchange*>(self)->body({data, size}) ? size : 0;
  }

  bool header(std::string_view line) {
    header_bytes_ += static_cast<int64_t>(line.size());
    if (header_bytes_ > kMaxHttpHeaderBytes) {
      stopped_ = limit_exceeded("the answer's headers exceed " + std::to_string(kMaxHttpHeaderBytes) + " bytes");
      return false;
    }
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.remove_suffix(1);
    if (line.starts_with("HTTP/")) answer_ = {};
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return true;
    std::string name(line.substr(0, colon));
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    std::string_view value = line.substr(colon + 1);
    value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
    if (name == "etag") answer_.etag = value;
    if (name == "content-range") answer_.content_range = value;
    return true;
  }

  bool body(std::string_view bytes) {
    read_answer();
    if (answer_.status / 100 == 3) {
      // curl knows a redirect's target only when the answer ended well, so its short text is let pass.
      discarded_bytes_ += static_cast<int64_t>(bytes.size());
      body_refused_ = discarded_bytes_ > kMaxHttpHeaderBytes;
      return !body_refused_;
    }
    if (!sink_.accepts(answer_.status)) {
      body_refused_ = true;
      return false;
    }
    stopped_ = begin_once();
    if (stopped_.ok()) stopped_ = sink_.write(bytes);
    return stopped_.ok();
  }

  void read_answer() {
    long status = 0;
    curl_off_t bytes = -1;
    curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(curl_, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &bytes);
    answer_.status = status;
    answer_.content_bytes = bytes < 0 ? kUnknownBytes : static_cast<int64_t>(bytes);
  }

  Status begin_once() {
    if (std::exchange(begun_, true)) return ok_status();
    return sink_.begin(answer_);
  }

  HttpOutcome refused() const {
    const std::string text = "HTTP status " + std::to_string(answer_.status);
    switch (answer_.status) {
      case 401:
      case 403: return {io_error(text + ": not allowed; a private or gated model needs a token in HF_TOKEN")};
      case 404:
      case 410: return {not_found(text)};
      default: return {io_error(text), answer_.status == 429 || answer_.status >= 500};
    }
  }

  static HttpOutcome failure(CURLcode code, const std::string& text) {
    switch (code) {
      case CURLE_PARTIAL_FILE:
      case CURLE_RECV_ERROR:
      case CURLE_SEND_ERROR:
      case CURLE_GOT_NOTHING:
      case CURLE_OPERATION_TIMEDOUT:
      case CURLE_COULDNT_RESOLVE_HOST:
      case CURLE_COULDNT_CONNECT:
      case CURLE_HTTP2:
      case CURLE_HTTP2_STREAM: return {io_error(text), true};
      default: return {io_error(text)};
    }
  }

  const HttpOptions& options_;
  HttpSink& sink_;
  CURL* curl_ = nullptr;
  HttpAnswer answer_;
  std::string redirect_;
  Status stopped_;  // why a callback ended the transfer
  int64_t header_bytes_ = 0, discarded_bytes_ = 0;
  bool begun_ = false, body_refused_ = false;
};

}  // namespace

Status check_redirect(const std::string& first_url, const std::string& next_url) {
  PARE_ASSIGN_OR_RETURN(const Origin first, origin_of(first_url));
  const auto next = origin_of(next_url);
  if (!next.ok()) return next.status().with_context("redirect");
  if (first.scheme == "https" && next->scheme != "https") {
    return io_error("redirect from https to " + without_query(next_url) + " refused");
  }
  return ok_status();
}

// Redirects are followed here and not by curl so that the token and the scheme are decided
// anew at every hop.
HttpOutcome http_fetch(const std::string& first_url, const std::vector<std::string>& headers,
                       const HttpOptions& options, HttpSink& sink) {
  if (!curl_ready()) return {internal_error("libcurl does not start")};
  if (!is_token(options.bearer_token)) {
    return {invalid_argument("the token holds spaces, control characters or non-ASCII bytes")};
  }
  const auto first = origin_of(first_url);
  if (!first.ok()) return {first.status()};
  std::string url = first_url;
  for (int hop = 0; hop <= kMaxHttpRedirects; ++hop) {
    if (Status allowed = check_redirect(first_url, url); !allowed.ok()) return {std::move(allowed)};
    const auto here = origin_of(url);
    if (!here.ok()) return {here.status()};
    std::vector<std::string> sent = headers;
    if (!options.bearer_token.empty() && *here == *first) {
      sent.push_back("Authorization: Bearer " + options.bearer_token);
    }
    Exchange exchange(options, sink);
    HttpOutcome outcome = exchange.run(url, sent);
    if (!outcome.status.ok()) return {outcome.status.with_context(without_query(url)), outcome.transient};
    if (exchange.redirect().empty()) return {};
    url = exchange.redirect();
  }
  return {io_error(without_query(first_url) + ": more than " + std::to_string(kMaxHttpRedirects) + " redirects")};
}

}  // namespace pare
