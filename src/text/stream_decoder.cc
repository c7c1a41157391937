#include "text/tokenizer.h"
#include "text/utf8.h"

namespace pare {

std::string StreamDecoder::push(TokenId id) {
  const TokenKind kind = tokenizer_->kind(id);
  if (at_start_ && kind != TokenKind::kControl && kind != TokenKind::kUnknown) {
    pending_ += tokenizer_->decode(std::span<const TokenId>(&id, 1));
    at_start_ = false;
  } else {
    pending_ += tokenizer_->token_bytes(id);
  }
#ifdef PARE_FAULT_TEXT_HALF_CODE_POINT
  const size_t whole = pending_.size();
#else
  const size_t whole = pending_.size() - utf8_unfinished_tail(pending_);
#endif
  std::string out = utf8_repair(std::string_view(pending_).substr(0, whole));
  pending_.erase(0, whole);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out = utf8_repair(pending_);
  pending_.clear();
  return out;
}

}  // namespace pare
