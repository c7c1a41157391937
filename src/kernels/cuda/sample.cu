#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/card_clock.cuh"
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
__device__ Place find_best(const Team& team, Space& space, const Chunk<kShared>& chunk) {
  Place best = 0;
  chunk.for_each([&](float x, int id) { best = larger(best, place_of(x, id)); });
  return team_reduce(team, space.reduce, best, larger);
}

// --- log-probabilities ---

template <bool kShared>
__device__ float log_sum_exp(const Team& team, Space& space, const Chunk<kShared>& chunk, float largest) {
  if (isinf(largest)) return largest;
  float sum = 0.0f;
  chunk.for_each([&](float x, int) { sum += isnan(x) ? 0.0f : expf(x - largest); });
  return largest + logf(team_reduce(team, space.reduce, sum, [](float a, float b) { return a + b; }));
}

// Into the block of rank 0's memory: the n most likely of `source`, of which there are n or more.
template <typename Source>
__device__ void write_first(const Team& team, Space& space, const Source& source, float largest, float log_sum, int n,
                            TopLogprob* top) {
  const Floor numbers{-INFINITY, INT_MAX};
  const Place last = select(team, space, source, ByLikelihood{largest}, Weighing::count(), numbers,
                            [&](Mass) { return static_cast<Mass>(n); });
  team.sync();
  gather(team, space, [&](auto put) {
    source.for_each([&](float x, int id) {
      if (place_of(x, id) >= last) put(place_of(x, id));
    });
  });
  for (int i = threadIdx.x; i < n && team.rank == 0; i += kThreads) {
    const Place own = space.pulled[i];
    int rank = 0;
    for (int j = 0; j < n; ++j) rank += space.pulled[j] > own;
    top[rank] = {id_of(own), value_of(own) - log_sum};
  }
  team.sync();
}

template <bool kShared>
__device__ void write_top(const Team& team, Space& space, const Chunk<kShared>& chunk, const Head& head, float largest,
                          float log_sum, int n_top, int top_cap, TopLogprob* top) {
  int n = n_top;
  if (n_top > head.count) {
    int numbers = 0;
    chunk.for_each([&](float x, int) { numbers += !isnan(x); });
    n = min(n_top, team_reduce(team, space.reduce, numbers, [](int a, int b) { return a + b; }));
    if (n > 0) write_first(team, space, chunk, largest, log_sum, n, top);
  } else if (n_top > 0) {
    team.sync();  // others may still be reading this block's list
    if (team.rank == 0) write_first(Team{}, space, head.held, largest, log_sum, n, top);
  }
  for (int i = n + threadIdx.x; i < top_cap && team.rank == 0; i += kThreads) top[i] = {-1, 0.0f};
}

// --- the draw ---

// Locally typical sampling (arXiv 2202.00666 §4): those first whose surprise lies nearest the entropy.
struct ByTypicality {
  double best, log_sum, entropy;

  __device__ float shift(float x) const { return static_cast<float>(fabs(log_sum - (x - best) - entropy)); }
  __device__ Place place(float x, int id) const { return sampling::place(~__float_as_uint(shift(x)), id); }
  __device__ unsigned bin(float x) const { return static_cast<unsigned>(fminf(shift(x) * 64.0f, kBins - 1)); }
};

// The mass that `share` of all is: the first sum that is not below it.
struct ShareOf {
  float share;
  __device__ Mass operator()(Mass total) const {
    const double wanted = ceil(static_cast<double>(share) * static_cast<double>(total));
    return min(max(static_cast<Mass>(wanted), Mass{1}), total);
  }
};

__device__ double add_doubles(double a, double b) { return a + b; }

template <typename Source>
__device__ ByTypicality typicality_of(const Team& team, Space& space, const Source& source, const Weighing& weighing,
                                      const Floor& floor) {
  double sum = 0.0, weighted = 0.0;
  source.for_each([&](float x, int id) {
    if (!floor.admits(x, id)) return;
    const double e = static_cast<double>(weighing(x));
    sum += e;
    weighted += e * (static_cast<double>(x) - weighing.best);
  });
  sum = team_reduce(team, space.reduce, sum, add_doubles);
  weighted = team_reduce(team, space.reduce, weighted, add_doubles);
  const double log_sum = log(sum) - kMassBits * 0.69314718055994531;
  return {weighing.best, log_sum, log_sum - weighted / sum};
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

// What a draw that looks at the head alone must know of the rest. The mass is that of the first softmax it asks for.
struct Tail {
  bool any = false;
  Mass mass = 0;
  unsigned nats = 0;  // all of it is this far from the best, by nats_from
};
__device__ Weighing first_softmax(const SampleRow& row, float best) {
  return Weighing::softmax(best, row.top_p < 1.0f ? 1.0f : row.temperature);
}

// Draws from `source`, `best` its largest logit. kUndecided where that depends on the order within the tail.
template <typename Source>
__device__ int draw(const Team& team, Space& space, const SampleRow& row, Source source, float best, Tail tail) {
  Place from = kFirstCandidate;
  if (row.top_k > 0) {
    const Mass k = row.top_k;
    const Place last = select(team, space, source, ByLikelihood{best}, Weighing::count(), Floor::of(from),
                              [&](Mass total) { return k < total || (tail.any && k == total) ? k : Mass{0}; });
    if (last == 0 && tail.any) return kUndecided;
    if (last != 0) tail = Tail{};
    from = larger(from, last);
  }
  if (row.typical_p < 1.0f) {
    if (tail.any) return kUndecided;
    const Floor floor = Floor::of(from);
    const Weighing weighing = Weighing::softmax(best, 1.0f);
    const ByTypicality order = typicality_of(team, space, source, weighing, floor);
    const Place last = select(team, space, source, order, weighing, floor, ShareOf{row.typical_p});
    source.drop_unless([&](float x, int id) { return floor.admits(x, id) && order.place(x, id) >= last; });
    // The most likely one may be gone.
    Place first = 0;
    source.for_each([&](float x, int id) { first = larger(first, place_of(x, id)); });
    best = value_of(team_reduce(team, space.reduce, first, larger));
  }
  const ByLikelihood order{best};
  if (row.top_p < 1.0f) {
    const Place last = select(team, space, source, order, Weighing::softmax(best, 1.0f), Floor::of(from),
                              [&](Mass total) { return ShareOf{row.top_p}(total + tail.mass); });
    if (last == 0) return kUndecided;
    tail = Tail{};
    from = larger(from, last);
  }
  if (row.min_p > 0.0f) {
    // At most the best one's own: the logarithm is not positive.
    const float lowest = __double2float_ru(log(static_cast<double>(row.min_p)) + best);
    if (nats_from(best, lowest) < tail.nats) tail = Tail{};
    from = larger(from, Place{key_of(lowest)} << 32);
  }
  const Mass bits = random_bits(row);
  const Place drawn = select(team, space, source, order, Weighing::softmax(best, row.temperature), Floor::of(from),
                             [&](Mass total) {  // the first sum above bits / 2^24 of all
                               total += tail.mass;
                               return (__umul64hi(bits, total) << 40 | bits * total >> 24) + 1;
                             });
  return drawn == 0 ? kUndecided : id_of(drawn);
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
  // The read is hidden behind the row's. Past the first-level cache: it may hold what an earlier step wrote.
  const bool relays = args.times && blockIdx.x == 0 && threadIdx.x == 0;
  const uint64_t began = relays ? __ldcg(args.began) : 0;
  Place first = team_reduce(team, space.reduce, load_chunk(raw, args.vocab, chunk), larger);
  if (relays) args.times[0] = began;

  const int n_top = min(row.n_top, args.top_cap);
  const bool edited = row.n_bias > 0 || row.n_counts > 0 || row.uncounted;
  Head head;
  bool has_head = false;
  if (n_top > 0 || (row.temperature != 0.0f && !edited)) {
    const float largest = value_of(first);
    if (first != 0 && !isinf(largest)) head = take_head(team, space, chunk, largest, first_softmax(row, largest));
    has_head = true;
  }
  float log_sum = 0.0f;
  if (row.wants_logprob || n_top > 0) {
    const float largest = first != 0 ? value_of(first) : -INFINITY;
    log_sum = log_sum_exp(team, space, chunk, largest);
    if (args.top_cap > 0) {
      write_top(team, space, chunk, head, largest, log_sum, n_top, args.top_cap, args.top + r * args.top_cap);
    }
  } else if (team.rank == 0) {
    for (int i = threadIdx.x; i < args.top_cap; i += kThreads) args.top[r * args.top_cap + i] = {-1, 0.0f};
  }

  if (edited) {
    edit_chunk(row, chunk);
    first = find_best(team, space, chunk);
    has_head = false;
  }
  int id = first < kFirstCandidate ? -1 : id_of(first);
  const float best = value_of(first);
  // Beside an infinite logit all other mass is zero.
  if (id >= 0 && row.temperature != 0.0f && best != INFINITY) {
    if (!has_head) head = take_head(team, space, chunk, best, first_softmax(row, best));
    id = kUndecided;
    if (head.count > 0) {
      id = draw(Team{}, space, row, head.held, best, Tail{head.tail, head.tail_mass, head.tail ? head.nats : 0});
    }
    team.sync();  // others may still be reading this block's list
    if (id == kUndecided) {
      id = draw(team, space, row, chunk, best, Tail{});
      team.sync();
    }
  }
  if (team.rank != 0 || threadIdx.x != 0) return;
  args.ids[r] = id;
  if (row.slot >= 0) args.last_tokens[row.slot] = max(id, 0);
  if (args.logprobs) args.logprobs[r] = row.wants_logprob && id >= 0 ? raw[id] - log_sum : 0.0f;
  if (args.times) args.times[1 + r] = card_clock();
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
