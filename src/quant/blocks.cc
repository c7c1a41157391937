#include "quant/blocks.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "quant/block_layouts.h"
#include "quant/blocks_decode.h"
#include "quant/blocks_encode.h"

namespace pare {
namespace {

Status check_sizes(DType dtype, size_t items, size_t bytes) {
  const auto wanted = dtype_bytes(dtype, items);
  if (wanted && *wanted == bytes) return ok_status();
  if (!wanted) {
    return invalid_argument(fmt::format("{} elements are no multiple of {}'s block of {}", items, dtype_name(dtype),
                                        dtype_info(dtype).block_items));
  }
  return invalid_argument(
      fmt::format("{} elements as {} are {} bytes, not {}", items, dtype_name(dtype), *wanted, bytes));
}

constexpr float kHalfMax = 65'504.0f;

bool is_plain_float(DType dtype) { return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16; }

}  // namespace

bool can_dequantize(DType dtype) { return is_plain_float(dtype) || find_block_decoder(dtype) != nullptr; }

Status dequantize_row(DType dtype, std::span<const std::byte> bytes, std::span<float> out) {
  if (!can_dequantize(dtype)) return invalid_argument(fmt::format("{} elements cannot become fp32", dtype_name(dtype)));
  PARE_RETURN_IF_ERROR(check_sizes(dtype, out.size(), bytes.size()));
  if (out.empty()) return ok_status();
  const std::byte* in = bytes.data();
  if (dtype == DType::F32) {
    std::memcpy(out.data(), in, bytes.size());
  } else if (dtype == DType::F16) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = load_half(in + 2 * i);
  } else if (dtype == DType::BF16) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = bfloat_to_float(load_u16(in + 2 * i));
  } else {
    const BlockDecoder decode = find_block_decoder(dtype);
    const DTypeInfo info = dtype_info(dtype);
    for (size_t i = 0; i < out.size(); i += info.block_items, in += info.block_bytes) decode(in, out.data() + i);
  }
  return ok_status();
}

bool can_quantize(DType dtype) { return is_plain_float(dtype) || find_block_encoder(dtype) != nullptr; }

Status quantize_row(DType dtype, std::span<const float> in, std::span<std::byte> out) {
  if (!can_quantize(dtype)) return invalid_argument(fmt::format("{} cannot be written", dtype_name(dtype)));
  PARE_RETURN_IF_ERROR(check_sizes(dtype, in.size(), out.size()));
  if (in.empty()) return ok_status();
  std::byte* to = out.data();
  if (dtype == DType::F32) {
    std::memcpy(to, in.data(), out.size());
    return ok_status();
  }
  if (is_plain_float(dtype)) {
    for (size_t i = 0; i < in.size(); ++i) {
      const uint16_t bits = dtype == DType::F16 ? float_to_half(in[i]) : float_to_bfloat(in[i]);
      std::memcpy(to + 2 * i, &bits, sizeof(bits));
    }
    return ok_status();
  }
  for (size_t i = 0; i < in.size(); ++i) {
    // Scales and minima are fp16: beyond its range a block would decode to infinities. False for NaN too.
    if (!(std::abs(in[i]) <= kHalfMax)) {
      return invalid_argument(
          fmt::format("element {} is {}; {} holds magnitudes up to {}", i, in[i], dtype_name(dtype), kHalfMax));
    }
  }
  const BlockEncoder encode = find_block_encoder(dtype);
  const DTypeInfo info = dtype_info(dtype);
  for (size_t i = 0; i < in.size(); i += info.block_items, to += info.block_bytes) encode(in.data() + i, to);
  return ok_status();
}

}  // namespace pare
