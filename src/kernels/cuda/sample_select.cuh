// Finding a candidate by the mass of those before it, without sorting: top-k, top-p and the draw itself are all of this
// kind. Masses are integers, so that sums do not depend on the order in which threads add. For sample.cu only.
#pragma once

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

inline constexpr Place kFirstNumber = Place{1} << 32;                     // -infinity and above
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

  // An error of 2^-24, of either sign: the exponent is kept in two floats.
  __device__ Mass operator()(float x) const {
    if (counts) return 1;
    const float distance = x - best;
    if (distance == 0.0f) return Mass{1} << kMassBits;
    const float exponent = __fmul_rn(distance, high);  // not contracted: its error is taken below
    if (!(exponent > -1.0f - kMassBits)) return 0;
    // What x - best and its product lost.
    const float part = distance - x, lost = (x - (distance - part)) - (best + part);
    const float rest = fmaf(distance, high, -exponent) + fmaf(distance, low, lost * high);
    const float whole = rintf(exponent), f = (exponent - whole) + rest;
    float p = 1.52527338e-5f;  // 2^f = exp(f ln2), Taylor to f^7
    p = fmaf(p, f, 1.54035304e-4f);
    p = fmaf(p, f, 1.33335581e-3f);
    p = fmaf(p, f, 9.61812911e-3f);
    p = fmaf(p, f, 5.55041087e-2f);
    p = fmaf(p, f, 2.40226507e-1f);
    p = fmaf(p, f, 6.93147181e-1f);
    p = fmaf(p, f, 1.0f);
    const auto mantissa = static_cast<unsigned>(p * 0x1p24f);
    const int shift = kMassBits - 24 + static_cast<int>(whole);
    if (shift >= 0) return Mass{mantissa} << shift;
    return (mantissa + (1u << (-shift - 1))) >> -shift;
  }
};

// --- a histogram of the team ---

inline constexpr int kBins = 2048;
// A bin's mass is added up in parts of 14 bits with atomics of 32: 2^18 candidates of a block fit.
inline constexpr int kLimbs = 3, kLimbBits = 14;
inline constexpr int kMaxBlockCandidates = 1 << 18;
inline constexpr int kListMax = kThreads;  // candidates that are looked at one by one
inline constexpr int kRankedMax = 64;      // candidates that are compared with each other

struct Entry {
  Place place;
  Mass mass;
};

struct Space {
  // Limbs are read by the block that adds up a bin for the team, which then puts the sum of its bins so far in their
  // place; those are read until the barrier in gather(), and after it the memory is `pulled`.
  union {
    unsigned limbs[kLimbs][kBins];
    Entry pulled[kListMax];
  };
  Entry list[kListMax];  // read by the team after the barrier in gather()
  Mass totals[kMaxTeam];
  unsigned counts[kMaxTeam];
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
  for (int i = threadIdx.x; i < kLimbs * kBins; i += kThreads) space.limbs[0][i] = 0;
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

// each(put) calls put(entry) for those of this thread's candidates that are wanted. Returns how many the team has;
// where they are kListMax at most, space.pulled has them all, in no order. A barrier of the team must lie between two
// calls.
template <typename Each>
__device__ int gather(const Team& team, Space& space, Each each) {
  if (threadIdx.x == 0) space.found = 0;
  __syncthreads();
  each([&](const Entry& entry) {
    const unsigned at = atomicAdd(&space.found, 1u);
    if (at < kListMax) space.list[at] = entry;
  });
  __syncthreads();
  if (threadIdx.x < team.size) *team.at(&space.counts[team.rank], threadIdx.x) = space.found;
  team.sync();
  unsigned count = 0;
  for (unsigned block = 0; block < team.size; ++block) count += space.counts[block];
  if (count > kListMax) return static_cast<int>(count);
  if (threadIdx.x < count) {
    unsigned at = threadIdx.x, owner = 0;
    while (at >= space.counts[owner]) at -= space.counts[owner++];
    space.pulled[threadIdx.x] = *team.at(&space.list[at], owner);
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

// Every thread holds one entry or none, the same in each block of a team; the place at which the sum of masses reaches
// `wanted`, which is at least 1 and at most what there is.
__device__ inline Place find_place(Space& space, bool holds, const Entry& mine, Mass wanted) {
  const Team alone;
  int n = __syncthreads_count(holds);
  while (n > kRankedMax) {
    const Stretch s = find_stretch(alone, space, [&](auto put) {
      if (holds) put(mine.place);
    });
    const unsigned bin = find_bin(
        alone, space,
        [&](auto add) {
          if (holds) add(s.bin(mine.place), mine.mass);
        },
        [&](Mass) { return wanted; }, &wanted);
    holds = holds && s.bin(mine.place) == bin;
    n = __syncthreads_count(holds);
  }
  if (threadIdx.x == 0) space.found = 0;
  __syncthreads();
  if (holds) space.pulled[atomicAdd(&space.found, 1u)] = mine;
  __syncthreads();
  if (threadIdx.x < n) {
    const Entry own = space.pulled[threadIdx.x];
    Mass sum = 0;
    for (int i = 0; i < n; ++i) {
      if (space.pulled[i].place >= own.place) sum += space.pulled[i].mass;
    }
    if (sum >= wanted && sum - own.mass < wanted) space.chosen = own.place;
  }
  __syncthreads();
  return space.chosen;
}

// --- where candidates come from ---

// A block's part of the vocabulary.
struct Chunk {
  float* values;
  int first_id, count;

  template <typename Body>
  __device__ __forceinline__ void for_each(Body body) const {
    for (int i = threadIdx.x; i < count; i += kThreads) body(values[i], first_id + i);
  }
  template <typename Keep>
  __device__ __forceinline__ void drop_unless(Keep keep) const {
    for (int i = threadIdx.x; i < count; i += kThreads) {
      if (!keep(values[i], first_id + i)) values[i] = -INFINITY;
    }
    __syncthreads();
  }
};

// What a filter left of it, one candidate in a thread at most, the same in each block: a block works alone.
struct Held {
  float value;
  int id;

  template <typename Body>
  __device__ __forceinline__ void for_each(Body body) const {
    if (id >= 0) body(value, id);
  }
  template <typename Keep>
  __device__ __forceinline__ void drop_unless(Keep keep) {
    if (id >= 0 && !keep(value, id)) id = -1;
  }
};

// Orders: place() of a candidate, and a bin for a first look that does not descend along the order.
struct ByLikelihood {
  float best;
  __device__ Place place(float x, int id) const { return place_of(x, id); }
  __device__ unsigned bin(float x) const {
    return x >= best ? 0 : static_cast<unsigned>(fminf((best - x) * 64.0f, kBins - 1));
  }
};

// In `order`, among the candidates of likelihood `from` and above, the place at which the sum of masses reaches
// wanted(sum of all); 0 if that is 0 or more than there is.
template <typename Order, typename Wanted>
__device__ Place select(const Team& team, Space& space, const Chunk& chunk, const Order& order,
                        const Weighing& weighing, Place from, Wanted wanted) {
  Mass rest = 0;
  const unsigned bin = find_bin(
      team, space,
      [&](auto add) {
        chunk.for_each([&](float x, int id) {
          if (place_of(x, id) >= from) add(order.bin(x), weighing(x));
        });
      },
      wanted, &rest);
  if (bin == kBins) return 0;
  const auto in_bin = [&](auto body) {
    chunk.for_each([&](float x, int id) {
      if (place_of(x, id) >= from && order.bin(x) == bin) body(x, id);
    });
  };
  int n = gather(team, space, [&](auto put) {
    in_bin([&](float x, int id) { put(Entry{order.place(x, id), weighing(x)}); });
  });
  if (n > kListMax) {
    // Many alike. A bin is a stretch of the order, so from here on the place alone says who is in.
    Stretch stretch =
        find_stretch(team, space, [&](auto put) { in_bin([&](float x, int id) { put(order.place(x, id)); }); });
    while (n > kListMax) {
      const auto in_stretch = [&](auto body) {
        chunk.for_each([&](float x, int id) {
          if (place_of(x, id) >= from && stretch.has(order.place(x, id))) body(order.place(x, id), x);
        });
      };
      const unsigned part = find_bin(
          team, space, [&](auto add) { in_stretch([&](Place p, float x) { add(stretch.bin(p), weighing(x)); }); },
          [&](Mass) { return rest; }, &rest);
      n = gather(team, space, [&](auto put) {
        in_stretch([&](Place p, float x) {
          if (stretch.bin(p) == part) put(Entry{p, weighing(x)});
        });
      });
      if (n <= kListMax) break;
      stretch = find_stretch(team, space, [&](auto put) {
        in_stretch([&](Place p, float) {
          if (stretch.bin(p) == part) put(p);
        });
      });
    }
  }
  const bool holds = threadIdx.x < n;
  const Entry mine = holds ? space.pulled[threadIdx.x] : Entry{};
  return find_place(space, holds, mine, rest);
}

template <typename Order, typename Wanted>
__device__ Place select(const Team& team, Space& space, const Held& held, const Order& order, const Weighing& weighing,
                        Place from, Wanted wanted) {
  const bool holds = held.id >= 0 && place_of(held.value, held.id) >= from;
  const Entry mine = holds ? Entry{order.place(held.value, held.id), weighing(held.value)} : Entry{};
  const Mass total = team_reduce(team, space.reduce, mine.mass, [](Mass a, Mass b) { return a + b; });
  const Mass target = wanted(total);
  if (target == 0 || target > total) return 0;
  return find_place(space, holds, mine, target);
}

}  // namespace pare::cuda::sampling
