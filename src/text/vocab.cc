#include "text/vocab.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "base/limits.h"

namespace pare {
namespace {

constexpr uint64_t kFreeKey = UINT64_MAX;
// With tables at most half full, honest keys probe a few dozen slots at worst. A vocabulary made to collide
// is an error instead of a quadratic load.
constexpr size_t kMaxProbes = 1'024;

uint64_t mix(uint64_t x) {
  x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
  x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
  return x ^ x >> 32;
}

}  // namespace

size_t PairTable::slot_of(uint64_t key, size_t max_probes) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = mix(key) & mask;
  for (size_t probes = 0; slots_[slot].key != key && slots_[slot].key != kFreeKey; slot = (slot + 1) & mask) {
    if (++probes > max_probes) return kNoSlot;
  }
  return slot;
}

void PairTable::reserve(size_t entries) {
  const size_t wanted = std::bit_ceil(std::max<size_t>(16, 2 * entries));
  if (wanted <= slots_.size()) return;
  std::vector<Slot> old(wanted, Slot{kFreeKey, {}});
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.key != kFreeKey) slots_[slot_of(slot.key)] = slot;
  }
}

bool PairTable::insert(uint32_t a, uint32_t b, Value value) {
  reserve(used_ + 1);
  const uint64_t key = static_cast<uint64_t>(a) << 32 | b;
  const size_t index = slot_of(key, kMaxProbes);
  if (index == kNoSlot || slots_[index].key == key) return false;
  slots_[index] = {key, value};
  ++used_;
  return true;
}

const PairTable::Value* PairTable::find(uint32_t a, uint32_t b) const {
  if (slots_.empty()) return nullptr;
  const uint64_t key = static_cast<uint64_t>(a) << 32 | b;
  if (key == kFreeKey) return nullptr;
  const Slot& slot = slots_[slot_of(key)];
  return slot.key == key ? &slot.value : nullptr;
}

void TokenTrie::insert(std::string_view key, TokenId id) {
  uint32_t node = kRoot;
  for (const char c : key) {
    const auto byte = static_cast<unsigned char>(c);
    if (const auto* edge = edges_.find(node, byte)) {
      node = static_cast<uint32_t>(edge->id);
    } else {
      const auto next = static_cast<uint32_t>(ids_.size());
      edges_.insert(node, byte, {0, static_cast<int32_t>(next)});
      ids_.push_back(kNoToken);
      node = next;
    }
  }
  if (ids_[node] == kNoToken) ids_[node] = id;
}

uint32_t TokenTrie::walk(std::string_view prefix) const {
  uint32_t node = kRoot;
  for (const char c : prefix) {
    const auto* edge = edges_.find(node, static_cast<unsigned char>(c));
    if (edge == nullptr) return kNoNode;
    node = static_cast<uint32_t>(edge->id);
  }
  return node;
}

TokenTrie::Match TokenTrie::longest(std::string_view text, size_t at, uint32_t from, uint64_t* steps) const {
  Match best;
  uint32_t node = from;
  for (size_t i = at; node != kNoNode && i < text.size(); ++i) {
    ++*steps;
    const auto* edge = edges_.find(node, static_cast<unsigned char>(text[i]));
    if (edge == nullptr) break;
    node = static_cast<uint32_t>(edge->id);
    if (ids_[node] != kNoToken) best = {ids_[node], i + 1 - at};
  }
  return best;
}

void Vocab::reserve(size_t tokens) {
  tokens = std::min(tokens, static_cast<size_t>(kMaxVocab));
  const size_t wanted = std::bit_ceil(std::max<size_t>(16, 2 * tokens));
  if (wanted <= slots_.size()) return;
  slots_.assign(wanted, kNoToken);
  const size_t mask = wanted - 1;
  for (TokenId id = 0; id < size(); ++id) {
    size_t slot = mix(std::hash<std::string_view>{}(text(id))) & mask;
    while (slots_[slot] != kNoToken) slot = (slot + 1) & mask;
    slots_[slot] = id;
  }
}

Status Vocab::add(std::string_view token, TokenKind kind) {
  if (size() >= kMaxVocab) return data_loss("more than " + std::to_string(kMaxVocab) + " tokens");
  if (token.empty()) return data_loss("the token is empty: a hole in the vocabulary");
  if (token.size() > static_cast<size_t>(kMaxTokenBytes)) {
    return data_loss("the token has " + std::to_string(token.size()) + " bytes, limit " +
                     std::to_string(kMaxTokenBytes));
  }
  if (token.find('\0') != std::string_view::npos) return data_loss("the token holds a NUL byte");
  reserve(kinds_.size() + 1);
  const size_t mask = slots_.size() - 1;
  size_t slot = mix(std::hash<std::string_view>{}(token)) & mask;
  for (size_t probes = 0; slots_[slot] != kNoToken; slot = (slot + 1) & mask, ++probes) {
    if (text(slots_[slot]) == token) {
      return data_loss("the token '" + std::string(token) + "' is a duplicate of token " +
                       std::to_string(slots_[slot]));
    }
    if (probes > kMaxProbes) return data_loss("the tokens collide in the hash table: not a real vocabulary");
  }
  slots_[slot] = size();
  texts_.append(token);
  kinds_.push_back(kind);
  longest_ = std::max(longest_, token.size());
  return ok_status();
}

TokenId Vocab::find(std::string_view token) const {
  if (slots_.empty() || token.empty()) return kNoToken;
  const size_t mask = slots_.size() - 1;
  for (size_t slot = mix(std::hash<std::string_view>{}(token)) & mask; slots_[slot] != kNoToken;
       slot = (slot + 1) & mask) {
    if (text(slots_[slot]) == token) return slots_[slot];
  }
  return kNoToken;
}

}  // namespace pare
