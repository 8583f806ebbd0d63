#include "base/coding.h"

#include "testing.h"

namespace kvbatch::testing {
namespace {

std::string Varint(uint32_t value) {
  char bytes[kMaxVarint32Length];
  return {bytes, static_cast<size_t>(EncodeVarint32(bytes, value) - bytes)};
}

constexpr uint32_t kBoundaries[] = {0,        1,         0x7f,       0x80,       0x3fff,     0x4000,     0x1fffff,
                                    0x200000, 0xfffffff, 0x10000000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};

TEST(Varint32, RoundTripsAtTheBoundariesOfItsLengths) {
  for (const uint32_t value : kBoundaries) {
    const std::string bytes = Varint(value);
    EXPECT_EQ(bytes.size(), Varint32Length(value)) << value;
    const std::string followed = bytes + "rest";
    std::string_view input = followed;
    uint32_t decoded = ~value;
    ASSERT_TRUE(ConsumeVarint32(&input, &decoded)) << value;
    EXPECT_EQ(decoded, value);
    EXPECT_EQ(input, "rest");
  }
}

TEST(Varint32, HasTheBytesOfLeb128) {
  EXPECT_EQ(ToHex(Varint(0)), "00");
  EXPECT_EQ(ToHex(Varint(127)), "7f");
  EXPECT_EQ(ToHex(Varint(128)), "8001");
  EXPECT_EQ(ToHex(Varint(300)), "ac02");
  EXPECT_EQ(ToHex(Varint(0xffffffff)), "ffffffff0f");
}

TEST(Varint32, EveryCutIsRefusedAndLeavesTheInput) {
  GuardedMemory memory(kMaxVarint32Length);
  for (const uint32_t value : kBoundaries) {
    const std::string bytes = Varint(value);
    for (size_t size = 0; size < bytes.size(); ++size) {
      const std::string_view cut = memory.Place(std::string_view(bytes).substr(0, size));
      std::string_view input = cut;
      uint32_t decoded = 0;
      EXPECT_FALSE(ConsumeVarint32(&input, &decoded)) << value << " cut to " << size;
      EXPECT_EQ(input.size(), cut.size());
    }
  }
}

TEST(Varint32, WhatDoesNotFit32BitsIsRefused) {
  for (const char* hex :
       {"ffffffff10", "ffffffff7f", "8080808010", "ffffffffff0f", "808080808001", "ffffffffffffffffff01"}) {
    const std::string bytes = FromHex(hex);
    std::string_view input = bytes;
    uint32_t decoded = 0;
    EXPECT_FALSE(ConsumeVarint32(&input, &decoded)) << hex;
    EXPECT_EQ(input, bytes);
  }
}

TEST(Varint32, PaddedWithZerosIsTakenAsRocksdbTakesIt) {
  for (const auto& [hex, value] : {std::pair("8000", 0U), std::pair("ff00", 127U), std::pair("8180808000", 1U)}) {
    const std::string bytes = FromHex(hex);
    std::string_view input = bytes;
    uint32_t decoded = 99;
    ASSERT_TRUE(ConsumeVarint32(&input, &decoded)) << hex;
    EXPECT_EQ(decoded, value);
    EXPECT_TRUE(input.empty());
  }
}

TEST(LengthPrefixed, TakesExactlyItsBytes) {
  const std::string bytes = Varint(3) + "abc" + Varint(0) + "x";
  std::string_view input = bytes;
  std::string_view result;
  ASSERT_TRUE(ConsumeLengthPrefixed(&input, &result));
  EXPECT_EQ(result, "abc");
  ASSERT_TRUE(ConsumeLengthPrefixed(&input, &result));
  EXPECT_EQ(result, "");
  EXPECT_EQ(input, "x");
}

TEST(LengthPrefixed, PastTheEndIsRefusedAndLeavesTheInput) {
  for (const std::string& bytes :
       {Varint(4) + "abc", Varint(0xffffffff) + "abc", Varint(1), std::string(), FromHex("80")}) {
    std::string_view input = bytes;
    std::string_view result = "before";
    EXPECT_FALSE(ConsumeLengthPrefixed(&input, &result)) << ToHex(bytes);
    EXPECT_EQ(input, bytes);
    EXPECT_EQ(result, "before");
  }
}

TEST(Fixed, IsLittleEndian) {
  std::string bytes;
  AppendFixed<uint32_t>(&bytes, 0x01020304);
  AppendFixed<uint64_t>(&bytes, 0x1122334455667788);
  EXPECT_EQ(ToHex(bytes), "040302018877665544332211");
  std::string_view input = bytes;
  uint32_t small = 0;
  uint64_t large = 0;
  ASSERT_TRUE(ConsumeFixed(&input, &small));
  ASSERT_TRUE(ConsumeFixed(&input, &large));
  EXPECT_EQ(small, 0x01020304U);
  EXPECT_EQ(large, 0x1122334455667788U);
  EXPECT_TRUE(input.empty());
}

TEST(Fixed, CutIsRefusedAndLeavesTheInput) {
  GuardedMemory memory(8);
  for (size_t size = 0; size < sizeof(uint64_t); ++size) {
    std::string_view input = memory.Place(std::string(size, 'x'));
    uint64_t value = 7;
    EXPECT_FALSE(ConsumeFixed(&input, &value));
    EXPECT_EQ(input.size(), size);
    EXPECT_EQ(value, 7U);
  }
}

}  // namespace
}  // namespace kvbatch::testing
