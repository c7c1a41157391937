// A branch: one sample of one request, from waiting to finished.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "kv/store.h"
#include "ops/sample.h"
#include "pare/request.h"
#include "runtime/text_output.h"

namespace pare {

using Clock = std::chrono::steady_clock;

// What the branches of a request share.
struct ActiveRequest {
  RequestId id = 0;
  Request request;
  EventSink sink;
  RequestStats stats;
  std::vector<ops::LogitBias> bias;
  bool penalized = false;  // some penalty is set: branches count their tokens
  // How selectors read the prompt: kSeqDense or 0, and what its rows may be shared with (KvStore::create_sequence).
  uint32_t seq_flags = 0;
  uint64_t prompt_tag = 0;
  int32_t branches_left = 0;
  bool cancelled = false, started = false;
  Clock::time_point submitted, first_token, last_token;
};

enum class BranchState : uint8_t { kWaiting, kRunning };

struct Branch {
  // Waiting, with the prompt's tokens. It will hold at most total_max tokens; the last of them is never computed.
  // Takes all memory that it will ever need.
  Branch(std::shared_ptr<ActiveRequest> request, int32_t branch_index, int32_t tokens_max, const Tokenizer* tokenizer);

  std::shared_ptr<ActiveRequest> owner;
  int32_t index = 0;  // in the request
  int32_t prompt_len = 0;
  int32_t total_max = 0;  // prompt + max_tokens, bounded by the context
  BranchState state = BranchState::kWaiting;
  SeqId seq = -1;               // while running
  int32_t slot = -1;            // row of the engine's last-token table, while running
  int32_t computed = 0;         // rows committed to the store
  int32_t observed = 0;         // prompt rows whose logits the observer has seen; replays do not show them again
  int32_t in_flight = 0;        // tokens drawn by a step whose results have not been looked at
  std::vector<int32_t> tokens;  // prompt and answer as far as the host knows them
  std::vector<ops::TokenCount> counts;  // when penalized: prompt ids with 0, answer ids with their count; by id
  TextOutput text;

  // Tokens that have a value somewhere, on the host or in the last-token table.
  int32_t drawn() const { return static_cast<int32_t>(tokens.size()) + in_flight; }
  bool in_prompt() const { return computed < prompt_len; }
  bool is_running() const { return state == BranchState::kRunning; }
  // The first branch of a request shows the prompt's rows; the others show only the one they draw from.
  bool observes_prompt() const { return index == 0 && owner->request.observe_prompt; }

  // The token that the request wants at `position`; -1: the drawn one.
  int32_t forced_at(size_t position) const;
  void add_token(int32_t id);
  // How the token at `position` is drawn from row `logits_row`. `uncounted`: where a token in flight is to be found, or
  // null. Views into this branch.
  ops::SampleRow sample_row(int64_t logits_row, int32_t position, const int32_t* uncounted) const;
};

}  // namespace pare
