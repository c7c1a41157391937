#include "kv/prefix_index.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace pare {
namespace {

// splitmix64's finalizer: every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

uint64_t key_of(uint64_t parent, std::span<const int32_t> tokens) {
  uint64_t key = parent;
  for (int32_t token : tokens) key = mix(key + 0x9e3779b97f4a7c15ull + static_cast<uint32_t>(token));
  return key;
}

uint64_t bucket_count(int64_t nodes) { return std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(nodes, 1))); }

}  // namespace

PrefixIndex::PrefixIndex(int32_t nodes) : nodes_(nodes), buckets_(bucket_count(nodes), kNone) {
  for (int32_t n = nodes - 1; n >= 0; --n) {
    nodes_[n].next = free_;
    free_ = n;
  }
}

int64_t PrefixIndex::bytes(int64_t nodes) {
  return nodes * static_cast<int64_t>(sizeof(Node)) + static_cast<int64_t>(bucket_count(nodes) * sizeof(int32_t));
}

#ifdef PARE_FAULT_KV_PREFIX_WITHOUT_TAG
PrefixPoint PrefixIndex::root(uint64_t) { return {0, 0}; }
#else
PrefixPoint PrefixIndex::root(uint64_t tag) { return {0, mix(tag)}; }
#endif

int32_t PrefixIndex::find(PrefixPoint parent, uint64_t tag, std::span<const int32_t> tokens) const {
  const uint64_t key = key_of(parent.key, tokens);
  for (int32_t n = buckets_[bucket_of(key)]; n != kNone; n = nodes_[n].next) {
    const Node& node = nodes_[n];
#ifdef PARE_FAULT_KV_PREFIX_WITHOUT_TAG
    const bool same_tag = node.tag == tag || node.key == key;
#else
    const bool same_tag = node.tag == tag;
#endif
    if (node.key == key && node.parent == parent.serial && same_tag &&
        std::equal(tokens.begin(), tokens.end(), node.tokens)) {
      return n;
    }
  }
  return kNone;
}

int32_t PrefixIndex::insert(PrefixPoint parent, uint64_t tag, std::span<const int32_t> tokens) {
  PARE_CHECK(tokens.size() == kPageRows);
  if (free_ == kNone) return kNone;
  const int32_t n = free_;
  Node& node = nodes_[n];
  free_ = node.next;
  node.key = key_of(parent.key, tokens);
  node.serial = ++serial_;
  node.parent = parent.serial;
  node.tag = tag;
  std::copy(tokens.begin(), tokens.end(), node.tokens);
  std::fill(std::begin(node.page), std::end(node.page), kNone);
  node.n_pages = 0;
  node.pending = 0;
  int32_t& bucket = buckets_[bucket_of(node.key)];
  node.next = bucket;
  bucket = n;
  ++size_;
  return n;
}

void PrefixIndex::remove(int32_t n) {
  int32_t* link = &buckets_[bucket_of(nodes_[n].key)];
  while (*link != n) {
    PARE_CHECK(*link != kNone);
    link = &nodes_[*link].next;
  }
  *link = nodes_[n].next;
  nodes_[n].next = free_;
  free_ = n;
  --size_;
}

void PrefixIndex::set_pending_page(int32_t n, int cls, int32_t page) {
  Node& node = nodes_[n];
  PARE_CHECK(node.page[cls] == kNone && page != kNone);
  node.page[cls] = page;
  node.pending |= 1u << cls;
  ++node.n_pages;
}

void PrefixIndex::drop_page(int32_t n, int cls) {
  Node& node = nodes_[n];
  PARE_CHECK(node.page[cls] != kNone);
  node.page[cls] = kNone;
  node.pending &= ~(1u << cls);
  if (--node.n_pages == 0) remove(n);
}

}  // namespace pare
