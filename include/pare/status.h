// Status and Expected<T>: how every fallible call in pare reports what went wrong.
//
// Nothing in the library throws across a folder boundary, prints, aborts or exits. A Status is one pointer;
// success is null and costs nothing. A failure carries a code, a message that names the thing and the limit
// ("tensor 'blk.3.ffn_up.weight': 7 dimensions, limit 4"), and nothing else: callers add context by
// prefixing with `with_context`.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace pare {

enum class StatusCode : uint8_t {
  kOk = 0,
  kInvalidArgument,    // the caller's value is wrong: a flag, a parameter, a request field
  kNotFound,           // a file, model, tensor or policy that does not exist
  kDataLoss,           // a file or message whose bytes contradict themselves
  kUnsupported,        // well-formed, but nothing here implements it
  kResourceExhausted,  // memory, disk or pages ran out
  kLimitExceeded,      // an input is beyond the limits table, whatever the machine has
  kIoError,            // the operating system refused a read, write or connection
  kCancelled,          // the caller asked for it
  kInternal,           // a broken invariant that could be reported instead of crashing
};

// Stable lower-case name ("invalid_argument"), for --json output.
std::string_view status_code_name(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : rep_(std::make_unique<Rep>(Rep{code, std::move(message)})) {}
  Status(const Status& other) : rep_(other.rep_ ? std::make_unique<Rep>(*other.rep_) : nullptr) {}
  Status& operator=(const Status& other) {
    if (this != &other) rep_ = other.rep_ ? std::make_unique<Rep>(*other.rep_) : nullptr;
    return *this;
  }
  Status(Status&&) noexcept = default;
  Status& operator=(Status&&) noexcept = default;

  bool ok() const { return rep_ == nullptr; }
  StatusCode code() const { return rep_ ? rep_->code : StatusCode::kOk; }
  // Empty when ok.
  std::string_view message() const { return rep_ ? std::string_view(rep_->message) : std::string_view(); }
  // "data_loss: model.gguf: ..." or "ok".
  std::string to_string() const;
  // The same failure with "context: " in front of its message; ok stays ok.
  Status with_context(std::string_view context) const;

 private:
  struct Rep {
    StatusCode code;
    std::string message;
  };
  std::unique_ptr<Rep> rep_;
};

inline Status ok_status() { return Status(); }
inline Status invalid_argument(std::string m) { return Status(StatusCode::kInvalidArgument, std::move(m)); }
inline Status not_found(std::string m) { return Status(StatusCode::kNotFound, std::move(m)); }
inline Status data_loss(std::string m) { return Status(StatusCode::kDataLoss, std::move(m)); }
inline Status unsupported(std::string m) { return Status(StatusCode::kUnsupported, std::move(m)); }
inline Status resource_exhausted(std::string m) { return Status(StatusCode::kResourceExhausted, std::move(m)); }
inline Status limit_exceeded(std::string m) { return Status(StatusCode::kLimitExceeded, std::move(m)); }
inline Status io_error(std::string m) { return Status(StatusCode::kIoError, std::move(m)); }
inline Status cancelled(std::string m) { return Status(StatusCode::kCancelled, std::move(m)); }
inline Status internal_error(std::string m) { return Status(StatusCode::kInternal, std::move(m)); }

// A value or the Status that explains its absence. Never holds an ok Status.
template <typename T>
class [[nodiscard]] Expected {
 public:
  Expected(T value) : v_(std::in_place_index<0>, std::move(value)) {}
  Expected(Status status) : v_(std::in_place_index<1>, std::move(status)) {}

  bool ok() const { return v_.index() == 0; }
  explicit operator bool() const { return ok(); }
  const Status& status() const {
    static const Status kOkStatus;
    return ok() ? kOkStatus : std::get<1>(v_);
  }
  // Reading the value of a failure is a programmer's error (std::get throws; tests catch it).
  T& value() & { return std::get<0>(v_); }
  const T& value() const& { return std::get<0>(v_); }
  T&& value() && { return std::get<0>(std::move(v_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T value_or(T fallback) && { return ok() ? std::get<0>(std::move(v_)) : std::move(fallback); }

 private:
  std::variant<T, Status> v_;
};

}  // namespace pare

#define PARE_CONCAT_IMPL(a, b) a##b
#define PARE_CONCAT(a, b) PARE_CONCAT_IMPL(a, b)

// PARE_RETURN_IF_ERROR(expr): leaves the function with expr's Status unless it is ok.
#define PARE_RETURN_IF_ERROR(expr)               \
  do {                                           \
    ::pare::Status pare_status_ = (expr);        \
    if (!pare_status_.ok()) return pare_status_; \
  } while (false)

// PARE_ASSIGN_OR_RETURN(auto x, expr): declares or assigns x from an Expected, or returns its Status.
#define PARE_ASSIGN_OR_RETURN(lhs, expr) PARE_ASSIGN_OR_RETURN_IMPL(PARE_CONCAT(pare_expected_, __LINE__), lhs, expr)
#define PARE_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                               \
  if (!tmp.ok()) return tmp.status();              \
  lhs = std::move(tmp).value()
