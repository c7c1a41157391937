// Capability records (contracts.md §7): what a selector, a KV policy or an engine feature needs of the stored
// rows, what it breaks for whoever comes after it, and what it owns. Every legality check, the documentation
// matrix and the generated pair tests derive from these records; nothing else says which combinations are
// allowed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "pare/status.h"

namespace pare {

// Facts about the rows that a reader finds in the store. Bits of Caps::needs, breaks and breaks_sealed.
enum Fact : uint32_t {
  kFactPosOrder = 1u << 0,      // rows lie in position order
  kFactPlain = 1u << 1,         // rows are unquantized
  kFactFullWidth = 1u << 2,     // every channel of every head is there
  kFactAllRows = 1u << 3,       // no row has been dropped
  kFactOnDevice = 1u << 4,      // rows are in the memory that the kernels run beside
  kFactRowSeparable = 1u << 5,  // a row can be read or moved without its neighbours
  kFactReRopable = 1u << 6,     // K can be rotated to another position
  kFactChunkFree = 1u << 7,     // results do not depend on where prefill chunks are cut
  kFactPrefixPure = 1u << 8,    // a row depends on the tokens before it alone, not on what follows
};
inline constexpr int kFactCount = 9;

// What at most one stage may own in a layer and a phase. Bits of Caps::owns.
enum Own : uint32_t {
  kOwnPredicate = 1u << 0,  // which keys a row attends
  kOwnMidRows = 1u << 1,    // which rows leave the full zone for another
  kOwnPlacement = 1u << 2,  // the tier a row lives in
  kOwnHeadOrder = 1u << 3,
  kOwnCodec = 1u << 4,
};
inline constexpr int kOwnCount = 5;

enum class Phase : uint8_t { kPrefill = 1, kDecode = 2, kBoth = 3 };
enum class Scope : uint8_t { kLayer, kKvHead, kQHead };

// How much of what follows a prompt row decides its value, hence what may be shared between prompts:
// kRow nothing; kTail the last horizon_arg rows know the prompt's length; kEpoch whole chunks of horizon_arg
// rows; kWhole everything (nothing is shared).
enum class Horizon : uint8_t { kRow, kTail, kEpoch, kWhole };

struct Caps {
  std::string_view name;
  Phase phase = Phase::kBoth;
  Scope scope = Scope::kLayer;
  uint32_t needs = 0;          // facts that must hold when it runs
  uint32_t breaks = 0;         // facts that no longer hold after it, in its phase
  uint32_t breaks_sealed = 0;  // facts that additionally no longer hold once the prompt has ended
  uint32_t owns = 0;
  Horizon horizon = Horizon::kRow;
  int32_t horizon_arg = 0;
  int32_t chunk_grid = 1;             // prefill chunks end at multiples of this, or with the prompt
  int32_t rollback_rows = INT32_MAX;  // rows that truncate() can always take back
  int32_t verify_rows = 16;           // draft rows one decode step may check
  int32_t min_tokens = 0;             // shorter prompts run as if neutral
  bool dense_prompts = false;         // selectors that keep every row: a prompt may be read densely instead
  uint16_t tile_rows_mask = 0xffff;   // bit n: query tiles of 2^n rows are possible
  bool graph_safe = true;             // no count leaves the device during a step
  bool batch_invariant = true;        // a row's bits do not depend on its batch mates
};

// "PosOrder|AllRows"; "nothing" for 0.
std::string fact_names(uint32_t facts);
std::string own_names(uint32_t owns);

// Engine features that read stored rows: "chunked_prefill", "fork", "prefix_sharing", "preemption",
// "second_turn", "position_shift".
std::span<const Caps> feature_caps();
const Caps* find_feature(std::string_view name);  // null if unknown

// Ok iff `b` may run after `a`: needs(b) & breaks(a) == 0 in b's phase and they own nothing in common in a
// phase that both act in. `sealed`: b runs after the prompt has ended. The message names both and the fact.
Status check_order(const Caps& a, const Caps& b, bool sealed);

// A whole configuration: every selector term (they own disjoint layers, so they are not compared with each
// other), then the KV stages in pipeline order, then the features asked for. The first illegal pair is the
// error.
Status check_legal(std::span<const Caps* const> selectors, std::span<const Caps* const> kv_stages,
                   std::span<const Caps* const> features);

}  // namespace pare
