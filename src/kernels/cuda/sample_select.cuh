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
inline constexpr int kHeldByThread = 2;
inline constexpr int kListMax = kHeldByThread * kThreads;  // candidates that one block can look at
inline constexpr int kRankedMax = 64;                      // candidates that are compared with each other
inline constexpr int kNats = 8;                            // distances that a survey tells apart

struct Entry {
  Place place;
  Mass mass;
};

struct Space {
  // Limbs are read by the block that adds up a bin for the team, which then puts the sum of its bins so far in their
  // place; those are read until the barrier in gather(), and after it the memory is `pulled`.
  union {
    unsigned limbs[kLimbs][kBins];
    Place pulled[kListMax];
    Entry ranked[kRankedMax];
  };
  Place list[kListMax];  // by likelihood; read by the team after the barrier in gather()
  Mass totals[kMaxTeam];
  unsigned counts[kMaxTeam];
  unsigned nats[kNats], nats_of[kMaxTeam][kNats];
  Mass warp_sums[kWarps];
  ReduceSpace reduce;
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

// Sum over the threads of this block up to and including this one.
__device__ __forceinline__ Mass inclusive_sum(Space& space, Mass x) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int step = 1; step < 32; step *= 2) {
    const Mass below = __shfl_up_sync(kFullWarp, x, step);
    if (lane >= step) x += below;
  }
  if (lane == 31) space.warp_sums[warp] = x;
  __syncthreads();
  for (int w = 0; w < warp; ++w) x += space.warp_sums[w];
  return x;
}

// each(add) calls add(bin, mass) for the candidates of this thread; bins ascend with the order. Finds the bin in which
// the sum of masses reaches wanted(sum of all masses), and leaves in *rest how much of it is wanted. Returns kBins if
// wanted() is 0 or more than there is.
template <typename Each, typename Wanted>
__device__ unsigned find_bin(const Team& team, Space& space, Each each, Wanted wanted, Mass* rest) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
#pragma unroll
    for (int limb = 0; limb < kLimbs; ++limb) space.limbs[limb][i] = 0;
  }
  __syncthreads();
  each([&](unsigned bin, Mass mass) { add_mass(space, bin, mass); });
  team.sync();

  // This block adds up a slice of the bins, from all blocks.
  constexpr int kMaxBins = kBins / kThreads;  // of a thread
  const int slice = kBins / team.size, per_thread = max(1, slice / kThreads);
  const int first = threadIdx.x * per_thread;  // in the slice
  Mass sums[kMaxBins] = {}, all = 0;
#pragma unroll
  for (int i = 0; i < kMaxBins; ++i) {
    if (i >= per_thread || first >= slice) continue;
    const int bin = team.rank * slice + first + i;
    for (unsigned block = 0; block < team.size; ++block) {
#pragma unroll
      for (int limb = 0; limb < kLimbs; ++limb) {
        sums[i] += Mass{*team.at(&space.limbs[limb][bin], block)} << (limb * kLimbBits);
      }
    }
    all += sums[i];
  }
  const Mass up_to_here = inclusive_sum(space, all);
  Mass sum = up_to_here - all;
#pragma unroll
  for (int i = 0; i < kMaxBins; ++i) {
    if (i >= per_thread || first >= slice) continue;
    const int bin = team.rank * slice + first + i;
    sum += sums[i];
    space.limbs[0][bin] = static_cast<unsigned>(sum);
    space.limbs[1][bin] = static_cast<unsigned>(sum >> 32);
  }
  if (threadIdx.x == kThreads - 1) space.below = up_to_here;
  __syncthreads();
  if (threadIdx.x < team.size) *team.at(&space.totals[team.rank], threadIdx.x) = space.below;
  team.sync();

  Mass total = 0;
  for (unsigned block = 0; block < team.size; ++block) total += space.totals[block];
  const Mass target = wanted(total);
  if (target == 0 || target > total) return kBins;
  Mass below = 0;
  unsigned owner = 0;
  while (below + space.totals[owner] < target) below += space.totals[owner++];
  const auto sum_at = [&](int bin) {
    return Mass{*team.at(&space.limbs[1][bin], owner)} << 32 | *team.at(&space.limbs[0][bin], owner);
  };
#pragma unroll
  for (int i = 0; i < kMaxBins; ++i) {
    if (i >= per_thread || first >= slice) continue;
    const int bin = owner * slice + first + i;
    const Mass before = below + (first + i > 0 ? sum_at(bin - 1) : 0);
    if (before < target && target <= below + sum_at(bin)) {
      space.bin = bin;
      space.below = before;
    }
  }
  __syncthreads();
  *rest = target - space.below;
  return space.bin;
}

// --- lists of candidates ---

// each(put) calls put(place) for those of this thread's candidates that are wanted, with their place by likelihood.
// Returns how many the team has; where they are kListMax at most, space.pulled has them all, in no order. A barrier of
// the team must lie between two calls.
template <typename Each>
__device__ int gather(const Team& team, Space& space, Each each) {
  if (threadIdx.x == 0) space.found = 0;
  __syncthreads();
  each([&](Place p) {
    const unsigned at = atomicAdd(&space.found, 1u);
    if (at < kListMax) space.list[at] = p;
  });
  __syncthreads();
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

__device__ __forceinline__ Place larger(Place a, Place b) { return a > b ? a : b; }
__device__ __forceinline__ Place smaller(Place a, Place b) { return a < b ? a : b; }

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
__device__ Stretch find_stretch(const Team& team, Space& space, Each each) {
  Stretch s{0, ~Place{0}};
  each([&](Place p) {
    s.first = larger(s.first, p);
    s.last = smaller(s.last, p);
  });
  s.first = team_reduce(team, space.reduce, s.first, larger);
  s.last = team_reduce(team, space.reduce, s.last, smaller);
  return s;
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

// A few candidates, the same ones in each block: a block works on them alone.
struct Held {
  float value[kHeldByThread];
  int id[kHeldByThread];  // -1: none

  template <typename Body>
  __device__ __forceinline__ void for_each(Body body) const {
#pragma unroll
    for (int i = 0; i < kHeldByThread; ++i) {
      if (id[i] >= 0) body(value[i], id[i]);
    }
  }
  template <typename Keep>
  __device__ __forceinline__ void drop_unless(Keep keep) {
#pragma unroll
    for (int i = 0; i < kHeldByThread; ++i) {
      if (id[i] >= 0 && !keep(value[i], id[i])) id[i] = -1;
    }
  }
};

// The first n of space.pulled.
__device__ __forceinline__ Held hold_pulled(const Space& space, int n) {
  Held held;
#pragma unroll
  for (int i = 0; i < kHeldByThread; ++i) {
    const int at = threadIdx.x + i * kThreads;
    held.value[i] = at < n ? value_of(space.pulled[at]) : 0.0f;
    held.id[i] = at < n ? id_of(space.pulled[at]) : -1;
  }
  __syncthreads();
  return held;
}

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

// Orders: place() of a candidate, and a bin for a first look that does not descend along the order.
struct ByLikelihood {
  float best;
  __device__ __forceinline__ Place place(float x, int id) const { return place_of(x, id); }
  __device__ __forceinline__ unsigned bin(float x) const {
    return x >= best ? 0 : static_cast<unsigned>(fminf((best - x) * 64.0f, kBins - 1));
  }
};

// --- selection ---

// In `order`, the place at which the sum of masses of what is held, as far as `floor` admits it, reaches `wanted`: at
// least 1 and at most what there is.
template <typename Order>
__device__ Place find_place(Space& space, const Held& held, const Order& order, const Weighing& weighing,
                            const Floor& floor, Mass wanted) {
  const Team alone;
  Entry mine[kHeldByThread];
  bool in[kHeldByThread];
  int n = 0;
#pragma unroll
  for (int i = 0; i < kHeldByThread; ++i) {
    in[i] = held.id[i] >= 0 && floor.admits(held.value[i], held.id[i]);
    mine[i] = {order.place(held.value[i], held.id[i]), weighing(held.value[i])};
    n += __syncthreads_count(in[i]);
  }
  while (n > kRankedMax) {
    const Stretch s = find_stretch(alone, space, [&](auto put) {
#pragma unroll
      for (int i = 0; i < kHeldByThread; ++i) {
        if (in[i]) put(mine[i].place);
      }
    });
    const unsigned bin = find_bin(
        alone, space,
        [&](auto add) {
#pragma unroll
          for (int i = 0; i < kHeldByThread; ++i) {
            if (in[i]) add(s.bin(mine[i].place), mine[i].mass);
          }
        },
        [&](Mass) { return wanted; }, &wanted);
    n = 0;
#pragma unroll
    for (int i = 0; i < kHeldByThread; ++i) {
      in[i] = in[i] && s.bin(mine[i].place) == bin;
      n += __syncthreads_count(in[i]);
    }
  }
  if (threadIdx.x == 0) space.found = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kHeldByThread; ++i) {
    if (in[i]) space.ranked[atomicAdd(&space.found, 1u)] = mine[i];
  }
  __syncthreads();
  if (threadIdx.x < n) {
    const Entry own = space.ranked[threadIdx.x];
    Mass sum = 0;
    for (int i = 0; i < n; ++i) {
      if (space.ranked[i].place >= own.place) sum += space.ranked[i].mass;
    }
    if (sum >= wanted && sum - own.mass < wanted) space.chosen = own.place;
  }
  __syncthreads();
  return space.chosen;
}

// In `order`, among the candidates that `floor` admits, the place at which the sum of masses reaches wanted(sum of
// all); 0 if that is 0 or more than there is.
template <typename Order, typename Wanted>
__device__ Place select(const Team&, Space& space, const Held& held, const Order& order, const Weighing& weighing,
                        const Floor& floor, Wanted wanted) {
  Mass sum = 0;
  held.for_each([&](float x, int id) {
    if (floor.admits(x, id)) sum += weighing(x);
  });
  const Mass total = team_reduce(Team{}, space.reduce, sum, [](Mass a, Mass b) { return a + b; });
  const Mass target = wanted(total);
  if (target == 0 || target > total) return 0;
  return find_place(space, held, order, weighing, floor, target);
}

template <bool kShared, typename Order, typename Wanted>
__device__ Place select(const Team& team, Space& space, const Chunk<kShared>& chunk, const Order& order,
                        const Weighing& weighing, const Floor& floor, Wanted wanted) {
  Mass rest = 0;
  const unsigned bin = find_bin(
      team, space,
      [&](auto add) {
        chunk.for_each([&](float x, int id) {
          if (floor.admits(x, id)) add(order.bin(x), weighing(x));
        });
      },
      wanted, &rest);
  if (bin == kBins) return 0;
  const auto in_bin = [&](auto body) {
    chunk.for_each([&](float x, int id) {
      if (floor.admits(x, id) && order.bin(x) == bin) body(x, id);
    });
  };
  int n = gather(team, space, [&](auto put) { in_bin([&](float x, int id) { put(place_of(x, id)); }); });
  if (n > kListMax) {
    // Many alike. A bin is a stretch of the order, so from here on the place alone says who is in.
    Stretch stretch =
        find_stretch(team, space, [&](auto put) { in_bin([&](float x, int id) { put(order.place(x, id)); }); });
    while (n > kListMax) {
      const auto in_stretch = [&](auto body) {
        chunk.for_each([&](float x, int id) {
          if (!floor.admits(x, id)) return;
          const Place p = order.place(x, id);
          if (stretch.has(p)) body(p, x, id);
        });
      };
      const unsigned part = find_bin(
          team, space, [&](auto add) { in_stretch([&](Place p, float x, int) { add(stretch.bin(p), weighing(x)); }); },
          [&](Mass) { return rest; }, &rest);
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
  return find_place(space, hold_pulled(space, n), order, weighing, floor, rest);
}

// --- the head ---

// The most likely candidates, as many as a block can hold, and what lies beyond.
struct Head {
  Held held;
  int count = 0;      // of those held; 0: too many are alike
  bool tail = false;  // there are candidates beyond
  Mass tail_mass = 0;
  unsigned nats = 0;  // those held are less than this far from the best
};

__device__ __forceinline__ unsigned nats_from(float best, float x) {
  return x >= best ? 0 : static_cast<unsigned>(fminf(best - x, kNats - 1));
}

// Nearly every draw is decided by a few hundred candidates of a vocabulary. One pass over it counts them by their
// distance from the best and adds up all masses; another one picks the head.
template <bool kShared>
__device__ Head take_head(const Team& team, Space& space, const Chunk<kShared>& chunk, float best,
                          const Weighing& weighing) {
  constexpr int kFieldMax = 255;
  Head head;
  if (chunk.count > kFieldMax * kThreads) return head;  // a thread's counts have 8 bits
  if (threadIdx.x < kNats) space.nats[threadIdx.x] = 0;
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
  mass = team_reduce(team, space.reduce, mass, [](Mass a, Mass b) { return a + b; });

  int beyond = 0;
  for (unsigned nat = 0; nat < kNats; ++nat) {
    int more = 0;
    for (unsigned block = 0; block < team.size; ++block) more += space.nats_of[block][nat];
    if (beyond == 0 && head.count + more <= kListMax) {
      head.count += more;
      head.nats = nat + 1;
    } else {
      beyond += more;
    }
  }
  head.tail = beyond > 0;
  if (head.count == 0) return head;
  gather(team, space, [&](auto put) {
    chunk.for_each([&](float x, int id) {
      if (x > -INFINITY && nats_from(best, x) < head.nats) put(place_of(x, id));
    });
  });
  head.held = hold_pulled(space, head.count);
  if (head.tail) {
    Mass held_mass = 0;
    head.held.for_each([&](float x, int) { held_mass += weighing(x); });
    head.tail_mass = mass - team_reduce(Team{}, space.reduce, held_mass, [](Mass a, Mass b) { return a + b; });
  }
  return head;
}

}  // namespace pare::cuda::sampling
