#include "kernels/cuda/gemm.h"

#include <cublasLt.h>
#include <fmt/format.h>

#include <array>
#include <bit>
#include <compare>
#include <map>
#include <utility>

#include "base/check.h"
#include "tensor/cuda/device_memory.h"

namespace pare::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;

Status lt_status(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return ok_status();
  std::string message = fmt::format("cuBLASLt: {} in {}", cublasLtGetStatusString(status), what);
  return status == CUBLAS_STATUS_NOT_SUPPORTED ? unsupported(std::move(message)) : internal_error(std::move(message));
}
#define PARE_LT_RETURN_IF_ERROR(call) PARE_RETURN_IF_ERROR(lt_status((call), #call))

// A handle of the library with its destructor.
template <typename Handle, cublasStatus_t (*kDestroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (handle_) kDestroy(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* out() { return &handle_; }
  operator Handle() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType_t data_type(DType t) { return t == DType::BF16 ? CUDA_R_16BF : t == DType::F16 ? CUDA_R_16F : CUDA_R_32F; }

// What an algorithm is chosen by.
struct Key {
  int64_t t_bucket, n, k, ld_x, ld_w, ld_y;
  DType type, y_type;
  bool bias, accumulate;
  auto operator<=>(const Key&) const = default;
};

// The library is column-major: y^T [N, T] = W [K, N]^T * x^T [K, T].
struct Problem {
  Operation operation;
  Layout w, x, y;
};

Status describe(const GemmCall& c, int64_t t, Problem* p) {
  PARE_LT_RETURN_IF_ERROR(cublasLtMatmulDescCreate(p->operation.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  PARE_LT_RETURN_IF_ERROR(
      cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
  if (c.bias != nullptr) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t fp32 = CUDA_R_32F;
    PARE_LT_RETURN_IF_ERROR(
        cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    PARE_LT_RETURN_IF_ERROR(
        cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &fp32, sizeof fp32));
    PARE_LT_RETURN_IF_ERROR(
        cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &c.bias, sizeof c.bias));
  }
  const cudaDataType_t in = data_type(c.type);
  PARE_LT_RETURN_IF_ERROR(cublasLtMatrixLayoutCreate(p->w.out(), in, c.k, c.n, c.ld_w));
  PARE_LT_RETURN_IF_ERROR(cublasLtMatrixLayoutCreate(p->x.out(), in, c.k, t, c.ld_x));
  return lt_status(cublasLtMatrixLayoutCreate(p->y.out(), data_type(c.y_type), c.n, t, c.ld_y),
                   "cublasLtMatrixLayoutCreate of y");
}

bool splits_k(const cublasLtMatmulAlgo_t& algorithm) {
  int32_t parts = 1;
  uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
  size_t written = 0;
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts, &written);
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme,
                                       &written);
  return parts > 1 || scheme != CUBLASLT_REDUCTION_SCHEME_NONE;
}

}  // namespace

struct Gemm::State {
  Owned<cublasLtHandle_t, cublasLtDestroy> handle;
  DeviceBuffer workspace;
  bool strict = false;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms;

  // Asks the library for the fastest algorithm that it knows for `t` rows.
  Status choose(const GemmCall& call, int64_t t, cublasLtMatmulAlgo_t* out) {
    Problem p;
    PARE_RETURN_IF_ERROR(describe(call, t, &p));
    Preference preference;
    PARE_LT_RETURN_IF_ERROR(cublasLtMatmulPreferenceCreate(preference.out()));
    const size_t bytes = kWorkspaceBytes;
    PARE_LT_RETURN_IF_ERROR(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                                 &bytes, sizeof bytes));
    if (strict) {
      const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE;
      PARE_LT_RETURN_IF_ERROR(cublasLtMatmulPreferenceSetAttribute(
          preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
    }
    std::array<cublasLtMatmulHeuristicResult_t, 16> found{};
    int count = 0;
    PARE_LT_RETURN_IF_ERROR(cublasLtMatmulAlgoGetHeuristic(handle, p.operation, p.w, p.x, p.y, p.y, preference,
                                                           static_cast<int>(found.size()), found.data(), &count));
    for (int i = 0; i < count; ++i) {
      if (found[i].state != CUBLAS_STATUS_SUCCESS || (strict && splits_k(found[i].algo))) continue;
      *out = found[i].algo;
      return ok_status();
    }
    return unsupported(fmt::format("cuBLASLt: no algorithm for [{}, {}] x [{}, {}]", t, call.k, call.k, call.n));
  }
};

Gemm::Gemm(std::unique_ptr<State> state) : state_(std::move(state)) {}
Gemm::~Gemm() = default;
Gemm::Gemm(Gemm&&) noexcept = default;
Gemm& Gemm::operator=(Gemm&&) noexcept = default;

Expected<Gemm> Gemm::create(bool strict) {
  auto state = std::make_unique<State>();
  state->strict = strict;
  PARE_LT_RETURN_IF_ERROR(cublasLtCreate(state->handle.out()));
  PARE_ASSIGN_OR_RETURN(state->workspace, DeviceBuffer::allocate(kWorkspaceBytes));
  return Gemm(std::move(state));
}

Status Gemm::run(const GemmCall& call, Stream stream) {
  PARE_CHECK(call.type == DType::BF16 || call.type == DType::F16);
  PARE_CHECK(call.y_type == DType::F32 || (call.y_type == call.type && !call.accumulate));
  PARE_CHECK(call.ld_x % 8 == 0 && call.ld_w % 8 == 0 && call.ld_x >= call.k && call.ld_w >= call.k &&
             call.ld_y >= call.n && (call.bias == nullptr || (call.y_type == DType::F32 && !call.accumulate)));
  if (call.t == 0) return ok_status();
  // One algorithm for all T must suit the long ones, where it matters.
  constexpr int64_t kStrictRows = 512;
  const int64_t bucket =
      state_->strict ? kStrictRows : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(call.t)));
  const Key key = {
      bucket,         call.n, call.k, call.ld_x, call.ld_w, call.ld_y, call.type, call.y_type, call.bias != nullptr,
      call.accumulate};
  auto at = state_->algorithms.find(key);
  if (at == state_->algorithms.end()) {
    cublasLtMatmulAlgo_t algorithm;
    PARE_RETURN_IF_ERROR(state_->choose(call, bucket, &algorithm));
    at = state_->algorithms.emplace(key, algorithm).first;
  }
  Problem p;
  PARE_RETURN_IF_ERROR(describe(call, call.t, &p));
  const float one = 1.0f, zero = 0.0f;
  return lt_status(
      cublasLtMatmul(state_->handle, p.operation, &one, call.w, p.w, call.x, p.x, call.accumulate ? &one : &zero,
                     call.y, p.y, call.y, p.y, &at->second, state_->workspace.data(), kWorkspaceBytes, stream),
      "cublasLtMatmul");
}

}  // namespace pare::cuda
