// DeviceOps on one CUDA stream. The members are spread over cuda_*_ops.cc; what a step is made of is in cuda_step.h.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/small_linear.h"
#include "ops/cuda/cuda_device.h"
#include "ops/cuda/step_graphs.h"
#include "ops/device_ops.h"
#include "tensor/cuda/device_memory.h"

namespace pare::ops {

class CudaOps : public DeviceOps {
 public:
  static Expected<std::unique_ptr<DeviceOps>> create(std::shared_ptr<CudaDevice> device);
  ~CudaOps() override;

  Accelerator& accelerator() override { return *device_; }
  Device device() const override { return device_->info().device; }

  Expected<Arena> allocate(const StepMemory& memory, const KvView& kv) override;
  int32_t preferred_tile_rows(int32_t group, int32_t head_dim) const override;
  Arena begin_step(int parity) override;
  SampleBatch stage(Arena& tables, const SampleRow* rows, int64_t n) override;
  void upload(StepPlans& plans, std::span<Tensor* const> tensors, SampleBatch* batch, Arena& tables) override;
  bool begin_launch(const StepPlans& plans, std::span<Tensor* const> tensors, const SampleBatch& batch) override;
  Status end_launch() override;
  ExecCounters* launch_cost() override { return keyed_ ? graphs_.cost() : nullptr; }
  uint64_t decode_kv_bytes() const override { return decode_kv_bytes_; }
  Status finish_step(int parity) override;
  StepSpan step_span(int parity) const override;
  Status read(void* host, const void* device, size_t bytes) override;

  Tensor make_activations(Arena& arena, std::initializer_list<int64_t> shape) override;
  void embed(const Weight& table, const Tensor& ids, float scale, Tensor& out) override;
  void rms_norm(const Tensor& x, const float* weight, float eps, LinearInput& out) override;
  void rms_norm_add(Tensor& x, const float* weight, float eps, Tensor& residual) override;
  void layer_norm(const Tensor& x, const float* weight, const float* bias, float eps, LinearInput& out) override;
  void linear(const LinearInput& x, std::span<const LinearOutput> outputs) override;
  void glu_linear(Arena& arena, const LinearInput& x, const Weight& gate, const Weight& up, Activation act,
                  LinearInput& out) override;
  void linear_activate(Arena& arena, const LinearInput& x, const Weight& w, const float* bias, Activation act,
                       LinearInput& out) override;
  RopeTable make_rope_table(Arena& arena, const Tensor& positions, std::span<const double> inv_freq,
                            float magnitude) override;
  void attend_layer(Arena& arena, const StepPlans& plans, int32_t l, float logit_scale, const HeadTransform& heads,
                    Tensor& q, Tensor& k, const Tensor& v, LinearInput& out) override;
  void copy_pages(const StepPlans& plans) override;
  void move_rows(const StepPlans& plans, std::span<const RowMove> moves) override;
  void gather_rows(const Tensor& x, const Tensor& rows, Tensor& out) override;
  void add(const Tensor& x, Tensor& y) override;
  void add_row(const float* row, Tensor& y) override;
  void copy(const Tensor& x, Tensor& y) override;
  void scale(float factor, Tensor& x) override;
  void softcap(float cap, Tensor& x) override;
  void mean_pool(const Tensor& x, const Tensor& begin, bool normalize, Tensor& out) override;
  void sample(Arena& arena, const SampleBatch& batch, const Tensor& logits, const SampleOutput& out,
              Tensor& last_tokens) override;
  void select_tokens(const Tensor& known, const Tensor& slots, const Tensor& last_tokens, Tensor& out) override;
  void store_token(Arena& tables, int64_t row, int32_t slot, Tensor& last_tokens) override;
  size_t glu_workspace_bytes(int64_t rows, int64_t n) const override;
  size_t sample_workspace_bytes(int64_t rows, int64_t vocab) const override;

 private:
  // Tables of one parity: what the host writes, and the copy that kernels read.
  struct Tables {
    cuda::PinnedBuffer host;
    cuda::DeviceBuffer device;
    // What decode attention's blocks begin with, by class; made behind the upload, beside the step before.
    cuda::DeviceBuffer first_jobs;
    cuda::Event uploaded = nullptr, finished = nullptr;
    bool in_flight = false;
    std::vector<BlockPlan> blocks;
    // The card's clock at a step's begin and at the end of each of its draws: [1 + max_sequences], written by the
    // sampler where the host reads it, as ids are. Empty: steps are not timed.
    cuda::PinnedBuffer times;
    int64_t n_draws = 0;
    uint64_t* time() const { return reinterpret_cast<uint64_t*>(times.data()); }
  };
  explicit CudaOps(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {}
  Status open();
  Status make_maps();
  Status make_cudnn();
  static size_t draw_table_bytes(const StepMemory& memory);
  void check(Status status);
  // The device's copy of something in the host tables of this step; null stays null.
  template <typename T>
  T* on_device(T* host) const {
    if (!host) return nullptr;
    const Tables& t = tables_[parity_];
    const auto* byte = reinterpret_cast<const std::byte*>(host);
    PARE_CHECK(byte >= t.host.data() && byte <= t.host.data() + t.host.size());
    return reinterpret_cast<T*>(t.device.data() + (byte - t.host.data()));
  }
  // The way back, while this step's tables are alive.
  template <typename T>
  const T* on_host(const T* device) const {
    const Tables& t = tables_[parity_];
    const auto* byte = reinterpret_cast<const std::byte*>(device);
    PARE_CHECK(byte >= t.device.data() && byte <= t.device.data() + t.device.size());
    return reinterpret_cast<const T*>(t.host.data() + (byte - t.device.data()));
  }
  void count_decode_bytes(const StepPlans& plans);
  void upload_page_lists(StepPlans& plans, Arena& tables);
  void resolve_first_jobs(const StepPlans& plans);
  // Of the step at hand, or null.
  void* first_jobs(int32_t cls) const;
  // Puts the lists of the class's runs in other zones than the full one at `next` of the step's lists.
  void place_other_lists(const StepPlans& plans, const SegmentPlan& segment, std::span<int32_t> lists, int32_t* next);

  // Of `t` rows, how many of the first go through the packed kernels; the others through 16-bit copies of the weights.
  int64_t packed_rows(int64_t t) const;
  // Whether the packed rows of a product go through the batch kernel.
  bool takes_batch(int64_t rows, DType dtype, int64_t k) const;
  void packed_linear(const LinearInput& x, int64_t rows, std::span<const LinearOutput> outputs);
  void dense_linear(const LinearInput& x, int64_t first_row, const LinearOutput& output);
  cuda::SmallLinearInput small_input(const LinearInput& x, int64_t t0, int64_t t1) const;

  std::shared_ptr<CudaDevice> device_;
  cuda::Stream stream_ = nullptr, copies_ = nullptr;
  Status error_;

  // The clock at the begin of the steps of both parities: kept on the card until the sampler hands it on, so that the
  // first launch of a step does not end later for a write over the bus.
  cuda::DeviceBuffer began_;
  cuda::DeviceBuffer arena_, scratch_, linear_workspace_, prefill_workspace_, decode_done_, octet_done_;
  Tables tables_[2];
  int parity_ = 0;
  cuda::StepGraphs graphs_;
  bool keyed_ = false, capturing_ = false;  // the step at hand has a key; its launches are being captured
  uint64_t decode_kv_bytes_ = 0;
  std::vector<uint64_t> key_;              // of the step at hand
  int32_t decode_rows_of_a_sequence_ = 1;  // at most, in the step at hand
  bool has_first_jobs_ = false;            // the step at hand
  int32_t blocks_ = 0;                     // of decode attention at most: multiprocessors
  StepMemory memory_;
  // Rows of the step at hand, and those of its logits: all, and the decode rows among them, which come first.
  struct Rows {
    int64_t all = 0, decode = 0;
  } rows_, logit_rows_;

  KvView host_kv_, kv_;  // formats and zones on the host; everything on the card
  cuda::DeviceBuffer formats_, zones_, channels_;
  std::vector<cuda::KvTensorMap> maps_;        // by pool
  std::optional<cuda::CudnnAttention> cudnn_;  // where plans ask for it
  std::unique_ptr<cuda::Gemm> gemm_;
  const int32_t* drawn_ids_ = nullptr;  // of the last step that drew; the card reads them there too

  // inv_freq tables already on the card, by their host address, which models keep.
  struct Frequencies {
    const double* host;
    cuda::DeviceBuffer device;
  };
  std::vector<Frequencies> frequencies_;
};

}  // namespace pare::ops
