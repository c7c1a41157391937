// Finding a candidate by the mass of those before it, without sorting: top-k, top-p and the draw itself are all of this
// kind. Masses are integers, so that sums do not depend on the order in which threads add. For sample.cu only.
#pragma once

#include <climits>
#include <cstdint>

#include "kernels/cuda/sample_team.cuh"

namespace pare::cuda::sampling {

using Mass = unsigned long long;
// A candidate's place in an order, first is largest: the upper half is what it is ordered by, the lower half breaks
// ties for the lower id. No two are equal.
using Place = unsigned long long;

// Rises with x; 0 for NaN alone. Both zeros are one value, as in a comparison.
__device__ __forceinline__ unsigned key_of(float x) {
  if (isnan(x)) return 0;
  const unsigned bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of_key(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
__device__ __forceinline__ Place place(unsigned key, int id) { return Place{key} << 32 | ~static_cast<unsigned>(id); }
__device__ __forceinline__ Place place_of(float x, int id) { return place(key_of(x), id); }
__device__ __forceinline__ int id_of(Place p) { return static_cast<int>(~static_cast<unsigned>(p)); }
__device__ __forceinline__ float value_of(Place p) { return value_of_key(static_cast<unsigned>(p >> 32)); }

inline constexpr Place kFirstCandidate = (Place{0x007fffffu} + 1) << 32;  // above -infinity

// --- masses ---

inline constexpr int kMassBits = 41;  // the most likely candidate has mass 2^41: 2^20 of them fit into 61 bits

// exp((x - best) / temperature) in units of 2^-kMassBits, or 1 for everybody.
struct Weighing {
  float best = 0.0f, high = 0.0f, low = 0.0f;  // log2(e) / temperature = high + low
  bool counts = false;

  static __device__ Weighing count() { return {0.0f, 0.0f, 0.0f, true}; }
  static __device__ Weighing softmax(float best, float temperature) {
    const double factor = 1.4426950408889634 / static_cast<double>(temperature);
    const float high = static_cast<float>(factor);
    return {best, high, static_cast<float>(factor - high), false};
  }

  __device__ __forceinline__ Mass operator()(float x) const {
    if (counts) return 1;
    const float distance = x - best;
    if (distance == 0.0f) return Mass{1} << kMassBits;  // whatever the temperature
    const float exponent = fmaf(distance, high, distance * low);
    if (!(exponent > -1.0f - kMassBits)) return 0;
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return __float2ull_rn(power * static_cast<float>(Mass{1} << kMassBits));
  }
};

// --- a histogram of the team ---

inline constexpr int kBins = 2048;
// A bin's mass is added up in parts of 14 bits with atomics of 32: 2^18 candidates of a block fit.
inline constexpr int kLimbs = 3, kLimbBits = 14;
inline constexpr int kMaxBlockCandidates = 1 << 18;
inline constexpr int kListMax = kThreads;  // candidates that one block can put in order
inline constexpr int kNats = 8;            // distances from the best that a survey tells apart

struct Space {
  union {
    // Read by the block that adds up a bin for the team, which then puts the sum of its bins so far in their place;
    // those are read until the barrier in gather().
    unsigned limbs[kLimbs][kBins];
    Place pulled[kListMax];
    Place exchange[2][kListMax];  // of a sort
    Mass masses[kListMax];
  };
  Place
      list[kListMax];  // by likelihood; read by the team after the barrier in gather(), written before one in take_head
  Mass totals[kMaxTeam];
  unsigned counts[kMaxTeam];
  unsigned nats[kNats], nats_of[kMaxTeam][kNats];
  Mass warp_sums[kWarps];
  ReduceSpace reduce;
  bool undecided;
  unsigned found, bin;
  Mass below;
  Place chosen;
};

__device__ __forceinline__ void add_mass(Space& space, unsigned bin, Mass mass) {
#pragma unroll
  for (int limb = 0; limb < kLimbs; ++limb) {
    const unsigned part = static_cast<unsigned>(mass >> (limb * kLimbBits)) & ((1u << kLimbBits) - 1);
    if (part != 0) atomicAdd(&space.limbs[limb][bin], part);
  }
}

// Sum of x over the first `lanes` lanes of the warp.
__device__ __forceinline__ Mass sum_lanes_below(Mass x, int lanes) {
  if (threadIdx.x % 32 >= lanes) x = 0;
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

// Sum over the threads of this block up to and including this one.
__device__ __forceinline__ Mass inclusive_sum(Space& space, Mass x) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int step = 1; step < 32; step *= 2) {
    const Mass below = __shfl_up_sync(kFullWarp, x, step);
    if (lane >= step) x += below;
  }
  if (lane == 31) space.warp_sums[warp] = x;
  __syncthreads();
  return x + sum_lanes_below(space.warp_sums[lane], warp);
}

// How much mass must come before the place that a selection looks for.
struct Wanted {
  enum Kind { kMass, kTopK, kShare, kDraw } kind;
  Mass amount;  // kMass: this much; kTopK: the k; kDraw: 24 random bits
  float share;  // kShare: of all mass
  Mass all;     // kShare, kDraw: mass of all where others than those that are looked at have some; else 0

  // 0: nobody.
  __device__ Mass of(Mass total) const {
    const Mass whole = all != 0 ? all : total;
    switch (kind) {
      case kMass: break;
      case kTopK: return amount < total ? amount : 0;
      case kShare: {  // the first sum that is not below it
        const double wanted = ceil(static_cast<double>(share) * static_cast<double>(whole));
        return min(max(static_cast<Mass>(wanted), Mass{1}), whole);
      }
      case kDraw: return (__umul64hi(amount, whole) << 40 | amount * whole >> 24) + 1;  // above bits / 2^24 of it
    }
    return amount;
  }
};

// The second half of find_bin.
__device__ __noinline__ unsigned close_bins(Team team, Space& space, Wanted wanted, Mass* rest) {
  // This block adds up a slice of the bins, from all blocks.
  const int slice = kBins / team.size, per_thread = max(1, slice / kThreads);
  const int first = threadIdx.x * per_thread;  // in the slice
  const int last = first < slice ? first + per_thread : first;
  const auto sum_of = [&](int bin) {
    Mass sum = 0;
    for (unsigned block = 0; block < team.size; ++block) {
#pragma unroll
      for (int limb = 0; limb < kLimbs; ++limb) {
        sum += Mass{*team.at(&space.limbs[limb][bin], block)} << (limb * kLimbBits);
      }
    }
    return sum;
  };
  Mass all = 0;
#pragma unroll 1
  for (int bin = first; bin < last; ++bin) all += sum_of(team.rank * slice + bin);
  const Mass up_to_here = inclusive_sum(space, all);
  Mass sum = up_to_here - all;
#pragma unroll 1
  for (int bin = team.rank * slice + first; bin < static_cast<int>(team.rank) * slice + last; ++bin) {
    sum += per_thread == 1 ? all : sum_of(bin);
    space.limbs[0][bin] = static_cast<unsigned>(sum);
    space.limbs[1][bin] = static_cast<unsigned>(sum >> 32);
  }
  if (threadIdx.x == kThreads - 1) space.below = up_to_here;
  __syncthreads();
  if (threadIdx.x < team.size) *team.at(&space.totals[team.rank], threadIdx.x) = space.below;
  team.sync();

  Mass total = 0;
#pragma unroll 1
  for (unsigned block = 0; block < team.size; ++block) total += space.totals[block];
  const Mass target = wanted.of(total);
  if (target == 0 || target > total) return kBins;
  Mass below = 0;
  unsigned owner = 0;
  while (below + space.totals[owner] < target) below += space.totals[owner++];
  const auto sum_at = [&](int bin) {
    return Mass{*team.at(&space.limbs[1][bin], owner)} << 32 | *team.at(&space.limbs[0][bin], owner);
  };
#pragma unroll 1
  for (int bin = first; bin < last; ++bin) {
    const Mass before = below + (bin > 0 ? sum_at(owner * slice + bin - 1) : 0);
    if (before < target && target <= below + sum_at(owner * slice + bin)) {
      space.bin = owner * slice + bin;
      space.below = before;
    }
  }
  __syncthreads();
  *rest = target - space.below;
  return space.bin;
}

// each(add) calls add(bin, mass) for the candidates of this thread; bins ascend with the order. Finds the bin in which
// the sum of masses reaches what is wanted, and leaves in *rest how much of it is wanted. Returns kBins if that is
// nothing or more than there is.
template <typename Each>
__device__ __forceinline__ unsigned find_bin(const Team& team, Space& space, Each each, const Wanted& wanted,
                                             Mass* rest) {
  for (int i = threadIdx.x; i < kLimbs * kBins; i += kThreads) space.limbs[0][i] = 0;
  __syncthreads();
  each([&](unsigned bin, Mass mass) { add_mass(space, bin, mass); });
  team.sync();
  return close_bins(team, space, wanted, rest);
}

// --- lists of candidates ---

// The second half of gather.
__device__ __noinline__ int pull_lists(Team team, Space& space) {
  if (threadIdx.x < team.size) *team.at(&space.counts[team.rank], threadIdx.x) = space.found;
  team.sync();
  unsigned count = 0;
  for (unsigned block = 0; block < team.size; ++block) count += space.counts[block];
  if (count > kListMax) return static_cast<int>(count);
  for (unsigned i = threadIdx.x; i < count; i += kThreads) {
    unsigned at = i, owner = 0;
    while (at >= space.counts[owner]) at -= space.counts[owner++];
    space.pulled[i] = *team.at(&space.list[at], owner);
  }
  __syncthreads();
  return static_cast<int>(count);
}

// each(put) calls put(place) for those of this thread's candidates that are wanted, with their place by likelihood.
// Returns how many the team has; where they are kListMax at most, space.pulled has them all, in no order. A barrier of
// the team must lie between two calls.
template <typename Each>
__device__ __forceinline__ int gather(const Team& team, Space& space, Each each) {
  if (threadIdx.x == 0) space.found = 0;
  __syncthreads();
  each([&](Place p) {
    const unsigned at = atomicAdd(&space.found, 1u);
    if (at < kListMax) space.list[at] = p;
  });
  __syncthreads();
  return pull_lists(team, space);
}

// A stretch of an order, cut into bins of equal size.
struct Stretch {
  Place first, last;  // first >= last
  __device__ int shift() const { return max(0, 64 - __clzll(static_cast<long long>(first - last)) - 11); }
  __device__ bool has(Place p) const { return p <= first && p >= last; }
  __device__ unsigned bin(Place p) const { return static_cast<unsigned>((first - p) >> shift()); }
};
static_assert(kBins == 1 << 11);

// each(put) calls put(place) for the candidates of this thread: the stretch that all of the team's lie in.
template <typename Each>
__device__ __forceinline__ Stretch find_stretch(const Team& team, Space& space, Each each) {
  Stretch s{0, ~Place{0}};
  each([&](Place p) {
    s.first = max(s.first, p);
    s.last = min(s.last, p);
  });
  s.first = team_reduce<Larger>(team, space.reduce, s.first);
  s.last = team_reduce<Smaller>(team, space.reduce, s.last);
  return s;
}

// --- one block's list, a candidate in each thread ---

// Sorts, largest first. Every thread of the first n has a place, the others 0.
__device__ __noinline__ Place sort_places(Space& space, Place x, int n) {
  const int i = threadIdx.x;
  int turn = 0;
  for (int size = 2; size < 2 * n; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      Place other;
      if (stride < 32) {
        other = __shfl_xor_sync(kFullWarp, x, stride);
      } else {
        // Two in turn: a barrier lies between the last read of one and its next write.
        space.exchange[turn][i] = x;
        __syncthreads();
        other = space.exchange[turn][i ^ stride];
        turn = 1 - turn;
      }
      const bool first = ((i & stride) == 0) == ((i & size) == 0);
      x = first == (x > other) ? x : other;
    }
  }
  __syncthreads();
  return x;
}

// The first thread at which the sum of masses of the threads up to it reaches what is wanted; -1 if that is nothing or
// more than there is.
__device__ __noinline__ int find_sum(Space& space, Mass mass, Wanted wanted) {
  const Mass sum = inclusive_sum(space, mass);
  if (threadIdx.x == kThreads - 1) space.below = sum;
  __syncthreads();
  const Mass total = space.below, target = wanted.of(total);
  if (target == 0 || target > total) return -1;
  if (sum >= target && sum - mass < target) space.found = threadIdx.x;
  __syncthreads();
  return static_cast<int>(space.found);
}

// What thread `owner` has.
__device__ __forceinline__ Place tell_all(Space& space, Place mine, int owner) {
  if (threadIdx.x == owner) space.chosen = mine;
  __syncthreads();
  const Place told = space.chosen;
  __syncthreads();
  return told;
}

// --- where candidates come from ---

extern __shared__ float4 shared_values[];

// A block's part of the vocabulary, in shared memory or, where that is too small, in the caller's workspace.
template <bool kShared>
struct Chunk {
  float* workspace;
  int first_id, count;

  __device__ __forceinline__ float* values() const {
    if constexpr (kShared) {
      return reinterpret_cast<float*>(shared_values);
    } else {
      return workspace;
    }
  }
  template <typename Body>
  __device__ __forceinline__ void for_each(Body body) const {
    constexpr int kBatch = 4;  // loaded before the first is looked at: bodies have long chains of dependent steps
    const float* from = values();
    for (int first = threadIdx.x; first < count; first += kBatch * kThreads) {
      float x[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int i = first + j * kThreads;
        x[j] = i < count ? from[i] : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int i = first + j * kThreads;
        if (i < count) body(x[j], first_id + i);
      }
    }
  }
  template <typename Keep>
  __device__ __forceinline__ void drop_unless(Keep keep) const {
    for (int i = threadIdx.x; i < count; i += kThreads) {
      if (!keep(values()[i], first_id + i)) values()[i] = -INFINITY;
    }
    __syncthreads();
  }
};

// place_of(x, id) >= from, for candidates above -infinity.
struct Floor {
  float value;
  int id;  // the highest id that is in at `value`
  static __device__ Floor of(Place from) {
    // Where no id is in at a value, all are at the next.
    return {value_of(from), static_cast<unsigned>(from) == 0 ? INT_MAX : id_of(from)};
  }
  __device__ __forceinline__ bool admits(float x, int at) const { return x > value || (x == value && at <= id); }
};

// What candidates are ordered by.
struct Order {
  float best;
  // By likelihood, or by typicality (arXiv 2202.00666 §4): those first whose surprise lies nearest the entropy, which
  // is `expected` nats below the best.
  bool typical = false;
  double expected = 0.0;

  __device__ float shift(float x) const { return static_cast<float>(fabs(expected - (static_cast<double>(best) - x))); }
  __device__ Place place(float x, int id) const {
    return typical ? sampling::place(~__float_as_uint(shift(x)), id) : place_of(x, id);
  }
  // For a first look that does not descend along the order.
  __device__ unsigned bin(float x) const {
    const float distance = typical ? shift(x) : x >= best ? 0.0f : best - x;
    return static_cast<unsigned>(fminf(distance * 64.0f, kBins - 1));
  }
};

// --- selection in the whole vocabulary ---

// Which candidates a selection looks at, and how.
struct Selection {
  Order order;
  Weighing weighing;
  Floor floor;
  Wanted wanted;
};

// Thread i gets the rank by likelihood, of the n sorted places in threads, of the i-th most typical one; -1 beyond n.
__device__ __forceinline__ int rank_by_typicality(Space& space, Place mine, int n, const Order& order) {
  const int i = threadIdx.x;
  const Place p = i < n ? place(~__float_as_uint(order.shift(value_of(mine))), i) : 0;
  return id_of(sort_places(space, p, n));
}

// The place by likelihood at which, in s.order, the sum of masses of the first n of space.pulled reaches `wanted`.
__device__ __noinline__ Place find_in_list(Space& space, int n, const Selection& s, Mass wanted) {
  Place mine = threadIdx.x < n ? space.pulled[threadIdx.x] : 0;
  __syncthreads();
  mine = sort_places(space, mine, n);
  Mass mass = threadIdx.x < n ? s.weighing(value_of(mine)) : 0;
  int rank = threadIdx.x;
  if (s.order.typical) {
    rank = rank_by_typicality(space, mine, n, s.order);
    space.masses[threadIdx.x] = mass;
    __syncthreads();
    mass = rank >= 0 ? space.masses[rank] : 0;
  }
  const int at = find_sum(space, mass, Wanted{Wanted::kMass, wanted});
  return tell_all(space, mine, static_cast<int>(tell_all(space, static_cast<Place>(rank), at)));
}

// The place by likelihood at which, in s.order, the sum of masses reaches what is wanted; 0 if that is nothing or more
// than there is.
template <bool kShared>
__device__ __noinline__ Place select(const Team& team, Space& space, const Chunk<kShared>& chunk, const Selection& s) {
  Mass rest = 0;
  const unsigned bin = find_bin(
      team, space,
      [&](auto add) {
        chunk.for_each([&](float x, int id) {
          if (s.floor.admits(x, id)) add(s.order.bin(x), s.weighing(x));
        });
      },
      s.wanted, &rest);
  if (bin == kBins) return 0;
  const auto in_bin = [&](auto body) {
    chunk.for_each([&](float x, int id) {
      if (s.floor.admits(x, id) && s.order.bin(x) == bin) body(x, id);
    });
  };
  int n = gather(team, space, [&](auto put) { in_bin([&](float x, int id) { put(place_of(x, id)); }); });
  if (n > kListMax) {
    // Many alike. A bin is a stretch of the order, so from here on the place alone says who is in.
    Stretch stretch =
        find_stretch(team, space, [&](auto put) { in_bin([&](float x, int id) { put(s.order.place(x, id)); }); });
    while (n > kListMax) {
      const auto in_stretch = [&](auto body) {
        chunk.for_each([&](float x, int id) {
          if (!s.floor.admits(x, id)) return;
          const Place p = s.order.place(x, id);
          if (stretch.has(p)) body(p, x, id);
        });
      };
      const unsigned part = find_bin(
          team, space,
          [&](auto add) { in_stretch([&](Place p, float x, int) { add(stretch.bin(p), s.weighing(x)); }); },
          Wanted{Wanted::kMass, rest}, &rest);
      n = gather(team, space, [&](auto put) {
        in_stretch([&](Place p, float x, int id) {
          if (stretch.bin(p) == part) put(place_of(x, id));
        });
      });
      if (n <= kListMax) break;
      stretch = find_stretch(team, space, [&](auto put) {
        in_stretch([&](Place p, float, int) {
          if (stretch.bin(p) == part) put(p);
        });
      });
    }
  }
  return find_in_list(space, n, s, rest);
}

// --- the head ---

// The most likely candidates, as many as a block can put in order, and what lies beyond.
struct Head {
  int count = 0;      // in the list of rank 0; 0: too many are alike
  bool tail = false;  // there are candidates beyond, which are `nats` or more from the best
  unsigned nats = 0;
  Mass all_mass = 0;  // with the tail's
};

__device__ __forceinline__ unsigned nats_from(float best, float x) {
  return x >= best ? 0 : static_cast<unsigned>(fminf(best - x, kNats - 1));
}

// Nearly every draw is decided by a few hundred candidates of a vocabulary. One pass over it counts them by their
// distance from the best and adds up all masses; another one sends the head to the block of rank 0, where its thread i
// gets the i-th most likely one in *mine.
template <bool kShared>
__device__ __noinline__ Head take_head(const Team& team, Space& space, const Chunk<kShared>& chunk, float best,
                                       const Weighing& weighing, Place* mine) {
  constexpr int kFieldMax = 255;
  if (threadIdx.x < kNats) space.nats[threadIdx.x] = 0;
  if (threadIdx.x == 0) space.found = 0;
  __syncthreads();
  Mass mass = 0;
  unsigned long long fields = 0;
  chunk.for_each([&](float x, int) {
    if (!(x > -INFINITY)) return;
    fields += 1ull << (8 * nats_from(best, x));
    mass += weighing(x);
  });
  // Sums over a warp have 16 bits.
  unsigned long long even = fields & 0x00ff00ff00ff00ffull, odd = fields >> 8 & 0x00ff00ff00ff00ffull;
  for (int step = 16; step > 0; step /= 2) {
    even += __shfl_xor_sync(kFullWarp, even, step);
    odd += __shfl_xor_sync(kFullWarp, odd, step);
  }
  const int lane = threadIdx.x % 32;
  if (lane < kNats) {
    atomicAdd(&space.nats[lane], static_cast<unsigned>((lane % 2 ? odd : even) >> (16 * (lane / 2))) & 0xffffu);
  }
  __syncthreads();
  if (threadIdx.x < team.size * kNats) {
    const unsigned to = threadIdx.x / kNats, nat = threadIdx.x % kNats;
    *team.at(&space.nats_of[team.rank][nat], to) = space.nats[nat];
  }
  mass = team_reduce<Add>(team, space.reduce, mass);

  Head head;
  unsigned before = 0;  // of the head, in blocks of lower rank
#pragma unroll 1
  for (unsigned nat = 0; nat < kNats; ++nat) {
    unsigned more = 0, more_before = 0;
    for (unsigned block = 0; block < team.size; ++block) {
      more += space.nats_of[block][nat];
      if (block + 1 == team.rank) more_before = more;
    }
    if (head.tail || head.count + more > kListMax) {
      head.tail |= more > 0;
    } else {
      head.count += more;
      head.nats = nat + 1;
      before += more_before;
    }
  }
  head.all_mass = mass;
  // A thread's counts have 8 bits.
  if (chunk.count > kFieldMax * kThreads) head.count = 0;
  if (head.count == 0) return head;
  chunk.for_each([&](float x, int id) {
    if (!(x > -INFINITY) || nats_from(best, x) >= head.nats) return;
    *team.at(&space.list[before + atomicAdd(&space.found, 1u)], 0) = place_of(x, id);
  });
  team.sync();
  if (team.rank != 0) return head;
  *mine = sort_places(space, threadIdx.x < head.count ? space.list[threadIdx.x] : 0, head.count);
  return head;
}

}  // namespace pare::cuda::sampling
