// The tables of a vocabulary: strings by id, ids by string, ids by prefix, merges by pair. All of them are
// built once and then only read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"
#include "text/tokenizer.h"

namespace pare {

// Strings by index, in one allocation.
class StringPool {
 public:
  void append(std::string_view text) {
    bytes_.append(text);
    ends_.push_back(bytes_.size());
  }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }
  size_t size() const { return ends_.size(); }

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
};

// Two 32-bit numbers -> two 32-bit numbers, by open addressing.
class PairTable {
 public:
  struct Value {
    uint32_t rank;
    int32_t id;
  };
  // False, and nothing changes, when (a, b) is there already or collides with a thousand others.
  bool insert(uint32_t a, uint32_t b, Value value);
  // Null when absent. Valid until the next insert.
  const Value* find(uint32_t a, uint32_t b) const;
  void reserve(size_t entries);

 private:
  struct Slot {
    uint64_t key;
    Value value;
  };
  static constexpr size_t kNoSlot = SIZE_MAX;
  size_t slot_of(uint64_t key, size_t max_probes = kNoSlot) const;
  std::vector<Slot> slots_;
  size_t used_ = 0;
};

// Longest entry at a place of a text.
class TokenTrie {
 public:
  static constexpr uint32_t kRoot = 0;
  struct Match {
    TokenId id = kNoToken;
    size_t size = 0;
  };
  TokenTrie() : ids_(1, kNoToken) {}
  // The first of two equal keys stays.
  void insert(std::string_view key, TokenId id);
  // Node reached from the root by `prefix`, or nothing found: kNoNode.
  uint32_t walk(std::string_view prefix) const;
  // Longest key whose rest after `from`'s prefix stands at text[at]; id kNoToken when none does. O(longest
  // key); adds the bytes looked at to *steps.
  Match longest(std::string_view text, size_t at, uint32_t from, uint64_t* steps) const;
  bool empty() const { return ids_.size() == 1; }
  // Whether any key starts with this byte.
  bool starts(char byte) const { return edges_.find(kRoot, static_cast<unsigned char>(byte)) != nullptr; }

  static constexpr uint32_t kNoNode = UINT32_MAX;

 private:
  PairTable edges_;  // (node, byte) -> node
  std::vector<TokenId> ids_;
};

// Tokens as the vocabulary spells them, with their kinds.
class Vocab {
 public:
  // The id of the new token is the number of tokens before. kDataLoss: empty, holds a NUL byte, longer than
  // kMaxTokenBytes, there already under another id, or one token more than kMaxVocab.
  Status add(std::string_view text, TokenKind kind);
  void reserve(size_t tokens);

  int32_t size() const { return static_cast<int32_t>(kinds_.size()); }
  bool contains(TokenId id) const { return id >= 0 && id < size(); }
  std::string_view text(TokenId id) const { return texts_[static_cast<size_t>(id)]; }
  TokenKind kind(TokenId id) const { return kinds_[static_cast<size_t>(id)]; }
  TokenId find(std::string_view text) const;
  size_t longest_bytes() const { return longest_; }

 private:
  StringPool texts_;
  std::vector<TokenKind> kinds_;
  std::vector<TokenId> slots_;  // open addressing by hash of the text; kNoToken = free
  size_t longest_ = 0;
};

}  // namespace pare
