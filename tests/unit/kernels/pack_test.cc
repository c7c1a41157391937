#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "kernels/packed_row.h"
#include "linear_fixture.h"

namespace pare {
namespace {

struct Golden {
  DType dtype;
  std::string hex;
  uint64_t hash;
};
const Golden kGolden[] = {
#include "pack_golden.inc"
};

uint64_t fnv1a(const void* data, size_t bytes) {
  uint64_t h = 0xcbf29ce484222325;
  for (size_t i = 0; i < bytes; ++i) h = (h ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  return h;
}

std::vector<std::byte> from_hex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST(Pack, UnpackedRowsEqualAnIndependentDequantization) {
  ASSERT_EQ(std::size(kGolden), std::size(kBlockTypes));
  for (const Golden& golden : kGolden) {
    // The golden row as each row of a tile, among random others.
    Philox rng(7);
    const std::vector<std::byte> row = from_hex(golden.hex);
    constexpr int64_t kRows = 35, kColumns = 512;
    for (const int64_t at : {0, 1, 8, 15, 16, 34}) {
      std::vector<std::byte> source = random_weight(golden.dtype, kRows, kColumns, rng);
      std::copy(row.begin(), row.end(), source.begin() + at * static_cast<int64_t>(row.size()));
      const TestWeight w(golden.dtype, kRows, kColumns, source);
      std::vector<float> out(kColumns);
      unpack_weight_row(w.packed, at, out.data());
      EXPECT_EQ(fnv1a(out.data(), kColumns * 4), golden.hash) << dtype_name(golden.dtype) << " row " << at;
    }
  }
}

TEST(Pack, PlainFloatsKeepTheirBits) {
  Philox rng(8);
  for (const DType t : kFloatTypes) {
    const int64_t n = 19, k = 37;
    const std::vector<std::byte> source = random_weight(t, n, k, rng);
    const TestWeight w(t, n, k, source);
    const size_t item = dtype_info(t).block_bytes;
    for (int64_t r = 0; r < n; ++r) {
      std::vector<float> out(static_cast<size_t>(k));
      unpack_weight_row(w.packed, r, out.data());
      for (int64_t i = 0; i < k; ++i) {
        uint32_t bits = 0;
        std::memcpy(&bits, &source[static_cast<size_t>(r * k + i) * item], item);
        float expected = std::bit_cast<float>(item == 4 ? bits : bits << 16);
        if (t == DType::F16) {  // normal numbers only: see random_half
          expected = std::bit_cast<float>((bits & 0x8000) << 16 | (((bits & 0x7FFF) << 13) + (112u << 23)));
        }
        ASSERT_EQ(out[static_cast<size_t>(i)], expected);
      }
    }
  }
}

TEST(Pack, SpecialHalfScalesKeepTheirMeaning) {
  // +0, -0, the smallest and largest subnormal, smallest normal, largest, infinities, NaN.
  const std::pair<uint16_t, float> cases[] = {{0x0000, 0.0f},          {0x8000, -0.0f},    {0x0001, 0x1p-24f},
                                              {0x83FF, -0x1.FF8p-15f}, {0x0400, 0x1p-14f}, {0x7BFF, 65504.0f},
                                              {0x7C00, INFINITY},      {0xFC00, -INFINITY}};
  for (const auto& [bits, value] : cases) {
    std::vector<std::byte> source(18, std::byte{0x99});  // Q4_0, every weight d * (9 - 8)
    std::memcpy(source.data(), &bits, 2);
    const TestWeight w(DType::Q4_0, 1, 32, source);
    float out[32];
    unpack_weight_row(w.packed, 0, out);
    EXPECT_EQ(std::bit_cast<uint32_t>(out[5]), std::bit_cast<uint32_t>(value));
  }
}

TEST(Pack, TilesAreIndependentAndDeterministic) {
  Philox rng(9);
  for (const DType t : kBlockTypes) {
    const int64_t n = 50, k = 256;
    const std::vector<std::byte> source = random_weight(t, n, k, rng);
    const TestWeight whole(t, n, k, source);
    AlignedBuffer parts = AlignedBuffer::allocate(whole.buffer.size()).value();
    std::fill_n(parts.data(), parts.size(), std::byte{0xEE});  // packing must not rely on zeroed memory
    for (const int64_t tile : {2, 0, 3, 1}) pack_weight_tiles(t, source.data(), n, k, tile, tile + 1, parts.data());
    EXPECT_EQ(std::memcmp(parts.data(), whole.buffer.data(), parts.size()), 0) << dtype_name(t);
  }
}

TEST(Pack, BytesStayNearTheSource) {
  for (const DType t : kBlockTypes) {
    const int64_t n = 1024, k = 2048;
    const double source = static_cast<double>(n * k / dtype_info(t).block_items * dtype_info(t).block_bytes);
    const double ratio = static_cast<double>(packed_weight_bytes(t, n, k)) / source;
    EXPECT_GE(ratio, 1.0) << dtype_name(t);
    EXPECT_LE(ratio, t == DType::Q3_K ? 1.06 : 1.03) << dtype_name(t);
  }
}

TEST(Pack, ImpossibleShapesHaveNoBytes) {
  EXPECT_EQ(packed_weight_bytes(DType::Q4_0, 16, 33), 0u);
  EXPECT_EQ(packed_weight_bytes(DType::Q4_K, 16, 128), 0u);
  EXPECT_EQ(packed_weight_bytes(DType::I8, 16, 32), 0u);
  EXPECT_EQ(packed_weight_bytes(DType::Q4_0, 0, 32), 0u);
  EXPECT_EQ(packed_weight_bytes(DType::Q4_0, 16, -32), 0u);
  EXPECT_EQ(packed_weight_bytes(DType::F32, int64_t{1} << 40, int64_t{1} << 40), 0u);
  EXPECT_EQ(packed_weight_bytes(DType::F32, INT64_MAX, 1), 0u);
  EXPECT_EQ(packed_weight_bytes(DType::F16, 17, 3), 2u * 16 * 3 * 2);
}

}  // namespace
}  // namespace pare
