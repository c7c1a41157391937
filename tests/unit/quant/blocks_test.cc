// Block codecs against recordings of the gguf package (tools/record_dequant_golden.py).
#include "quant/blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

namespace pare {
namespace {

using ::testing::HasSubstr;

constexpr size_t kElements = 2048;  // of every recording

std::vector<std::byte> read_golden(const std::string& name) {
  std::ifstream file(std::string(PARE_SOURCE_DIR) + "/tests/data/quant/" + name, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

std::vector<float> to_floats(std::span<const std::byte> bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

class DecodeGolden : public testing::TestWithParam<DType> {};

TEST_P(DecodeGolden, BitEqual) {
  const auto golden = read_golden("decode/" + std::string(dtype_name(GetParam())) + ".bin");
  const size_t block_bytes = *dtype_bytes(GetParam(), kElements);
  ASSERT_EQ(golden.size(), block_bytes + kElements * sizeof(float));
  const std::vector<float> wanted = to_floats(std::span(golden).subspan(block_bytes));
  std::vector<float> decoded(kElements);
  const Status status = dequantize_row(GetParam(), std::span(golden).first(block_bytes), decoded);
  ASSERT_TRUE(status.ok()) << status.to_string();
  for (size_t i = 0; i < kElements; ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(decoded[i]), std::bit_cast<uint32_t>(wanted[i]))
        << "element " << i << ": " << decoded[i] << ", wanted " << wanted[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DecodeGolden,
                         testing::Values(DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1,
                                         DType::Q8_0, DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K,
                                         DType::IQ4_NL, DType::IQ4_XS),
                         [](const auto& param) { return std::string(dtype_name(param.param)); });

class EncodeGolden : public testing::TestWithParam<DType> {};

TEST_P(EncodeGolden, BitEqual) {
  const auto golden = read_golden("encode/" + std::string(dtype_name(GetParam())) + ".bin");
  const size_t block_bytes = *dtype_bytes(GetParam(), kElements);
  ASSERT_EQ(golden.size(), block_bytes + kElements * sizeof(float));
  const std::vector<float> values = to_floats(std::span(golden).first(kElements * sizeof(float)));
  std::vector<std::byte> encoded(block_bytes);
  const Status status = quantize_row(GetParam(), values, encoded);
  ASSERT_TRUE(status.ok()) << status.to_string();
  const size_t size = dtype_info(GetParam()).block_bytes;
  for (size_t i = 0; i < block_bytes; ++i) {
    ASSERT_EQ(encoded[i], golden[kElements * sizeof(float) + i]) << "block " << i / size << " byte " << i % size;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, EncodeGolden,
                         testing::Values(DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1,
                                         DType::Q8_0),
                         [](const auto& param) { return std::string(dtype_name(param.param)); });

}  // namespace
}  // namespace pare
