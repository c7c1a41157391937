// The prefix index: which full pages hold which token prefixes. A node stands for 64 tokens after a parent
// node and names at most one page per layer class; the chain of nodes from the root spells the prefix.
//
// Exact, not probabilistic: a lookup hashes, then compares tokens, tag and the parent's serial number, so
// that neither colliding hashes nor a parent that was dropped and came back can give one prompt another's
// rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/kv_layout.h"

namespace pare {

// A place in a chain: the node reached, by serial number, and the hash so far. Serial 0 is the root.
struct PrefixPoint {
  uint64_t serial = 0, key = 0;
};

class PrefixIndex {
 public:
  static constexpr int32_t kNone = -1;

  // Room for `nodes`; no allocation later.
  explicit PrefixIndex(int32_t nodes);

  static PrefixPoint root(uint64_t tag);

  // The node of `tokens` (kPageRows of them) after `parent`, or kNone.
  int32_t find(PrefixPoint parent, uint64_t tag, std::span<const int32_t> tokens) const;
  // A new node without pages; kNone when there is no room.
  int32_t insert(PrefixPoint parent, uint64_t tag, std::span<const int32_t> tokens);

  PrefixPoint point(int32_t node) const { return {nodes_[node].serial, nodes_[node].key}; }
  // The node's page in a class, or kNone. A page is pending until the step that fills it has run.
  int32_t page(int32_t node, int cls) const { return nodes_[node].page[cls]; }
  bool pending(int32_t node, int cls) const { return (nodes_[node].pending >> cls & 1) != 0; }
  void set_pending_page(int32_t node, int cls, int32_t page);
  void set_filled(int32_t node, int cls) { nodes_[node].pending &= ~(1u << cls); }
  // Removes the node with its last page.
  void drop_page(int32_t node, int cls);
  int32_t size() const { return size_; }

  static int64_t bytes(int64_t nodes);

 private:
  struct Node {
    uint64_t key = 0, serial = 0, parent = 0, tag = 0;
    int32_t tokens[kPageRows] = {};
    int32_t page[kMaxClasses] = {};
    int32_t n_pages = 0;
    uint32_t pending = 0;  // bit per class
    int32_t next = kNone;  // of the same bucket, or of the free list
  };
  void remove(int32_t node);
  int32_t bucket_of(uint64_t key) const { return static_cast<int32_t>(key & (buckets_.size() - 1)); }

  std::vector<Node> nodes_;
  std::vector<int32_t> buckets_;  // a power of two
  int32_t free_ = kNone;
  int32_t size_ = 0;
  uint64_t serial_ = 0;
};

}  // namespace pare
