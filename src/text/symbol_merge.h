// The merge loop of BPE and SentencePiece-style tokenizers: of all neighbouring symbols that may merge, the
// pair with the lowest priority number goes first, of equal ones the left-most, until none may.
#pragma once

#include <cstdint>
#include <queue>
#include <vector>

#include "text/tokenizer.h"

namespace pare {

// A stretch of the text; `id` is its token, or kNoToken for one that is none.
struct Symbol {
  uint32_t begin, size;  // bytes; size 0: merged into its left neighbour
  TokenId id;
  uint32_t prev, next;  // indices of the neighbours; kNoSymbol at the ends
};
inline constexpr uint32_t kNoSymbol = UINT32_MAX;

// What two neighbours become. `id` kNoToken: they do not merge.
struct MergeResult {
  uint32_t priority;
  TokenId id;
};

class SymbolMerger {
 public:
  std::vector<Symbol> symbols;  // fill before run(); afterwards walk from 0 by `next`

  void clear() { symbols.clear(); }
  void add(uint32_t begin, uint32_t size, TokenId id) {
    const auto index = static_cast<uint32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({begin, size, id, index == 0 ? kNoSymbol : index - 1, kNoSymbol});
  }

  // rule(left, right) -> MergeResult, constant time. Adds rules tried and queue operations to *steps: O(n log
  // n).
  template <typename Rule>
  void run(const Rule& rule, uint64_t* steps) {
    if (symbols.size() < 2) return;
    if (symbols.size() <= kFewSymbols) {
      run_few(rule, steps);
    } else {
      run_many(rule, steps);
    }
  }

 private:
  // Below this many, scanning beats a queue.
  static constexpr size_t kFewSymbols = 24;
  struct Candidate {
    uint64_t order;  // priority, then left index
    uint32_t right, size;
    TokenId id;
    bool operator>(const Candidate& other) const { return order > other.order; }
  };

  void join(uint32_t left, uint32_t right, TokenId id) {
    Symbol &l = symbols[left], &r = symbols[right];
    l.id = id;
    l.size += r.size;
    l.next = r.next;
    if (r.next != kNoSymbol) symbols[r.next].prev = left;
    r.size = 0;
  }

  template <typename Rule>
  void run_few(const Rule& rule, uint64_t* steps) {
    MergeResult with_next[kFewSymbols];
    const auto consider = [&](uint32_t left) {
      const uint32_t right = symbols[left].next;
      ++*steps;
      with_next[left] = right == kNoSymbol ? MergeResult{0, kNoToken} : rule(symbols[left], symbols[right]);
    };
    for (uint32_t i = 0; i < symbols.size(); ++i) consider(i);
    while (true) {
      uint32_t best = kNoSymbol;
      for (uint32_t i = 0; i != kNoSymbol; i = symbols[i].next) {
        ++*steps;
        if (with_next[i].id == kNoToken) continue;
#ifdef PARE_FAULT_TEXT_MERGE_ORDER
        if (best == kNoSymbol) best = i;
#else
        if (best == kNoSymbol || with_next[i].priority < with_next[best].priority) best = i;
#endif
      }
      if (best == kNoSymbol) return;
      join(best, symbols[best].next, with_next[best].id);
      consider(best);
      if (symbols[best].prev != kNoSymbol) consider(symbols[best].prev);
    }
  }

  template <typename Rule>
  void run_many(const Rule& rule, uint64_t* steps) {
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
    const auto consider = [&](uint32_t left, uint32_t right) {
      ++*steps;
      const MergeResult result = rule(symbols[left], symbols[right]);
      if (result.id == kNoToken) return;
      ++*steps;
      queue.push({static_cast<uint64_t>(result.priority) << 32 | left, right, symbols[left].size + symbols[right].size,
                  result.id});
    };
    for (uint32_t i = 0; i + 1 < symbols.size(); ++i) consider(i, i + 1);
    while (!queue.empty()) {
      const Candidate top = queue.top();
      queue.pop();
      ++*steps;
      const auto left = static_cast<uint32_t>(top.order);
      // Symbols only grow or vanish, so equal sizes mean that neither side changed since the push.
      const Symbol &l = symbols[left], &r = symbols[top.right];
#ifdef PARE_FAULT_TEXT_STALE_MERGE
      if (l.size == 0 || r.size == 0 || l.next != top.right) continue;
#else
      if (l.size == 0 || r.size == 0 || l.next != top.right || l.size + r.size != top.size) continue;
#endif
      join(left, top.right, top.id);
      if (symbols[left].prev != kNoSymbol) consider(symbols[left].prev, left);
      if (symbols[left].next != kNoSymbol) consider(left, symbols[left].next);
    }
  }
};

}  // namespace pare
