#include "pare/status.h"

namespace pare {

std::string_view status_code_name(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "ok";
    case StatusCode::kInvalidArgument: return "invalid_argument";
    case StatusCode::kNotFound: return "not_found";
    case StatusCode::kDataLoss: return "data_loss";
    case StatusCode::kUnsupported: return "unsupported";
    case StatusCode::kResourceExhausted: return "resource_exhausted";
    case StatusCode::kLimitExceeded: return "limit_exceeded";
    case StatusCode::kIoError: return "io_error";
    case StatusCode::kCancelled: return "cancelled";
    case StatusCode::kInternal: return "internal";
  }
  return "unknown";
}

std::string Status::to_string() const {
  if (ok()) return "ok";
  std::string text(status_code_name(code()));
  text += ": ";
  text += message();
  return text;
}

Status Status::with_context(std::string_view context) const {
  if (ok()) return Status();
  std::string text(context);
  text += ": ";
  text += message();
  return Status(code(), std::move(text));
}

}  // namespace pare
