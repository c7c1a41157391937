// An HTTP server for tests: one thread on 127.0.0.1, one request per connection, answers that are exactly the
// bytes the test wrote, lies included.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace pare::test {

struct Request {
  std::string target;                          // "/path?query"
  std::map<std::string, std::string> headers;  // names in lower case

  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

struct Reply {
  std::string bytes;
  bool stay_silent = false;  // keep the connection open without another byte until the server ends
};

class HttpServer {
 public:
  using Handler = std::function<Reply(const Request&)>;

  explicit HttpServer(Handler handler) : handler_(std::move(handler)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    ::bind(listener_, reinterpret_cast<sockaddr*>(&address), size);
    ::listen(listener_, 16);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~HttpServer() {
    stop_ = true;
    thread_.join();
    ::close(listener_);
  }

  std::string url(std::string_view target = "") const {
    return "http://127.0.0.1:" + std::to_string(port_) + std::string(target);
  }
  std::vector<Request> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  static constexpr int kTickMs = 5;

  static bool readable(int fd) {
    pollfd wait{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&wait, 1, kTickMs) > 0;
  }

  void serve() {
    while (!stop_) {
      if (!readable(listener_)) continue;
      const int connection = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (connection < 0) continue;
      answer(connection);
      ::close(connection);
    }
  }

  void answer(int connection) {
    std::string text;
    char block[4096];
    while (text.find("\r\n\r\n") == std::string::npos) {
      if (stop_) return;
      if (!readable(connection)) continue;
      const ssize_t got = ::recv(connection, block, sizeof block, 0);
      if (got <= 0) return;
      text.append(block, static_cast<size_t>(got));
    }
    const Request request = parse(text);
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    const Reply reply = handler_(request);
    std::string_view left = reply.bytes;
    while (!left.empty()) {
      const ssize_t sent = ::send(connection, left.data(), left.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      left.remove_prefix(static_cast<size_t>(sent));
    }
    while (reply.stay_silent && !stop_) std::this_thread::sleep_for(std::chrono::milliseconds(kTickMs));
  }

  static Request parse(const std::string& text) {
    Request request;
    const size_t first = text.find(' ');
    request.target = text.substr(first + 1, text.find(' ', first + 1) - first - 1);
    for (size_t at = text.find("\r\n") + 2; at < text.size();) {
      const size_t end = text.find("\r\n", at), colon = text.find(": ", at);
      if (end == at || colon == std::string::npos || colon > end) break;
      std::string name = text.substr(at, colon - at);
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      request.headers[name] = text.substr(colon + 2, end - colon - 2);
      at = end + 2;
    }
    return request;
  }

  Handler handler_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  std::vector<Request> requests_;
  std::thread thread_;
};

// "HTTP/1.1 <status>", the header lines, the body's length unless a header says otherwise, the body.
inline Reply reply(const std::string& status, const std::vector<std::string>& headers, const std::string& body) {
  std::string text = "HTTP/1.1 " + status + "\r\nConnection: close\r\n";
  bool has_length = false;
  for (const std::string& header : headers) {
    has_length |= header.starts_with("Content-Length") || header.starts_with("Transfer-Encoding");
    text += header + "\r\n";
  }
  if (!has_length) text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  return {text + "\r\n" + body};
}

inline Reply redirect(const std::string& location) { return reply("302 Found", {"Location: " + location}, "moved"); }

// A well-behaved file server's answer: ETag, ranges, If-Range.
inline Reply serve_file(const Request& request, const std::string& content, const std::string& etag) {
  const std::string range = request.header("range");
  const bool same = request.header("if-range").empty() || request.header("if-range") == etag;
  if (range.empty() || !same) return reply("200 OK", {"ETag: " + etag}, content);
  const size_t from = std::stoul(range.substr(std::string("bytes=").size()));
  if (from >= content.size()) return reply("416 Range Not Satisfiable", {}, "");
  return reply("206 Partial Content",
               {"ETag: " + etag, "Content-Range: bytes " + std::to_string(from) + "-" +
                                     std::to_string(content.size() - 1) + "/" + std::to_string(content.size())},
               content.substr(from));
}

// The first `body_bytes` of the body only, then the connection ends.
inline Reply cut(Reply whole, size_t body_bytes) {
  const size_t body = whole.bytes.find("\r\n\r\n") + 4;
  whole.bytes.resize(std::min(whole.bytes.size(), body + body_bytes));
  return whole;
}

}  // namespace pare::test
