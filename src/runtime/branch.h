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
  int32_t branches_left = 0;
  bool cancelled = false, started = false;
  Clock::time_point submitted, first_token, last_token;
};

enum class BranchState : uint8_t { kWaiting, kRunning, kFinished };

struct Branch {
  std::shared_ptr<ActiveRequest> owner;
  int32_t index = 0;     // in the request
  uint64_t arrival = 0;  // order of admission; pre-empted branches keep theirs
  BranchState state = BranchState::kWaiting;
  SeqId seq = -1;               // while running
  int32_t slot = -1;            // row of the engine's last-token table, while running
  std::vector<int32_t> tokens;  // prompt and answer as far as the host knows them
  int32_t prompt_len = 0;
  int32_t total_max = 0;  // tokens it may hold: prompt + max_tokens, bounded by the context
  int32_t computed = 0;   // rows committed to the store
  int32_t in_flight = 0;  // tokens drawn by a step whose results have not been looked at
  TextOutput text;
  std::vector<ops::TokenCount> counts;  // ids that penalties look at, ascending by id
  bool counting = false;

  Branch(std::shared_ptr<ActiveRequest> request, int32_t branch_index, const Tokenizer* tokenizer)
      : owner(std::move(request)),
        index(branch_index),
        tokens(owner->request.tokens),
        prompt_len(static_cast<int32_t>(owner->request.tokens.size())),
        text(tokenizer, owner->request.stop) {}

  // Tokens that have a value somewhere, on the host or in the last-token table.
  int32_t drawn() const { return static_cast<int32_t>(tokens.size()) + in_flight; }
  bool in_prompt() const { return computed < prompt_len; }

  // Penalties look at this branch's tokens: the prompt's ids with a count of zero (repetition alone), the answer's with
  // their frequency. Reserves for the whole answer, so that counting never allocates.
  void start_counts();
  void count_token(int32_t id);
  // How the token at `position` is drawn. Views into this branch.
  ops::SampleRow sample_row(int32_t position) const;
};

}  // namespace pare
