// Bounded, resumable HTTP(S) downloads.
//
// The peer is hostile: header bytes, body bytes, redirects and silence are all limited, only http and https
// are spoken, and a chain that starts with https never leaves it. The bearer token goes to the scheme, host
// and port of the first URL and to no other. Proxies come from the usual environment variables. Messages show
// URLs without their query, which may carry a signature.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "pare/status.h"

namespace pare {

inline constexpr int64_t kMaxHttpHeaderBytes = 64 << 10;  // of one response, all lines together
inline constexpr int kMaxHttpRedirects = 8;
inline constexpr int64_t kMaxDownloadBytes = int64_t{1} << 40;
inline constexpr int64_t kUnknownBytes = -1;

struct HttpOptions {
  std::string bearer_token;  // empty: none; printable ASCII without spaces
  int64_t connect_timeout_ms = 30'000;
  int64_t stall_timeout_s = 60;   // give up after so long without a byte
  int attempts = 3;               // of one download; later ones resume the earlier ones
  int64_t retry_wait_ms = 1'000;  // before the second attempt, doubled before each next one
};

// The body of a 200 answer, at most `max_bytes` long.
Expected<std::string> http_get(const std::string& url, int64_t max_bytes, const HttpOptions& options);

// Downloads into `path`, appending when an earlier call left a beginning there and the server confirms, by
// the strong ETag kept in `path` + ".etag", that it still serves the same bytes. `expected_bytes` < 0: not
// known, then at most `-expected_bytes`. On success `path` has all bytes and the ".etag" file is gone;
// hashing it is the caller's business. On failure both stay for the next call. kIoError for a connection that
// failed or ended early ("... ended after N of M bytes"), kDataLoss for an answer that contradicts itself or
// `expected_bytes`, kNotFound for 404, kLimitExceeded for limits, kResourceExhausted for full disks.
Status http_download(const std::string& url, const std::filesystem::path& path, int64_t expected_bytes,
                     const HttpOptions& options, const std::function<void(int64_t done, int64_t total)>& on_bytes);

// `text` as one segment of a URL's path.
std::string url_escape(std::string_view text);

}  // namespace pare
