#include "runtime/text_output.h"

#include <algorithm>

namespace pare {
namespace {

// Length of the longest suffix of `text` that a longer text could complete to `stop`.
size_t open_suffix(std::string_view text, std::string_view stop) {
#ifdef PARE_FAULT_RUNTIME_SPLIT_STOP_STRING
  const size_t most = std::min<size_t>({text.size(), stop.size() - 1, 1});
#else
  const size_t most = std::min(text.size(), stop.size() - 1);
#endif
  for (size_t n = most; n > 0; --n) {
    if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
  }
  return 0;
}

}  // namespace

std::string_view TextOutput::push(TokenId id) {
  if (stopped_) return {};
  held_ += decoder_.push(id);
  return release(false);
}

std::string_view TextOutput::finish() {
  if (stopped_) return {};
  held_ += decoder_.finish();
  return release(true);
}

std::string_view TextOutput::release(bool end) {
  size_t cut = std::string::npos;
  for (const std::string& stop : stop_) cut = std::min(cut, held_.find(stop));
  if (cut != std::string::npos) {
    stopped_ = true;
    shown_.assign(held_, 0, cut);
    held_.clear();
    return shown_;
  }
  size_t open = 0;
  if (!end) {
    for (const std::string& stop : stop_) open = std::max(open, open_suffix(held_, stop));
  }
  shown_.assign(held_, 0, held_.size() - open);
  held_.erase(0, held_.size() - open);
  return shown_;
}

}  // namespace pare
