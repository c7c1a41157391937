// Tensor: a typed, shaped view of memory on one device. It owns nothing; who made the bytes says how long they live.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "base/check.h"
#include "tensor/dtype.h"

namespace pare {

enum class DeviceKind : uint8_t { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int8_t index = 0;
  bool operator==(const Device&) const = default;
};

// Contiguous, row-major, outermost dimension first; rank 1..4. Plain value, 64 bytes.
struct Tensor {
  void* data = nullptr;
  std::array<int64_t, 4> shape = {0, 1, 1, 1};
  int32_t rank = 0;
  DType dtype = DType::F32;
  Device device;

  Tensor() = default;
  Tensor(void* bytes, DType type, std::initializer_list<int64_t> dims, Device where = {})
      : data(bytes), rank(static_cast<int32_t>(dims.size())), dtype(type), device(where) {
    PARE_CHECK(rank >= 1 && rank <= 4);
    int i = 0;
    for (int64_t d : dims) shape[i++] = d;
  }

  int64_t items() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
  int64_t rows() const { return shape[0]; }
  int64_t row_items() const { return shape[1] * shape[2] * shape[3]; }

  // The elements as T; checks that T has the dtype's size.
  template <typename T>
  T* as() const {
    PARE_CHECK(dtype_info(dtype).block_items == 1 && dtype_info(dtype).block_bytes == sizeof(T));
    return static_cast<T*>(data);
  }
};

}  // namespace pare
