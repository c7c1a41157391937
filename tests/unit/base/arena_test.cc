#include "base/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace pare {
namespace {

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

TEST(AlignedBuffer, IsAlignedZeroedAndWritable) {
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{4097}, (size_t{2} << 20) + 5, (size_t{4} << 20)}) {
    Expected<AlignedBuffer> buffer = AlignedBuffer::allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(buffer->size(), bytes);
    EXPECT_TRUE(aligned(buffer->data()));
    EXPECT_TRUE(std::all_of(buffer->data(), buffer->data() + bytes, [](std::byte b) { return b == std::byte{0}; }));
    std::fill_n(buffer->data(), bytes, std::byte{1});
  }
}

TEST(AlignedBuffer, ZeroBytesIsEmpty) {
  Expected<AlignedBuffer> buffer = AlignedBuffer::allocate(0);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data(), nullptr);
}

TEST(AlignedBuffer, ImpossibleSizesAreErrors) {
  for (const size_t bytes :
       {std::numeric_limits<size_t>::max(), std::numeric_limits<size_t>::max() - 4096, size_t{1} << 60}) {
    const Expected<AlignedBuffer> buffer = AlignedBuffer::allocate(bytes);
    ASSERT_FALSE(buffer.ok());
    EXPECT_EQ(buffer.status().code(), StatusCode::kResourceExhausted);
    EXPECT_NE(buffer.status().message().find(std::to_string(bytes)), std::string_view::npos);
  }
}

TEST(AlignedBuffer, MovesOwnership) {
  AlignedBuffer a = AlignedBuffer::allocate(100).value();
  std::byte* p = a.data();
  AlignedBuffer b = std::move(a);
  EXPECT_EQ(b.data(), p);
  AlignedBuffer c = AlignedBuffer::allocate(200).value();
  c = std::move(b);
  EXPECT_EQ(c.data(), p);
  EXPECT_EQ(c.size(), 100u);
}

TEST(Arena, TakesAlignedDisjointBlocksUntilFull) {
  Arena arena(AlignedBuffer::allocate(256).value());
  const auto a = arena.take<float>(3);
  const auto b = arena.take<int16_t>(1);
  ASSERT_EQ(a.size(), 3u);
  ASSERT_EQ(b.size(), 1u);
  EXPECT_TRUE(aligned(a.data()) && aligned(b.data()));
  EXPECT_EQ(reinterpret_cast<std::byte*>(b.data()) - reinterpret_cast<std::byte*>(a.data()), 64);
  EXPECT_EQ(arena.take<std::byte>(129).size(), 0u);
  EXPECT_EQ(arena.take<std::byte>(128).size(), 128u);
  EXPECT_EQ(arena.take<std::byte>(1).size(), 0u);
  EXPECT_EQ(arena.used(), 256u);
}

TEST(Arena, LastBlockMayUseTheUnroundedEnd) {
  Arena arena(AlignedBuffer::allocate(70).value());
  EXPECT_EQ(arena.take<std::byte>(64).size(), 64u);
  EXPECT_EQ(arena.take<std::byte>(6).size(), 6u);
  EXPECT_EQ(arena.used(), 70u);
}

TEST(Arena, ReleasesToAMarkAndKeepsThePeak) {
  Arena arena(AlignedBuffer::allocate(1024).value());
  arena.take<std::byte>(64);
  const size_t mark = arena.mark();
  arena.take<std::byte>(640);
  arena.release(mark);
  EXPECT_EQ(arena.used(), 64u);
  EXPECT_EQ(arena.peak(), 704u);
  arena.reset();
  EXPECT_EQ(arena.take<std::byte>(1024).size(), 1024u);
}

}  // namespace
}  // namespace pare
