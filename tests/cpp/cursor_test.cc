#include "store/cursor.h"

#include "testing.h"

namespace kvbatch::testing {
namespace {

Cursor Sample() {
  Cursor cursor;
  cursor.range = 0x01020304;
  cursor.complete = true;
  cursor.entries = 0x1122334455667788;
  cursor.raw_bytes = 0x99aabbccddeeff00;
  cursor.digest = Digest{0x0706050403020100, 0x0f0e0d0c0b0a0908};
  cursor.last_key = std::string("last\0key", 8);
  return cursor;
}

// "cursor/" and the range; version, complete, entries, raw bytes, digest, last key. Frozen: targets hold such records.
constexpr char kGoldenKey[] =
    "637572736f722f"
    "01020304";
constexpr char kGoldenValue[] =
    "01"
    "01"
    "8877665544332211"
    "00ffeeddccbbaa99"
    "0f0e0d0c0b0a09080706050403020100"
    "6c617374006b6579";

TEST(Cursor, HasTheGoldenBytes) {
  EXPECT_EQ(ToHex(EncodeCursorKey(Sample().range)), kGoldenKey);
  EXPECT_EQ(ToHex(EncodeCursor(Sample())), kGoldenValue);
  EXPECT_EQ(ToHex(EncodeCursor(Cursor())), "0100" + std::string(64, '0'));
}

TEST(Cursor, GoldenBytesDecode) {
  const auto cursor = DecodeCursor(FromHex(kGoldenKey), FromHex(kGoldenValue));
  ASSERT_THAT(cursor, IsOk());
  EXPECT_EQ(cursor.value(), Sample());
}

TEST(Cursor, RoundTrips) {
  Random random(16);
  for (int round = 0; round < 1000; ++round) {
    Cursor cursor;
    cursor.range = static_cast<uint32_t>(random());
    cursor.complete = Below(random, 2) == 1;
    cursor.entries = random();
    cursor.raw_bytes = random();
    cursor.digest = Digest{random(), random()};
    cursor.last_key = RandomBytes(random, Below(random, 100));
    const auto decoded = DecodeCursor(EncodeCursorKey(cursor.range), EncodeCursor(cursor));
    ASSERT_THAT(decoded, IsOk());
    ASSERT_EQ(decoded.value(), cursor);
  }
}

TEST(Cursor, KeysSortByRange) {
  std::string before;
  for (const uint32_t range : {0U, 1U, 255U, 256U, 65536U, 1U << 24, 0xffffffffU}) {
    const std::string key = EncodeCursorKey(range);
    EXPECT_LT(before, key);
    EXPECT_TRUE(key.starts_with(kCursorPrefix));
    before = key;
  }
}

TEST(Cursor, AMalformedKeyIsCorruption) {
  const std::string value = EncodeCursor(Sample());
  const std::string key = EncodeCursorKey(1);
  for (const std::string& malformed :
       {std::string(), std::string("job"), std::string(kCursorPrefix), key.substr(0, key.size() - 1), key + "x",
        "Cursor/" + key.substr(7), key.substr(1)}) {
    EXPECT_THAT(DecodeCursor(malformed, value), Fails(Code::kCorruption)) << ToHex(malformed);
  }
}

TEST(Cursor, EveryTruncationOfTheFixedPartIsCorruption) {
  const std::string value = EncodeCursor(Cursor());
  GuardedMemory memory(value.size());
  for (size_t size = 0; size < value.size(); ++size) {
    EXPECT_THAT(DecodeCursor(EncodeCursorKey(1), memory.Place(std::string_view(value).substr(0, size))),
                Fails(Code::kCorruption))
        << size;
  }
  EXPECT_THAT(DecodeCursor(EncodeCursorKey(1), memory.Place(value)), IsOk());
}

TEST(Cursor, WhatEncodeCursorNeverWritesIsCorruption) {
  std::string value = EncodeCursor(Sample());
  for (const int version : {0, 2, 255}) {
    value[0] = static_cast<char>(version);
    EXPECT_THAT(DecodeCursor(EncodeCursorKey(1), value), Fails(Code::kCorruption)) << "version " << version;
  }
  value[0] = 1;
  for (const int complete : {2, 0x80, 255}) {
    value[1] = static_cast<char>(complete);
    EXPECT_THAT(DecodeCursor(EncodeCursorKey(1), value), Fails(Code::kCorruption)) << "complete " << complete;
  }
}

}  // namespace
}  // namespace kvbatch::testing
