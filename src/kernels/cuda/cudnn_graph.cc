#include "kernels/cuda/cudnn_graph.h"

#include "kernels/cuda/cudnn_library.h"

#ifdef PARE_HAS_CUDNN
#include <cudnn_frontend.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <list>
#include <unordered_map>
#include <vector>

namespace pare::cuda {
namespace {

namespace fe = cudnn_frontend;

// Names of a graph's tensors.
enum Uid : int64_t { kQ = 1, kK, kV, kOut };

std::string shape_text(const CudnnShape& s) {
  return fmt::format("{} rows over {} keys, {}/{} heads of {}, {}", s.queries, s.keys, s.heads, s.kv_heads, s.head_dim,
                     s.dtype == DType::BF16 ? "bf16" : "f16");
}

// Both give a line for everything that they tried.
std::string one_line(std::string text) {
  constexpr size_t kShown = 600;
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.size() <= kShown ? text : text.substr(0, kShown) + " ...";
}

// cuDNN's own last words, behind those of the front end.
std::string last_words() {
  char text[1024] = {};
  cudnnGetLastErrorString(text, sizeof(text) - 1);
  return *text == '\0' ? std::string() : fmt::format(" [{}]", one_line(text));
}

// The front end throws where it cannot go on. Nothing of that leaves this file.
template <typename Body>
Status guarded(const CudnnShape& shape, std::string_view what, Body&& body) {
  try {
    return body();
  } catch (const std::exception& e) {
    return internal_error(fmt::format("cuDNN, {} {}: {}{}", what, shape_text(shape), one_line(e.what()), last_words()));
  }
}

class Graphs final : public CudnnGraphs {
 public:
  ~Graphs() override {
    graphs_.clear();
    if (handle_ != nullptr) cudnnDestroy(handle_);
  }

  Status create() {
    if (const cudnnStatus_t made = cudnnCreate(&handle_); made != CUDNN_STATUS_SUCCESS) {
      handle_ = nullptr;
      return unsupported(
          fmt::format("cuDNN {}: cudnnCreate: {}{}", version(), cudnnGetErrorString(made), last_words()));
    }
    return ok_status();
  }

  std::string version() const override {
    const size_t v = cudnnGetVersion();
    return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
  }

  Status prepare(const CudnnShape& shape) override {
    for (auto entry = graphs_.begin(); entry != graphs_.end(); ++entry) {
      if (!(entry->shape == shape)) continue;
      graphs_.splice(graphs_.begin(), graphs_, entry);
      return ok_status();
    }
    Entry entry;
    entry.shape = shape;
    PARE_RETURN_IF_ERROR(guarded(shape, "a graph for", [&] { return build(&entry); }));
    if (graphs_.size() == kMaxGraphs) graphs_.pop_back();
    graphs_.push_front(std::move(entry));
    return ok_status();
  }

  Status run(const CudnnShape& shape, const CudnnOperands& operands, std::byte* workspace, Stream stream) override {
    PARE_RETURN_IF_ERROR(prepare(shape));
    return guarded(shape, "a launch for", [&] {
      if (const cudnnStatus_t set = cudnnSetStream(handle_, stream); set != CUDNN_STATUS_SUCCESS) {
        return internal_error(fmt::format("cudnnSetStream: {}{}", cudnnGetErrorString(set), last_words()));
      }
      std::unordered_map<int64_t, void*> pack = {{kQ, const_cast<void*>(operands.q)},
                                                 {kK, const_cast<void*>(operands.k)},
                                                 {kV, const_cast<void*>(operands.v)},
                                                 {kOut, operands.out}};
      if (auto error = graphs_.front().graph->execute(handle_, pack, workspace); error.is_bad()) {
        return internal_error(fmt::format("cuDNN, a launch for {}: {}{}", shape_text(shape),
                                          one_line(error.get_message()), last_words()));
      }
      return ok_status();
    });
  }

 private:
  struct Entry {
    CudnnShape shape;
    std::shared_ptr<fe::graph::Graph> graph;
  };

  Status build(Entry* entry) {
    const CudnnShape& s = entry->shape;
    entry->graph = std::make_shared<fe::graph::Graph>();
    fe::graph::Graph& graph = *entry->graph;
    graph.set_io_data_type(s.dtype == DType::BF16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const int64_t d = s.head_dim, row = s.heads * d;
    // Dimensions are [batch][heads][rows][channels] for cuDNN, whatever the order in memory; strides in elements.
    const std::vector<int64_t> q_dims = {1, s.heads, s.queries, d}, q_strides = {s.queries * row, d, row, 1};
    const std::vector<int64_t> kv_dims = {1, s.kv_heads, s.keys, d};
    const std::vector<int64_t> kv_strides = {s.kv_heads * s.keys * d, s.keys * d, d, 1};
    const auto tensor = [&](const char* name, Uid uid, const std::vector<int64_t>& dims,
                            const std::vector<int64_t>& strides) {
      return graph.tensor(fe::graph::Tensor_attributes().set_name(name).set_uid(uid).set_dim(dims).set_stride(strides));
    };
    auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(false).set_attn_scale(s.scale);
    if (s.queries > 1) {  // one query sees every key: no mask
      // Whole prompts take the mask that every other user of cuDNN has.
      options.set_diagonal_alignment(s.queries == s.keys ? fe::DiagonalAlignment_t::TOP_LEFT
                                                         : fe::DiagonalAlignment_t::BOTTOM_RIGHT);
      options.set_diagonal_band_right_bound(0);
    }
    auto [out, stats] = graph.sdpa(tensor("q", kQ, q_dims, q_strides), tensor("k", kK, kv_dims, kv_strides),
                                   tensor("v", kV, kv_dims, kv_strides), options);
    static_cast<void>(stats);
    out->set_output(true).set_uid(kOut).set_dim(q_dims).set_stride(q_strides);
    const auto refused = [&](fe::error_t& error) {
      return unsupported(fmt::format("cuDNN {} has no attention of {}: {}{}", version(), shape_text(s),
                                     one_line(error.get_message()), last_words()));
    };
    if (auto error = graph.build(handle_, {fe::HeurMode_t::A}); error.is_bad()) return refused(error);
    int64_t workspace = 0;
    if (auto error = graph.get_workspace_size(workspace); error.is_bad()) return refused(error);
    if (workspace > static_cast<int64_t>(kWorkspaceBytes)) {
      return resource_exhausted(fmt::format("cuDNN {} wants {} bytes of workspace for {}, {} are there", version(),
                                            workspace, shape_text(s), kWorkspaceBytes));
    }
    return ok_status();
  }

  cudnnHandle_t handle_ = nullptr;
  std::list<Entry> graphs_;  // most recently used first
};

}  // namespace

Expected<std::unique_ptr<CudnnGraphs>> CudnnGraphs::open() {
  PARE_RETURN_IF_ERROR(load_cudnn());
  auto graphs = std::make_unique<Graphs>();
  PARE_RETURN_IF_ERROR(graphs->create());
  return std::unique_ptr<CudnnGraphs>(std::move(graphs));
}

}  // namespace pare::cuda

#else

namespace pare::cuda {
Expected<std::unique_ptr<CudnnGraphs>> CudnnGraphs::open() { return load_cudnn(); }
}  // namespace pare::cuda

#endif
