// One HTTP request with its redirects, under the limits of io/download.h. Only download.cc needs it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/download.h"
#include "pare/status.h"

namespace pare {

// What the headers of a final answer said.
struct HttpAnswer {
  int64_t status = 0;
  int64_t content_bytes = kUnknownBytes;
  std::string etag, content_range;
};

// Receives one final answer: `begin` before the first byte of the body (also of an empty one), then `write`.
class HttpSink {
 public:
  virtual ~HttpSink() = default;
  virtual bool accepts(int64_t status) const = 0;
  virtual Status begin(const HttpAnswer& answer) = 0;
  virtual Status write(std::string_view bytes) = 0;
};

// A failure, and whether the same request may succeed a moment later.
struct HttpOutcome {
  Status status;
  bool transient = false;
};

// Whether a chain that began at `first_url` may go on to `next_url`: http or https, and never down from
// https.
Status check_redirect(const std::string& first_url, const std::string& next_url);

// GETs `url`, following at most kMaxHttpRedirects redirects, and passes the answer to `sink`. A status that
// the sink does not accept is an error. Every message begins with the URL of the hop that failed.
HttpOutcome http_fetch(const std::string& url, const std::vector<std::string>& headers, const HttpOptions& options,
                       HttpSink& sink);

}  // namespace pare
