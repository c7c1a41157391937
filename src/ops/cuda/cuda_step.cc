// The life of a step on a card (device_ops.h): tables, upload, capture and replay.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/attention_walk.h"
#include "kernels/cuda/decode_attention.h"
#include "ops/cuda/cuda_ops.h"
#include "plan/causal_plan.h"
#include "tensor/cuda/status.h"

namespace pare::ops {
namespace {

// Dequantized weights on their way to a matrix product; larger ones go in slices of rows.
constexpr size_t kScratchBytes = size_t{256} << 20;

}  // namespace

Expected<std::unique_ptr<DeviceOps>> CudaOps::create(std::shared_ptr<CudaDevice> device) {
  std::unique_ptr<CudaOps> ops(new CudaOps(std::move(device)));
  PARE_RETURN_IF_ERROR(ops->open());
  return std::unique_ptr<DeviceOps>(std::move(ops));
}

Status CudaOps::open() {
  PARE_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  PARE_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking));
  for (Tables& t : tables_) {
    PARE_CUDA_RETURN_IF_ERROR(cudaEventCreateWithFlags(&t.uploaded, cudaEventDisableTiming));
    PARE_CUDA_RETURN_IF_ERROR(cudaEventCreateWithFlags(&t.finished, cudaEventDisableTiming | cudaEventBlockingSync));
  }
  return ok_status();
}

CudaOps::~CudaOps() {
  if (stream_) cudaStreamSynchronize(stream_);
  for (Tables& t : tables_) {
    if (t.uploaded) cudaEventDestroy(t.uploaded);
    if (t.finished) cudaEventDestroy(t.finished);
  }
  if (copies_) cudaStreamDestroy(copies_);
  if (stream_) cudaStreamDestroy(stream_);
}

void CudaOps::check(Status status) {
  if (error_.ok() && !status.ok()) error_ = std::move(status);
}

Expected<Arena> CudaOps::allocate(const StepMemory& memory, const KvView& kv) {
  memory_ = memory;
  PARE_ASSIGN_OR_RETURN(cuda::Gemm gemm, cuda::Gemm::create(memory.strict));
  gemm_ = std::make_unique<cuda::Gemm>(std::move(gemm));
  host_kv_ = kv_ = kv;
  PARE_ASSIGN_OR_RETURN(arena_, cuda::DeviceBuffer::allocate(memory.arena_bytes));
  PARE_ASSIGN_OR_RETURN(scratch_, cuda::DeviceBuffer::allocate(std::min(kScratchBytes, device_->dense_weight_bytes())));
  PARE_ASSIGN_OR_RETURN(linear_workspace_, cuda::DeviceBuffer::allocate(device_->linear_workspace_bytes()));
  PARE_RETURN_IF_ERROR(linear_workspace_.fill(0));
  PARE_ASSIGN_OR_RETURN(prefill_workspace_, cuda::DeviceBuffer::allocate(cuda::kPrefillWorkspaceBytes));
  PARE_RETURN_IF_ERROR(prefill_workspace_.fill(0));
  PARE_ASSIGN_OR_RETURN(decode_done_, cuda::DeviceBuffer::allocate(static_cast<size_t>(memory.max_sequences) *
                                                                   kv.n_kv_heads * sizeof(uint32_t)));
  PARE_RETURN_IF_ERROR(decode_done_.fill(0));
  const auto octets = static_cast<size_t>(memory.decode_slots / kOctetSpans + 1);
  PARE_ASSIGN_OR_RETURN(octet_done_, cuda::DeviceBuffer::allocate(octets * kv.n_kv_heads * sizeof(uint32_t)));
  PARE_RETURN_IF_ERROR(octet_done_.fill(0));

  // Page lists of all sequences of a step, of the full zone and of one other, and shared pages to copy, follow the
  // host's own tables.
  const size_t pages = static_cast<size_t>(memory.max_sequences) * kMaxClasses * 2 *
                       static_cast<size_t>(ceil_div<int64_t>(memory.max_context, kPageRows)) * sizeof(int32_t);
  const size_t copies = static_cast<size_t>(memory.max_sequences) * kMaxClasses * sizeof(PageCopy);
  const size_t tables = memory.tables_bytes + pages + copies + draw_table_bytes(memory);
  blocks_ = device_->info().multiprocessors;
  size_t classes = kMaxClasses;
  while (classes > 1 && kv.pools[classes - 1] == nullptr) --classes;
  for (Tables& t : tables_) {
    PARE_ASSIGN_OR_RETURN(t.host, cuda::PinnedBuffer::allocate(tables));
    PARE_ASSIGN_OR_RETURN(t.device, cuda::DeviceBuffer::allocate(tables));
    PARE_ASSIGN_OR_RETURN(t.first_jobs, cuda::DeviceBuffer::allocate(classes * cuda::first_jobs_bytes(blocks_)));
    if (!memory.timed) continue;
    PARE_ASSIGN_OR_RETURN(
        t.times, cuda::PinnedBuffer::allocate(static_cast<size_t>(1 + memory.max_sequences) * sizeof(uint64_t)));
  }
  if (memory.timed) {
    PARE_ASSIGN_OR_RETURN(began_, cuda::DeviceBuffer::allocate(std::size(tables_) * sizeof(uint64_t)));
    PARE_RETURN_IF_ERROR(began_.fill(0));
  }

  const size_t format_bytes = sizeof(RowFormat) * kMaxZones * kv.n_kv_layers * kv.n_kv_heads;
  PARE_ASSIGN_OR_RETURN(formats_, cuda::DeviceBuffer::allocate(format_bytes));
  PARE_RETURN_IF_ERROR(formats_.upload(kv.formats, format_bytes));
  PARE_ASSIGN_OR_RETURN(zones_, cuda::DeviceBuffer::allocate(sizeof(Zone) * kMaxZones));
  PARE_RETURN_IF_ERROR(zones_.upload(kv.zones, sizeof(Zone) * kMaxZones));
  kv_.formats = formats_.as<RowFormat>();
  kv_.zones = zones_.as<Zone>();
  size_t n_channels = 0;
  for (size_t i = 0; i < format_bytes / sizeof(RowFormat); ++i) {
    const RowFormat& f = kv.formats[i];
    if (f.chan >= 0) n_channels = std::max(n_channels, static_cast<size_t>(f.chan) + f.k_width);
  }
  kv_.channels = nullptr;  // queries need not be scaled
  if (n_channels > 0) {
    PARE_ASSIGN_OR_RETURN(channels_, cuda::DeviceBuffer::allocate(n_channels * sizeof(Channel)));
    PARE_RETURN_IF_ERROR(channels_.upload(kv.channels, n_channels * sizeof(Channel)));
    kv_.channels = channels_.as<Channel>();
  }
  PARE_RETURN_IF_ERROR(make_maps());
  PARE_RETURN_IF_ERROR(make_cudnn());
  PARE_CUDA_RETURN_IF_ERROR(cudaDeviceSynchronize());
  return Arena(arena_.data(), arena_.size());
}

Arena CudaOps::begin_step(int parity) {
  parity_ = parity;
  Tables& t = tables_[parity];
  if (t.in_flight) check(finish_step(parity));
  return Arena(t.host.data(), t.host.size());
}

void CudaOps::count_decode_bytes(const StepPlans& plans) {
  decode_kv_bytes_ = 0;
  if (plans.n_decode_rows == 0) return;
  uint64_t rows[kMaxClasses][kMaxZones] = {};
  for (int32_t c = 0; c < plans.n_classes; ++c) {
    const SegmentPlan& segment = plans.classes[c].segment;
    for (int32_t r = 0; r < *segment.n_runs; ++r) {
      const Run& run = segment.runs[r];
      PARE_CHECK(run.zone < kMaxZones);
      rows[c][run.zone] += static_cast<uint64_t>(run.rows);
    }
  }
  for (int32_t l = 0; l < plans.n_layers; ++l) {
    const LayerPlan& where = plans.layer(l);
    for (int32_t zone = 0; zone < kMaxZones; ++zone) {
      if (rows[where.cls][zone] == 0) continue;
      for (int32_t g = 0; g < host_kv_.n_kv_heads; ++g) {
        const RowFormat& f = host_kv_.format(zone, where.kv_layer, g);
        if (f.v_width > 0) decode_kv_bytes_ += attn::row_bytes(f, rows[where.cls][zone]);
      }
    }
  }
}

void CudaOps::place_other_lists(const StepPlans& plans, const SegmentPlan& segment, std::span<int32_t> lists,
                                int32_t* next) {
  auto* runs = const_cast<Run*>(segment.runs);
  for (int32_t r = 0; segment.n_runs && r < *segment.n_runs; ++r) {
    Run& run = runs[r];
    if (run.zone == kZoneFull) continue;
    const Zone& zone = host_kv_.zones[run.zone];
    if (zone.layer_pitch != 0) check(unsupported("page lists by layer, on a card"));
    // The pieces of a sequence's runs are neighbours and share its list, also those of two zones in the same pages.
    const auto pages_of = [&](const Run& piece) {
      return ceil_div(piece.row0 + piece.rows, static_cast<int32_t>(host_kv_.zones[piece.zone].page_rows));
    };
    const uint32_t from = run.page0;
    int32_t last = r, pages = pages_of(run);
    while (last + 1 < *segment.n_runs && runs[last + 1].zone != kZoneFull && runs[last + 1].page0 == from) {
      pages = std::max(pages, pages_of(runs[++last]));
    }
    PARE_CHECK(static_cast<size_t>(*next + pages) <= lists.size());
    std::copy_n(plans.kv.page_ids + from, pages, lists.data() + *next);
    for (; r < last; ++r) runs[r].page0 = static_cast<uint32_t>(*next);
    runs[r].page0 = static_cast<uint32_t>(*next);
    *next += pages;
  }
}

// The page lists of the step's sequences, one after the other; plans then name places in this copy. A list is at most
// a few KiB, so that copying it whole costs less than knowing what changed.
void CudaOps::upload_page_lists(StepPlans& plans, Arena& tables) {
  const int64_t list_max = ceil_div<int64_t>(memory_.max_context, kPageRows);
  const auto lists = tables.take<int32_t>(static_cast<size_t>(2 * plans.n_seqs * plans.n_classes * list_max));
  PARE_CHECK(!lists.empty());
  int32_t next = 0;
  for (int32_t c = 0; c < plans.n_classes; ++c) {
    // The tables of the step are this step's own: their builder handed them over.
    auto* seqs = const_cast<SeqStep*>(plans.classes[c].seqs);
    const SegmentPlan& segment = plans.classes[c].segment;
    auto* runs = const_cast<Run*>(segment.runs);
    place_other_lists(plans, segment, lists, &next);
    for (int32_t r = 0; segment.n_runs && r < *segment.n_runs; ++r) {
      // Relative to the list of the run's (first) sequence until that has its place.
      if (runs[r].zone != kZoneFull) continue;
      runs[r].page0 -= static_cast<uint32_t>(seqs[segment.members[runs[r].member0].seq].page0);
    }
    for (int32_t s = 0; s < plans.n_seqs; ++s) {
      const int32_t pages = ceil_div(seqs[s].pos + seqs[s].n_q, kPageRows);
      std::copy_n(plans.kv.page_ids + seqs[s].page0, pages, lists.data() + next);
      seqs[s].page0 = next;
      next += pages;
    }
    for (int32_t r = 0; segment.n_runs && r < *segment.n_runs; ++r) {
      if (runs[r].zone != kZoneFull) continue;
      runs[r].page0 += static_cast<uint32_t>(seqs[segment.members[runs[r].member0].seq].page0);
    }
  }
  plans.kv = kv_;
  plans.kv.page_ids = lists.data();
}

void CudaOps::upload(StepPlans& plans, std::span<Tensor* const> tensors, SampleBatch* batch, Arena& tables) {
  Tables& t = tables_[parity_];
  decode_rows_of_a_sequence_ = 1;
  for (int32_t s = 0; s < plans.n_seqs; ++s) {
    const SeqStep& seq = plans.classes[0].seqs[s];
    if ((seq.flags & kSeqDecode) != 0) decode_rows_of_a_sequence_ = std::max(decode_rows_of_a_sequence_, seq.n_q);
  }
  count_decode_bytes(plans);
  upload_page_lists(plans, tables);
  if (plans.n_copies > 0) {
    const auto copies = tables.take<PageCopy>(static_cast<size_t>(plans.n_copies));
    std::copy_n(plans.copies, plans.n_copies, copies.data());
    plans.copies = copies.data();
  } else {
    plans.copies = nullptr;
  }
  check(cuda::to_status(cudaMemcpyAsync(t.device.data(), t.host.data(), tables.used(), cudaMemcpyHostToDevice, copies_),
                        "upload of a step's tables"));

  for (int32_t c = 0; c < plans.n_classes; ++c) {
    ClassStep& cls = plans.classes[c];
    cls.seqs = on_device(cls.seqs);
    cls.dst = on_device(cls.dst);
    SegmentPlan& s = cls.segment;
    s.runs = on_device(s.runs);
    s.n_runs = on_device(s.n_runs);
    s.item_prefix = on_device(s.item_prefix);
    s.members = on_device(s.members);
    s.folds = on_device(s.folds);
    s.done = decode_done_.as<uint32_t>();
    s.octet_done = octet_done_.as<uint32_t>();
    PARE_CHECK(s.parts_cap <= memory_.decode_slots);
  }
  // The structs stay on the host, where ops read them; what they point to is on the card.
  std::vector<BlockPlan>& blocks = t.blocks;
  blocks.assign(plans.blocks, plans.blocks + plans.n_blocks);
  for (BlockPlan& b : blocks) {
    if ((b.flags & kPlanCudnn) != 0) {
      // Positions and rows are those of every class.
      check(
          require_causal_plan(b, {on_host(plans.classes[0].seqs), static_cast<size_t>(plans.n_seqs)}, memory_.n_heads));
    }
    b.tiles_cap = *b.n_tiles;
    b.tiles = on_device(b.tiles);
    b.n_tiles = on_device(b.n_tiles);
    b.lists = on_device(b.lists);
    b.ranges = on_device(b.ranges);
    b.cols = on_device(b.cols);
    b.bits = on_device(b.bits);
    b.row_ids = on_device(b.row_ids);
    b.claimed = on_device(b.claimed);
    b.limit = on_device(b.limit);
  }
  plans.blocks = blocks.data();
  plans.kv.page_ids = on_device(plans.kv.page_ids);
  plans.copies = on_device(plans.copies);
  for (Tensor* tensor : tensors) {
    if (tensor->items() > 0) tensor->data = on_device(static_cast<std::byte*>(tensor->data));
  }
  if (batch->device_rows) batch->device_rows = on_device(static_cast<const std::byte*>(batch->device_rows));
  resolve_first_jobs(plans);
  check(cuda::to_status(cudaEventRecord(t.uploaded, copies_), "cudaEventRecord"));
}

// On the stream of copies: the step before still runs.
void CudaOps::resolve_first_jobs(const StepPlans& plans) {
  has_first_jobs_ = plans.n_decode_rows > 0;
  if (!has_first_jobs_) return;
  cuda::AttentionLayer layer;
  layer.kv = plans.kv;
  layer.n_heads = memory_.n_heads;
  layer.head_dim = host_kv_.head_dim;
  layer.qa = layer.n_heads / plans.kv.n_kv_heads;
  layer.n_seqs = plans.n_seqs;
  layer.n_rows = plans.n_rows;
  for (int32_t c = 0; c < plans.n_classes; ++c) {
    layer.seqs = plans.classes[c].seqs;
    check(cuda::resolve_first_jobs(layer, plans.classes[c].segment, first_jobs(c), blocks_, copies_));
  }
}

void* CudaOps::first_jobs(int32_t cls) const {
  if (!has_first_jobs_) return nullptr;
  return tables_[parity_].first_jobs.as<std::byte>() + cls * cuda::first_jobs_bytes(blocks_);
}

bool CudaOps::begin_launch(const StepPlans& plans, std::span<Tensor* const> tensors, const SampleBatch& batch) {
  Tables& t = tables_[parity_];
  rows_ = {plans.n_rows, plans.n_decode_rows};
  logit_rows_ = {plans.n_logit_rows, plans.n_decode_logit_rows};
  PARE_CHECK(batch.n <= memory_.max_sequences);
  t.n_draws = batch.n;
  if (t.time()) std::fill_n(t.time(), 1 + batch.n, 0);  // the step that wrote here has ended
  check(cuda::to_status(cudaStreamWaitEvent(stream_, t.uploaded, 0), "cudaStreamWaitEvent"));
  keyed_ = memory_.graphs && plans.n_prefill_rows == 0 && error_.ok();
  if (!keyed_) return true;
  // Everything that launches are made from; item counts, lengths and pages are read on the card.
  std::vector<uint64_t>& key = key_;
  key.clear();
  const auto add = [&](auto value) {
    if constexpr (std::is_pointer_v<decltype(value)>) {
      key.push_back(reinterpret_cast<uintptr_t>(value));
    } else {
      key.push_back(static_cast<uint64_t>(value));
    }
  };
  add(plans.n_seqs);
  add(plans.n_rows);
  add(plans.n_logit_rows);
  add(decode_rows_of_a_sequence_);
  add(plans.n_copies);
  add(plans.copies);
  add(plans.kv.page_ids);
  for (int32_t c = 0; c < plans.n_classes; ++c) {
    const ClassStep& cls = plans.classes[c];
    add(cls.seqs);
    add(cls.dst);
    add(cls.segment.runs);
    add(cls.segment.n_runs);
    add(cls.segment.item_prefix);
    add(cls.segment.members);
    add(cls.segment.folds);
    add(cls.segment.parts);
    add(cls.segment
            .parts_cap);  // what the step takes from the arena afterwards, logits among it, lies behind the parts
    add(cls.segment.window);
  }
  for (const Tensor* tensor : tensors) {
    add(tensor->data);
    add(tensor->items());
  }
  add(batch.device_rows);
  add(batch.n);
  add(batch.kinds);
  auto action = graphs_.begin(key, stream_);
  if (!action.ok()) {
    keyed_ = false;
    check(action.status());
    return true;
  }
  capturing_ = *action == cuda::StepGraphs::Action::kCapture;
  return *action != cuda::StepGraphs::Action::kReplay;
}

Status CudaOps::end_launch() {
  if (capturing_) {
    capturing_ = false;
    check(graphs_.finish_capture(stream_));
  }
  Tables& t = tables_[parity_];
  check(cuda::to_status(cudaEventRecord(t.finished, stream_), "cudaEventRecord"));
  t.in_flight = true;
  return error_;
}

Status CudaOps::finish_step(int parity) {
  Tables& t = tables_[parity];
  if (t.in_flight) check(cuda::to_status(cudaEventSynchronize(t.finished), "a step"));
  t.in_flight = false;
  return error_;
}

StepSpan CudaOps::step_span(int parity) const {
  const Tables& t = tables_[parity];
  if (!t.time() || t.in_flight || t.n_draws == 0 || t.time()[0] == 0) return {};
  const uint64_t* ends = t.time() + 1;
  return {static_cast<int64_t>(t.time()[0]), static_cast<int64_t>(*std::max_element(ends, ends + t.n_draws))};
}

Status CudaOps::read(void* host, const void* device, size_t bytes) {
  check(cuda::to_status(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "a copy to the host"));
  check(cuda::to_status(cudaStreamSynchronize(stream_), "a step"));
  return error_;
}

}  // namespace pare::ops
