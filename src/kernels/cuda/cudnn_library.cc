#include "kernels/cuda/cudnn_library.h"

#ifdef PARE_HAS_CUDNN
#include <cudnn.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <nvrtc.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace pare::cuda {
namespace {

constexpr const char* kName = "libcudnn.so.9";
constexpr size_t kOldest = 90600;

struct Library {
  void* handle = nullptr;  // never closed: graphs may outlive everything else
  Status status;
};

Library open_library() {
  std::vector<std::string> paths;
  if (const char* folder = std::getenv("CUDNN_PATH"); folder != nullptr && *folder != '\0') {
    for (const char* lib : {"lib", "lib64"}) paths.push_back(fmt::format("{}/{}/{}", folder, lib, kName));
  }
  paths.emplace_back(kName);
  std::string tried;
  Library library;
  for (const std::string& path : paths) {
    library.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library.handle != nullptr) break;
    const char* why = dlerror();
    tried += fmt::format("{}{}", tried.empty() ? "" : "; ", why != nullptr ? why : path.c_str());
  }
  if (library.handle == nullptr) {
    library.status = unsupported(fmt::format("cuDNN was not found ({}); CUDNN_PATH may name its folder", tried));
    return library;
  }
  const auto version = reinterpret_cast<decltype(&cudnnGetVersion)>(dlsym(library.handle, "cudnnGetVersion"));
  if (version == nullptr || version() < kOldest) {
    library.status = unsupported(
        fmt::format("cuDNN {} was found, 9.6 or newer is needed ({})", version == nullptr ? 0 : version(), kOldest));
  }
  return library;
}

const Library& library() {
  static const Library one = open_library();
  return one;
}

template <typename Function>
Function find(const char* name) {
  void* handle = library().handle;
  return handle == nullptr ? nullptr : reinterpret_cast<Function>(dlsym(handle, name));
}

}  // namespace

Status load_cudnn() { return library().status; }

}  // namespace pare::cuda

// Hands a call on to the library; `missing` where it has no such function.
#define PARE_CUDNN_CALL(missing, function, ...)                                          \
  static const auto library_function = pare::cuda::find<decltype(&function)>(#function); \
  return library_function == nullptr ? missing : library_function(__VA_ARGS__)

extern "C" {

size_t cudnnGetVersion() { PARE_CUDNN_CALL(0, cudnnGetVersion); }
const char* cudnnGetErrorString(cudnnStatus_t status) {
  PARE_CUDNN_CALL("an error of a cuDNN that is not there", cudnnGetErrorString, status);
}
void cudnnGetLastErrorString(char* message, size_t size) {
  if (size > 0) *message = '\0';
  PARE_CUDNN_CALL(void(), cudnnGetLastErrorString, message, size);
}
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) { PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnCreate, handle); }
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnDestroy, handle);
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnSetStream, handle, stream);
}
cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) {
  PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnGetStream, handle, stream);
}
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnBackendCreateDescriptor, type, descriptor);
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnBackendDestroyDescriptor, descriptor);
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnBackendFinalize, descriptor);
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnBackendSetAttribute, descriptor, name, type, count, values);
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t wanted, int64_t* count, void* values) {
  PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnBackendGetAttribute, descriptor, name, type, wanted, count,
                  values);
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  PARE_CUDNN_CALL(CUDNN_STATUS_NOT_INITIALIZED, cudnnBackendExecute, handle, plan, pack);
}

// The front end names NVRTC for a norm of its own, which nobody asks for here. cuDNN loads NVRTC by itself.
nvrtcResult nvrtcCreateProgram(nvrtcProgram*, const char*, const char*, int, const char* const*, const char* const*) {
  return NVRTC_ERROR_INTERNAL_ERROR;
}
nvrtcResult nvrtcCompileProgram(nvrtcProgram, int, const char* const*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcDestroyProgram(nvrtcProgram*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetCUBIN(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetCUBINSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetProgramLog(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }

}  // extern "C"

#else

namespace pare::cuda {
Status load_cudnn() { return unsupported("this build has no cuDNN (configure with -DPARE_CUDNN=ON)"); }
}  // namespace pare::cuda

#endif
