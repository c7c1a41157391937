#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_select.cuh"

namespace pare::cuda {
namespace sampling {
namespace {

// --- logits ---

// Copies the block's part of a row into its own memory. Returns the first of its largest values, or 0 without any above
// -infinity.
template <bool kShared>
__device__ Place load_chunk(const float* row, int64_t vocab, const Chunk<kShared>& chunk) {
  float best = -INFINITY;
  int at = -1;
  const auto take = [&](float x, int i) {
    if (x > best) {  // a thread's ids ascend
      best = x;
      at = i;
    }
  };
  const float* from = row + chunk.first_id;
  float* to = chunk.values();
  if (vocab % 4 == 0) {
    constexpr int kBatch = 5, kStep = 4 * kThreads;  // all loads of 160,000 ids at once
    for (int first = 4 * threadIdx.x; first < chunk.count; first += kBatch * kStep) {
      float4 x[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int i = first + j * kStep;
        if (i < chunk.count) x[j] = *reinterpret_cast<const float4*>(from + i);
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int i = first + j * kStep;
        if (i >= chunk.count) break;
        *reinterpret_cast<float4*>(to + i) = x[j];
        take(x[j].x, i);
        take(x[j].y, i + 1);
        take(x[j].z, i + 2);
        take(x[j].w, i + 3);
      }
    }
  } else {
#pragma unroll 4
    for (int i = threadIdx.x; i < chunk.count; i += kThreads) {
      const float x = from[i];
      to[i] = x;
      take(x, i);
    }
  }
  __syncthreads();
  return at >= 0 ? place_of(best, chunk.first_id + at) : 0;
}

// The CPU's arithmetic, operation by operation: greedy ids are to be the same.
template <bool kShared>
__device__ void edit_chunk(const SampleRow& row, const Chunk<kShared>& chunk) {
  const auto has = [&](int id) { return id >= chunk.first_id && id < chunk.first_id + chunk.count; };
  for (int i = threadIdx.x; i < row.n_bias; i += kThreads) {
    const int id = row.bias[i].id;
    if (!has(id)) continue;
    // An id may stand there twice: the thread of its first entry adds them all.
    bool first = true;
    for (int j = 0; j < i; ++j) first &= row.bias[j].id != id;
    if (!first) continue;
    float& logit = chunk.values()[id - chunk.first_id];
    for (int j = i; j < row.n_bias; ++j) {
      if (row.bias[j].id == id) logit += row.bias[j].bias;
    }
  }
  __syncthreads();
  const auto penalize = [&](int id, int count) {
    if (!has(id)) return;
    float& logit = chunk.values()[id - chunk.first_id];
    float x = logit;
    x = x > 0.0f ? __fdiv_rn(x, row.repetition) : __fmul_rn(x, row.repetition);
    if (count > 0) x = __fsub_rn(x, __fadd_rn(__fmul_rn(static_cast<float>(count), row.frequency), row.presence));
    logit = x;
  };
  const int uncounted = row.uncounted ? *row.uncounted : -1;
  bool counted = false;
  for (int i = threadIdx.x; i < row.n_counts; i += kThreads) {
    const TokenCount c = row.counts[i];
    counted |= c.id == uncounted;
    penalize(c.id, c.count + (c.id == uncounted ? 1 : 0));
  }
  if (__syncthreads_or(counted) == 0 && threadIdx.x == 0) penalize(uncounted, 1);
  __syncthreads();
}

// The first of the most likely, 0 where every value is NaN.
template <bool kShared>
__device__ Place find_best(const Chunk<kShared>& chunk) {
  Place best = 0;
  chunk.for_each([&](float x, int id) { best = max(best, place_of(x, id)); });
  return best;
}

// --- log-probabilities ---

template <bool kShared>
__device__ float log_sum_exp(const Team& team, Space& space, const Chunk<kShared>& chunk, float largest) {
  if (isinf(largest)) return largest;
  float sum = 0.0f;
  chunk.for_each([&](float x, int) { sum += isnan(x) ? 0.0f : expf(x - largest); });
  return largest + logf(team_reduce<Add>(team, space.reduce, sum));
}

// The n most likely of a vocabulary whose head holds fewer: -infinity counts, too. Rank 0 gets them in order, in its
// threads.
template <bool kShared>
__device__ __noinline__ int find_top(const Team& team, Space& space, const Chunk<kShared>& chunk, float largest,
                                     int n_top, Place* mine) {
  int numbers = 0;
  chunk.for_each([&](float x, int) { numbers += !isnan(x); });
  const int n = min(n_top, team_reduce<Add>(team, space.reduce, numbers));
  if (n == 0) return 0;
  Selection first{Order{largest}, Weighing::count(), Floor{-INFINITY, INT_MAX}, Wanted{Wanted::kMass}};
  first.wanted.amount = n;
  const Place last = select(team, space, chunk, first);
  team.sync();
  gather(team, space, [&](auto put) {
    chunk.for_each([&](float x, int id) {
      if (place_of(x, id) >= last) put(place_of(x, id));
    });
  });
  *mine = threadIdx.x < n ? space.pulled[threadIdx.x] : 0;
  __syncthreads();
  *mine = sort_places(space, *mine, n);
  team.sync();  // others may still be reading this block's list
  return n;
}

// --- the draw ---

// The order by typicality: of candidates with masses e, at distances d from the best, the entropy is that of the best
// plus the mean distance.
template <typename Source>
__device__ Order order_by_typicality(const Team& team, Space& space, const Source& source, const Weighing& weighing,
                                     const Floor& floor) {
  double sum = 0.0, weighted = 0.0;
  source.for_each([&](float x, int id) {
    if (!floor.admits(x, id)) return;
    const double e = static_cast<double>(weighing(x));
    sum += e;
    weighted += e * (static_cast<double>(weighing.best) - x);
  });
  sum = team_reduce<Add>(team, space.reduce, sum);
  weighted = team_reduce<Add>(team, space.reduce, weighted);
  return {weighing.best, true, weighted / sum};
}

// base/rng.h: the first word of philox4x32 for the row's counter, as 24 bits.
__device__ unsigned random_bits(const SampleRow& row) {
  unsigned c[4] = {static_cast<unsigned>(row.position), static_cast<unsigned>(row.branch), 0, 0};
  unsigned key0 = static_cast<unsigned>(row.seed), key1 = static_cast<unsigned>(row.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const unsigned high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
    const unsigned high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
    c[0] = high1 ^ c[1] ^ key0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ key1;
    c[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c[0] >> 8;
}

constexpr int kUndecided = -2;

// That of the first filter that asks for masses.
__device__ Weighing first_softmax(const SampleRow& row, float best) {
  return Weighing::softmax(best, row.top_p < 1.0f ? 1.0f : row.temperature);
}

// The lowest logit that min-p keeps: at most the best one, because the logarithm is not positive.
__device__ float lowest_by_min_p(const SampleRow& row, float best) {
  return __double2float_ru(log(static_cast<double>(row.min_p)) + best);
}

// Draws with what rank 0 holds of the head, in the order of likelihood. kUndecided where that depends on the order
// within the tail.
__device__ __noinline__ int draw_from_head(Space& space, const SampleRow& row, const Head& head, Place mine,
                                           float best) {
  const int i = threadIdx.x;
  int n = head.count;
  bool tail = head.tail;
  if (row.top_k > 0) {
    if (row.top_k <= n) {
      n = row.top_k;
      tail = false;
    } else if (tail) {
      return kUndecided;
    }
  }
  if (row.typical_p < 1.0f) {
    if (tail) return kUndecided;
    const Weighing weighing = Weighing::softmax(best, 1.0f);
    const float x = value_of(mine);
    const double e = i < n ? static_cast<double>(weighing(x)) : 0.0;
    const double sum = block_reduce<Add>(space.reduce, e);
    const double weighted = block_reduce<Add>(space.reduce, i < n ? e * (static_cast<double>(best) - x) : 0.0);
    const int rank = rank_by_typicality(space, mine, n, Order{best, true, weighted / sum});
    space.masses[i] = i < n ? weighing(x) : 0;
    __syncthreads();
    const Mass mass = rank >= 0 ? space.masses[rank] : 0;
    __syncthreads();
    const int last = find_sum(space, mass, Wanted{Wanted::kShare, 0, row.typical_p});
    // Those kept stay in the order of likelihood.
    if (rank >= 0) space.masses[rank] = i <= last ? 1 : 0;
    __syncthreads();
    const bool kept = i < n && space.masses[i] != 0;
    __syncthreads();
    mine = sort_places(space, kept ? mine : 0, n);
    n = last + 1;
    best = value_of(tell_all(space, mine, 0));
  }
  if (row.top_p < 1.0f) {
    const Mass mass = i < n ? Weighing::softmax(best, 1.0f)(value_of(mine)) : 0;
    const int last = find_sum(space, mass, Wanted{Wanted::kShare, 0, row.top_p, tail ? head.all_mass : 0});
    if (last < 0) return kUndecided;
    n = last + 1;
    tail = false;
  }
  if (row.min_p > 0.0f) {
    const float lowest = lowest_by_min_p(row, best);
    if (nats_from(best, lowest) < head.nats) tail = false;
    n = __syncthreads_count(i < n && value_of(mine) >= lowest);
  }
  const Mass mass = i < n ? Weighing::softmax(best, row.temperature)(value_of(mine)) : 0;
  const int drawn = find_sum(space, mass, Wanted{Wanted::kDraw, random_bits(row), 0.0f, tail ? head.all_mass : 0});
  return drawn < 0 ? kUndecided : id_of(tell_all(space, mine, drawn));
}

// The same from the whole vocabulary, by all of the team.
template <bool kShared>
__device__ __noinline__ int draw_from_all(const Team& team, Space& space, const SampleRow& row,
                                          const Chunk<kShared>& chunk, float best) {
  Place from = kFirstCandidate;
  const auto cut = [&](const Order& order, const Weighing& weighing, const Wanted& wanted) {
    return select(team, space, chunk, Selection{order, weighing, Floor::of(from), wanted});
  };
  if (row.top_k > 0) {
    from = max(from, cut(Order{best}, Weighing::count(), Wanted{Wanted::kTopK, static_cast<Mass>(row.top_k)}));
  }
  if (row.typical_p < 1.0f) {
    const Floor floor = Floor::of(from);
    const Weighing weighing = Weighing::softmax(best, 1.0f);
    const Order order = order_by_typicality(team, space, chunk, weighing, floor);
    const Place drawn = cut(order, weighing, Wanted{Wanted::kShare, 0, row.typical_p});
    const Place last = order.place(value_of(drawn), id_of(drawn));
    chunk.drop_unless([&](float x, int id) { return floor.admits(x, id) && order.place(x, id) >= last; });
    // The most likely one may be gone.
    best = value_of(team_reduce<Larger>(team, space.reduce, find_best(chunk)));
  }
  if (row.top_p < 1.0f) {
    from = max(from, cut(Order{best}, Weighing::softmax(best, 1.0f), Wanted{Wanted::kShare, 0, row.top_p}));
  }
  if (row.min_p > 0.0f) from = max(from, Place{key_of(lowest_by_min_p(row, best))} << 32);
  return id_of(cut(Order{best}, Weighing::softmax(best, row.temperature), Wanted{Wanted::kDraw, random_bits(row)}));
}

template <bool kShared>
__global__ void __launch_bounds__(kThreads, 1) sample_kernel(SampleArgs args, int chunk_size) {
  __shared__ Space space;
  const Team team = cluster_team();
  if (threadIdx.x == 0) space.reduce.turn = 0;
  team.sync();  // all blocks of the team are there, and their memory with them
  wait_for_inputs();
  start_dependents();
  const int64_t r = blockIdx.x / team.size;
  const SampleRow& row = args.rows[r];
  const float* raw = args.logits + row.logits_row * args.vocab;
  const int first_id = min(static_cast<int>(team.rank) * chunk_size, static_cast<int>(args.vocab));
  const Chunk<kShared> chunk{static_cast<float*>(args.workspace) + blockIdx.x * int64_t{chunk_size}, first_id,
                             min(chunk_size, static_cast<int>(args.vocab) - first_id)};
  Place first = team_reduce<Larger>(team, space.reduce, load_chunk(raw, args.vocab, chunk));

  const int n_top = min(row.n_top, args.top_cap);
  const bool edited = row.n_bias > 0 || row.n_counts > 0 || row.uncounted;
  float best = first != 0 ? value_of(first) : -INFINITY, log_sum = 0.0f;
  Head head;
  Place mine = 0;
  const auto look_at_head = [&] {
    if (!isinf(best)) head = take_head(team, space, chunk, best, first_softmax(row, best), &mine);
  };
  if (n_top > 0 || (row.temperature != 0.0f && !edited)) look_at_head();
  if (row.wants_logprob || n_top > 0) log_sum = log_sum_exp(team, space, chunk, best);
  if (args.top_cap > 0) {
    Place top = mine;
    const int n = n_top > head.count ? find_top(team, space, chunk, best, n_top, &top) : n_top;
    const int i = threadIdx.x;
    if (team.rank == 0 && i < args.top_cap) {
      args.top[r * args.top_cap + i] = i < n ? TopLogprob{id_of(top), value_of(top) - log_sum} : TopLogprob{-1, 0.0f};
    }
  }

  if (edited) {
    edit_chunk(row, chunk);
    first = team_reduce<Larger>(team, space.reduce, find_best(chunk));
    best = value_of(first);
    head = Head{};
    if (first >= kFirstCandidate && row.temperature != 0.0f) look_at_head();
  }
  int id = first < kFirstCandidate ? -1 : id_of(first);
  // Beside an infinite logit all other mass is zero.
  if (id >= 0 && row.temperature != 0.0f && best != INFINITY) {
    if (team.rank == 0) {
      id = head.count > 0 ? draw_from_head(space, row, head, mine, best) : kUndecided;
      if (threadIdx.x < team.size) *team.at(&space.undecided, threadIdx.x) = id == kUndecided;
    }
    team.sync();
    if (space.undecided) {
      id = draw_from_all(team, space, row, chunk, best);
      team.sync();  // others may still be reading this block's memory
    }
  }
  if (team.rank != 0 || threadIdx.x != 0) return;
  args.ids[r] = id;
  if (row.slot >= 0) args.last_tokens[row.slot] = max(id, 0);
  if (args.logprobs) args.logprobs[r] = row.wants_logprob && id >= 0 ? raw[id] - log_sum : 0.0f;
}

// --- geometry ---

constexpr int64_t kTeamVocab = 8192;  // below, one block is as fast

struct Device {
  bool clusters;
  size_t dynamic_bytes;  // of shared memory that a block may have
};
Expected<Device> find_device() {
  cudaFuncAttributes kernel{};
  int index = 0, most = 0;
  PARE_CUDA_RETURN_IF_ERROR(cudaFuncGetAttributes(&kernel, sample_kernel<true>));
  PARE_CUDA_RETURN_IF_ERROR(cudaGetDevice(&index));
  PARE_CUDA_RETURN_IF_ERROR(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  const size_t dynamic_bytes = most - kernel.sharedSizeBytes;
  PARE_RETURN_IF_ERROR(allow_shared_memory(sample_kernel<true>, dynamic_bytes));
  return Device{supports_pdl(reinterpret_cast<const void*>(sample_kernel<true>)), dynamic_bytes};
}
const Expected<Device>& device() {
  static const Expected<Device> known = find_device();
  return known;
}

struct Geometry {
  int team, chunk;
  bool shared;  // the chunk fits into shared memory
};
// Follows from the vocabulary and the card alone, so that a row's result does.
Geometry geometry_of(const Device& device, int64_t vocab) {
  const int team = device.clusters && vocab >= kTeamVocab ? kMaxTeam : 1;
  const auto chunk = static_cast<int>(round_up<int64_t>(ceil_div<int64_t>(vocab, team), 4));
  return {team, chunk, chunk * sizeof(float) <= device.dynamic_bytes};
}

}  // namespace
}  // namespace sampling

Expected<size_t> sample_workspace_bytes(int64_t n, int64_t vocab) {
  if (!sampling::device().ok()) return sampling::device().status();
  const sampling::Geometry g = sampling::geometry_of(*sampling::device(), vocab);
  return g.shared ? size_t{0} : static_cast<size_t>(n) * g.team * g.chunk * sizeof(float);
}

Status sample(const SampleArgs& args, Stream stream, bool pdl) {
  constexpr int64_t kMaxVocab = 1 << 20;  // as many masses of 2^41 fit into 61 bits
  if (args.n == 0) return ok_status();
  PARE_CHECK(args.vocab > 0 && args.top_cap <= kSampleTopMax);
  if (!sampling::device().ok()) return sampling::device().status();
  const sampling::Geometry g = sampling::geometry_of(*sampling::device(), args.vocab);
  if (args.vocab > kMaxVocab || g.chunk > sampling::kMaxBlockCandidates) {
    return unsupported("CUDA: sampling from so large a vocabulary");
  }
  PARE_CHECK(g.shared || args.workspace != nullptr);
  const auto kernel = g.shared ? sampling::sample_kernel<true> : sampling::sample_kernel<false>;
  return launch_clusters(kernel, dim3(static_cast<unsigned>(args.n * g.team)), dim3(sampling::kThreads), g.team,
                         g.shared ? g.chunk * sizeof(float) : 0, stream, pdl, args, g.chunk);
}

}  // namespace pare::cuda
