// Block codecs against recordings of the gguf package (tools/record_dequant_golden.py).
#include "quant/blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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

// Weighted-normal rows as real weights have them, with a few outliers.
std::vector<float> weights_like(uint32_t seed, size_t n) {
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  const auto uniform = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(state >> 40) * 0x1p-24f;
  };
  std::vector<float> values(n);
  for (float& value : values) {
    float sum = -6.0f;
    for (int i = 0; i < 12; ++i) sum += uniform();
    value = sum * 0.02f * (uniform() < 0.01f ? 4.0f : 1.0f);
  }
  return values;
}

double squared_error(DType dtype, std::span<const float> values) {
  std::vector<std::byte> bytes(*dtype_bytes(dtype, values.size()));
  EXPECT_TRUE(quantize_row(dtype, values, bytes).ok());
  std::vector<float> back(values.size());
  EXPECT_TRUE(dequantize_row(dtype, bytes, back).ok());
  double error = 0.0;
  for (size_t i = 0; i < values.size(); ++i) error += std::pow(double{values[i]} - back[i], 2);
  return error;
}

// The error of a plain grid over each group's range, with scales that cost nothing: what a search must beat
// even though its own scales have 6 or 8 bits.
double plain_error(std::span<const float> values, size_t group, bool affine, float levels) {
  double error = 0.0;
  for (size_t at = 0; at < values.size(); at += group) {
    const auto part = values.subspan(at, group);
    const auto [low, high] = std::minmax_element(part.begin(), part.end());
    const float largest = std::max(std::abs(*low), std::abs(*high));
    const float offset = affine ? std::min(*low, 0.0f) : 0.0f;
    const float step = affine ? (*high - offset) / levels : largest / levels;
    for (const float value : part) {
      const float back = step == 0.0f ? offset : std::round((value - offset) / step) * step + offset;
      error += std::pow(double{value} - back, 2);
    }
  }
  return error;
}

TEST(KQuants, TheSearchBeatsPlainMinMax) {
  for (uint32_t seed = 1; seed <= 8; ++seed) {
    const std::vector<float> values = weights_like(seed, 64 * 256);
    EXPECT_LT(squared_error(DType::Q4_K, values), 0.95 * plain_error(values, 32, true, 15.0f)) << seed;
    EXPECT_LT(squared_error(DType::Q6_K, values), plain_error(values, 16, false, 31.0f)) << seed;
    EXPECT_LT(squared_error(DType::Q4_K, values), 0.75 * squared_error(DType::Q4_0, values)) << seed;
    EXPECT_LT(squared_error(DType::Q6_K, values), 0.1 * squared_error(DType::Q4_K, values)) << seed;
  }
}

TEST(KQuants, EdgesComeBack) {
  for (const DType dtype : {DType::Q4_K, DType::Q6_K}) {
    for (const float value : {0.0f, 1.0f, -1.0f, 1e-30f, -3e4f, 6e4f}) {
      const std::vector<float> row(256, value);
      EXPECT_LE(squared_error(dtype, row), 256 * std::pow(0.01 * double{value} + 1e-6, 2))
          << dtype_name(dtype) << " " << value;
    }
    std::vector<float> lone(256, 0.0f);
    lone[17] = -5.0f;
    EXPECT_LE(squared_error(dtype, lone), 0.01);
  }
}

TEST(Blocks, SizesTypesAndValuesAreChecked) {
  std::vector<float> row(256, 1.0f);
  std::vector<std::byte> bytes(144);
  EXPECT_TRUE(quantize_row(DType::Q4_K, row, bytes).ok());
  EXPECT_THAT(quantize_row(DType::Q4_K, row, std::span(bytes).first(143)).message(),
              HasSubstr("are 144 bytes, not 143"));
  EXPECT_THAT(dequantize_row(DType::Q4_K, bytes, std::span(row).first(255)).message(), HasSubstr("block of 256"));
  EXPECT_THAT(quantize_row(DType::IQ4_XS, row, bytes).message(), HasSubstr("IQ4_XS cannot be written"));
  EXPECT_THAT(dequantize_row(DType::I32, bytes, std::span(row).first(36)).message(), HasSubstr("I32"));
  EXPECT_TRUE(dequantize_row(DType::Q8_0, {}, {}).ok());
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e9f}) {
    row[3] = bad;
    EXPECT_THAT(quantize_row(DType::Q4_K, row, bytes).message(), HasSubstr("element 3")) << bad;
  }
}

}  // namespace
}  // namespace pare
