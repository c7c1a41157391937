// Text of one branch: whole code points as they become certain, cut at the first stop string.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace pare {

class TextOutput {
 public:
  // `stop` outlives this object. The text continues a prompt: a leading space is part of it.
  TextOutput(const Tokenizer* tokenizer, std::span<const std::string> stop) : decoder_(tokenizer, false), stop_(stop) {}

  // Adds a token. The view is what may be shown now: text that can no longer become part of a stop string; valid until
  // the next call.
  std::string_view push(TokenId id);
  // What was held back, at the end. Nothing after a stop string.
  std::string_view finish();
  bool stopped() const { return stopped_; }

 private:
  std::string_view release(bool end);

  StreamDecoder decoder_;
  std::span<const std::string> stop_;
  std::string held_;   // not yet shown
  std::string shown_;  // backs the returned view
  bool stopped_ = false;
};

}  // namespace pare
