#include "eval/kv_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>

#include "attention/selector.h"
#include "base/checked.h"
#include "base/half.h"
#include "base/rng.h"
#include "eval/bandwidth.h"
#include "eval/model_bench.h"
#include "kv/configure.h"
#include "kv/step_builder.h"
#include "ops/device_ops.h"
#include "ops/ops.h"
#include "ops/step.h"
#include "runtime/placement.h"
#include "runtime/policy_files.h"

namespace pare {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kGroupBytes = int64_t{512} << 20;  // K and V of a group of layers: larger than any cache
constexpr double kLaunchSeconds = 20e-3;             // of a measurement on a card: launching is a small part of it

struct Timing {
  double median = 0, spread = 0;
};
Timing timing_of(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const size_t n = seconds.size();
  const double median = (seconds[n / 2] + seconds[(n - 1) / 2]) / 2;
  return {median, (seconds[n - 1 - n / 10] - seconds[n / 10]) / median};
}

// The layers [first, first + n) of a policy's mask as a mask of their own.
KvPolicy policy_of_layers(const KvPolicy& policy, int32_t first, int32_t n) {
  KvDesign design{.reach = policy.decode_reach()};
  if (policy.mid() != nullptr) {
    design.mid = *policy.mid();
    if (const ChannelMask* all = policy.mid()->mask.get()) {
      auto mask = std::make_shared<ChannelMask>(*all);
      mask->n_layers = n;
      const auto begin = all->heads.begin() + static_cast<int64_t>(first) * all->n_kv_heads;
      mask->heads.assign(begin, begin + static_cast<int64_t>(n) * all->n_kv_heads);
      design.mid->mask = std::move(mask);
    }
  }
  return KvPolicy(std::move(design), {policy.stages().begin(), policy.stages().end()});
}

// Sequences of one length in a store of a group of layers, and the step in which each decodes one row.
class DecodeAttention {
 public:
  static Expected<std::unique_ptr<DecodeAttention>> create(const KvBenchConfig& config, const KvPolicy& policy,
                                                           int32_t layers, int32_t length);
  // Seconds of one step's attention in every layer.
  Expected<double> run();
  Expected<uint64_t> bytes_read();
  const KvStore& store() const { return *store_; }

 private:
  DecodeAttention(const KvBenchConfig& config, const KvPolicy& policy, int32_t layers)
      : config_(config), policy_(policy), map_(uniform_layer_map(layers)), pool_(config.threads) {}
  Status make_context();
  Status make_store(int32_t length);
  Status fill_pools();
  Status add_sequences(int32_t length);
  Expected<double> launch(int32_t repeats);

  const KvBenchConfig& config_;
  const KvPolicy& policy_;
  LayerMap map_;
  ThreadPool pool_;
  std::optional<ExecContext> ctx_;
  std::optional<SelectorSet> selectors_;
  std::unique_ptr<KvStore> store_;
  SegmentShape shape_;
  std::vector<SeqId> seqs_;
  int32_t length_ = 0, repeats_ = 0;
  int parity_ = 0;
};

Expected<std::unique_ptr<DecodeAttention>> DecodeAttention::create(const KvBenchConfig& config, const KvPolicy& policy,
                                                                   int32_t layers, int32_t length) {
  std::unique_ptr<DecodeAttention> made(new DecodeAttention(config, policy, layers));
  made->length_ = length;
  PARE_ASSIGN_OR_RETURN(const Spec dense, parse_spec("dense", "attn"));
  PARE_ASSIGN_OR_RETURN(made->selectors_, SelectorSet::make(dense, made->map_));
  PARE_RETURN_IF_ERROR(made->make_context());
  PARE_RETURN_IF_ERROR(made->make_store(length));
  PARE_RETURN_IF_ERROR(made->add_sequences(length));
  PARE_RETURN_IF_ERROR(made->fill_pools());
  return made;
}

Status DecodeAttention::make_context() {
  PARE_ASSIGN_OR_RETURN(const CpuLevel level, selected_cpu_level());
  shape_ =
      segment_shape(config_.n_heads, config_.n_kv_heads, config_.head_dim, pool_.threads(), config_.accelerator.get());
  std::unique_ptr<ops::DeviceOps> device_ops;
  if (config_.accelerator) {
    PARE_ASSIGN_OR_RETURN(device_ops, config_.accelerator->create_ops());
  }
  ctx_.emplace(&pool_, level, Arena(), std::move(device_ops));
  return ok_status();
}

Status DecodeAttention::make_store(int32_t length) {
  KvStoreConfig c;
  c.layers = &map_;
  c.n_kv_heads = config_.n_kv_heads;
  c.head_dim = config_.head_dim;
  place_rows(config_.accelerator, &c);
  c.max_sequences = config_.batch;
  c.max_context = c.max_step_rows = length + 1;
  c.total_rows = int64_t{config_.batch} * round_up<int64_t>(length + 1, kPageRows);
  c.share_prefixes = false;
  apply_policies(selectors_->facts(), policy_, map_, c);
  PARE_ASSIGN_OR_RETURN(store_, KvStore::create(c));

  const PlanBytes plans = step_max_bytes(config_.batch, config_.batch, length + 1, map_, policy_, shape_);
  const int64_t row = int64_t{2} * config_.n_heads + int64_t{2} * config_.n_kv_heads;
  ops::StepMemory memory;
  memory.arena_bytes = plans.workspace + static_cast<size_t>(config_.batch * row * config_.head_dim * 8) +
                       ops::attend_workspace_bytes(*ctx_, config_.batch, kPageRows, config_.n_heads, config_.n_kv_heads,
                                                   config_.head_dim) +
                       (size_t{1} << 20);
  memory.tables_bytes = plans.tables + selectors_->max_bytes(config_.batch, config_.batch, kPageRows) + 65'536;
  memory.decode_slots = plans.slots;
  memory.max_sequences = config_.batch;
  memory.max_context = length + 1;
  memory.graphs = false;
  memory.pool_bytes = store_->pool_bytes();
  return ops::allocate_step_memory(*ctx_, memory, store_->view());
}

// Random 16-bit numbers below 2 in size, whose bits read as fp16 or bf16, as codes or as scales alike: finite all.
Status DecodeAttention::fill_pools() {
  std::vector<uint16_t> block(size_t{4} << 20);
  Philox rng(1);
  for (uint16_t& x : block) x = static_cast<uint16_t>(rng.below(0x10000) & 0xbfff);
  const auto pools = store_->pool_bytes();
  for (size_t p = 0; p < pools.size(); ++p) {
    for (size_t at = 0; at < pools[p];) {
      const size_t bytes = std::min(block.size() * sizeof(uint16_t), pools[p] - at);
      const std::span from(reinterpret_cast<const std::byte*>(block.data()), bytes);
      if (config_.accelerator) {
        PARE_RETURN_IF_ERROR(config_.accelerator->upload(store_->pools()[p] + at, from));
      } else {
        std::memcpy(store_->pools()[p] + at, from.data(), bytes);
      }
      at += bytes;
    }
  }
  return ok_status();
}

Status DecodeAttention::add_sequences(int32_t length) {
  const std::vector<int32_t> tokens(length, 0);
  for (int32_t i = 0; i < config_.batch; ++i) {
    PARE_ASSIGN_OR_RETURN(const SeqId seq, store_->create_sequence());
    PARE_RETURN_IF_ERROR(store_->reserve(seq, length, length));
    store_->append(seq, tokens, length);
    store_->commit_step();
    seqs_.push_back(seq);
  }
  return ok_status();
}

Expected<double> DecodeAttention::launch(int32_t repeats) {
  ExecContext& ctx = *ctx_;
  parity_ ^= 1;
  ops::begin_step(ctx, parity_);
  const int32_t token = 0;
  std::vector<StepSeq> rows;
  for (const SeqId seq : seqs_) {
    PARE_RETURN_IF_ERROR(store_->reserve(seq, 1, length_));
    rows.push_back({.seq = seq, .tokens = {&token, 1}, .prompt_len = length_, .decode = true});
  }
  StepPlans plans;
  PARE_RETURN_IF_ERROR(build_step(rows, map_, policy_, shape_, *store_, ctx.tables, ctx.arena, plans));
  const std::span<const SeqStep> seqs(plans.classes[0].seqs, rows.size());
  PARE_RETURN_IF_ERROR(
      selectors_->build({.seqs = seqs, .n_heads = config_.n_heads, .tile_rows = kPageRows}, ctx.tables, plans));
  ops::SampleBatch none;
  ops::upload_step(ctx, plans, {}, &none);
  const int64_t t = config_.batch, d = config_.head_dim;
  Tensor q = ops::make_f32(ctx, {t, config_.n_heads, d}), k = ops::make_f32(ctx, {t, config_.n_kv_heads, d}),
         v = ops::make_f32(ctx, {t, config_.n_kv_heads, d});
  ops::LinearInput out = ops::make_linear_input(ctx, t, config_.n_heads * d, false);
  for (Tensor* x : {&q, &k, &v}) {
    // fp32 on the CPU, 16 bits on a card: numbers near 1 / 2 and 1 / 2 + 2^-8 either way.
    const std::vector<uint32_t> values(static_cast<size_t>(x->items()), 0x3f003f00u);
    const std::span bytes(reinterpret_cast<const std::byte*>(values.data()),
                          static_cast<size_t>(x->items()) * dtype_info(x->dtype).block_bytes);
    if (config_.accelerator) {
      PARE_RETURN_IF_ERROR(config_.accelerator->upload(static_cast<std::byte*>(x->data), bytes));
    } else {
      std::memcpy(x->data, bytes.data(), bytes.size());
    }
  }
  const Clock::time_point begin = Clock::now();
  const Status launched = ops::launch_step(ctx, plans, {}, none, [&] {
    for (int32_t r = 0; r < repeats; ++r) {
      for (int32_t l = 0; l < plans.n_layers; ++l) ops::attend_layer(ctx, plans, l, 0.125f, {}, q, k, v, out);
    }
  });
  PARE_RETURN_IF_ERROR(launched);
  PARE_RETURN_IF_ERROR(ops::finish_step(ctx, parity_));
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count() / repeats;
  store_->abort_step();
  return seconds;
}

Expected<double> DecodeAttention::run() {
  if (repeats_ == 0) {
    PARE_ASSIGN_OR_RETURN(const double once, launch(1));
    PARE_RETURN_IF_ERROR(launch(1).status());
    repeats_ = config_.accelerator ? std::clamp(static_cast<int32_t>(kLaunchSeconds / once), 1, 400) : 1;
  }
  return launch(repeats_);
}

Expected<uint64_t> DecodeAttention::bytes_read() {
  const uint64_t before = ctx_->counters.kv_bytes;
  PARE_RETURN_IF_ERROR(launch(1).status());
  return ctx_->counters.kv_bytes - before;
}

// Bytes of pages that sequences of `length` rows hold, from the row counts alone.
int64_t bytes_by_formula(const KvBenchConfig& config, const KvPolicy& policy, int32_t layers, int32_t length) {
  const int64_t row = int64_t{2} * config.n_kv_heads * config.head_dim * 2 * layers;
  const auto pages_to_rows = [](int64_t rows) { return round_up<int64_t>(rows, kPageRows); };
  const MidZone* mid = policy.mid();
  const int32_t moved = mid ? mid->moved_before(length) : 0;
  if (moved == 0) return config.batch * pages_to_rows(length + 1) * row;
  const int64_t whole = pages_to_rows(mid->sink) + pages_to_rows(length + 1 - moved);
  int64_t row_bits = 0;
  for (int32_t l = 0; l < layers; ++l) {
    for (int32_t g = 0; g < config.n_kv_heads; ++g) {
      const auto width = mid->mask ? static_cast<int64_t>(mid->mask->head(l, g).size()) : config.head_dim;
      if (width == 0 && mid->keep_means) row_bits += (int64_t{config.head_dim} * 16 + 32) / kSumRows;
      if (width == 0) continue;
      row_bits += width * mid->k_bits + int64_t{config.head_dim} * mid->v_bits;
      if (mid->k_bits < 16) row_bits += width * 32 / mid->k_group;
      if (mid->v_bits < 16) row_bits += config.head_dim * 32 / mid->v_group;
    }
  }
  return config.batch * (whole * row + int64_t{moved - mid->sink / kPageRows * kPageRows} * row_bits / 8);
}

// Seconds of each round, summed over groups.
using Rounds = std::vector<double>;

Status add_group(const KvBenchConfig& config, const KvPolicy& policy, int32_t layers, KvBenchLine* line,
                 std::span<Rounds, 2> rounds) {
  PARE_ASSIGN_OR_RETURN(const Spec spec, parse_spec("dense", "kv"));
  PARE_ASSIGN_OR_RETURN(const KvPolicyChoice plain, make_kv_policy(spec));
  const KvPolicy* const policies[] = {plain.policy.get(), &policy};
  KvBenchSide* const sides[] = {&line->dense, &line->policy};
  std::unique_ptr<DecodeAttention> runs[2];
  std::vector<double> seconds[2];
  for (int s : {0, 1}) {
    PARE_ASSIGN_OR_RETURN(runs[s], DecodeAttention::create(config, *policies[s], layers, line->length));
    PARE_RETURN_IF_ERROR(runs[s]->run().status());
  }
  for (int32_t r = 0; r < config.repetitions; ++r) {
    for (int s : {r % 2, 1 - r % 2}) {
      PARE_ASSIGN_OR_RETURN(const double once, runs[s]->run());
      seconds[s].push_back(once);
      rounds[s][r] += once;
    }
  }
  for (int s : {0, 1}) {
    const Timing timing = timing_of(seconds[s]);
    sides[s]->seconds += timing.median;
    sides[s]->spread = std::max(sides[s]->spread, timing.spread);
    PARE_ASSIGN_OR_RETURN(const uint64_t bytes, runs[s]->bytes_read());
    sides[s]->bytes_read += bytes;
    const KvStats stats = runs[s]->store().stats();
    sides[s]->bytes_used += stats.bytes_used;
    sides[s]->bytes_allocated +=
        stats.bytes_k + stats.bytes_v + stats.bytes_mid_k + stats.bytes_mid_v + stats.bytes_mid_scales;
    sides[s]->bytes_by_formula += bytes_by_formula(config, *policies[s], layers, line->length);
  }
  return ok_status();
}

// A gate can be measured for this policy: it moves rows, as the mask says, and has no gate already.
Status check_gated(const KvPolicy& policy, const ChannelMask& mask) {
  const MidZone* mid = policy.mid();
  if (mid == nullptr || mid->mask == nullptr) return invalid_argument("the KV policy uses no mask: it takes no gate");
  const auto same = [](const Channel& a, const Channel& b) { return a.id == b.id && a.alpha == b.alpha; };
  bool equal = mid->mask->n_layers == mask.n_layers && mid->mask->heads.size() == mask.heads.size();
  for (size_t h = 0; equal && h < mask.heads.size(); ++h) {
    equal = std::equal(mask.heads[h].begin(), mask.heads[h].end(), mid->mask->heads[h].begin(),
                       mid->mask->heads[h].end(), same);
  }
  if (!equal) return invalid_argument("the KV policy uses another mask than the one whose gate is measured");
  if (mid->min_tokens == 0) return ok_status();
  return invalid_argument(fmt::format("min_tokens is {}: a gate is measured without one", mid->min_tokens));
}

}  // namespace

Expected<KvBenchReport> bench_kv(const KvBenchConfig& config) {
  PARE_ASSIGN_OR_RETURN(const Spec spec, parse_spec(config.kv, "kv"));
  KvBenchReport report;
  PARE_ASSIGN_OR_RETURN(const CpuLevel level, selected_cpu_level());
  report.device_class = config.accelerator ? device_class(config.accelerator->info()) : device_class(level);
  const PolicyContext context{.n_layers = config.n_layers,
                              .n_heads = config.n_heads,
                              .n_kv_heads = config.n_kv_heads,
                              .head_dim = config.head_dim,
                              .device_class = config.gated != nullptr ? std::string_view() : report.device_class,
                              .files = config.files};
  PARE_ASSIGN_OR_RETURN(const KvPolicyChoice choice, make_kv_policy(spec, context));
  if (config.gated != nullptr) PARE_RETURN_IF_ERROR(check_gated(*choice.policy, *config.gated));
  report.kv = choice.canonical;
  const int64_t row_bytes = int64_t{4} * config.n_kv_heads * config.head_dim;
  int64_t done = 0, total = 0;
  const auto layers_of = [&](int32_t length) {
    const int64_t bytes = std::max<int64_t>(1, config.batch * int64_t{length} * row_bytes);
    return static_cast<int32_t>(std::clamp<int64_t>(kGroupBytes / bytes, 1, config.n_layers));
  };
  for (const int32_t length : config.lengths) total += ceil_div(config.n_layers, layers_of(length));
  for (const int32_t length : config.lengths) {
    KvBenchLine line;
    line.length = length;
    Rounds rounds[2] = {Rounds(config.repetitions), Rounds(config.repetitions)};
    for (int32_t first = 0; first < config.n_layers; first += layers_of(length)) {
      if (config.next && !config.next(done++, total)) return cancelled("interrupted");
      const int32_t layers = std::min(layers_of(length), config.n_layers - first);
      const KvPolicy policy = policy_of_layers(*choice.policy, first, layers);
      PARE_RETURN_IF_ERROR(add_group(config, policy, layers, &line, rounds)
                               .with_context(fmt::format("{} rows, layer {}", length, first)));
    }
    std::vector<double> ratios;
    for (int32_t r = 0; r < config.repetitions; ++r) ratios.push_back(rounds[1][r] / rounds[0][r]);
    line.ratio = median(ratios);
    report.lines.push_back(line);
  }
  if (config.accelerator) {
    PARE_ASSIGN_OR_RETURN(report.read_rate, config.accelerator->read_bandwidth());
  } else {
    report.read_rate = read_bandwidth_bytes_per_s(config.threads);
  }
  return report;
}

}  // namespace pare
