#include "base/checksum.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "testing.h"

namespace kvbatch::testing {
namespace {

TEST(Crc32c, HasTheVectorsOfRfc3720) {
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  std::string ascending(32, '\0');
  std::iota(ascending.begin(), ascending.end(), '\0');
  EXPECT_EQ(Crc32c(ascending), 0x46dd794eU);
  std::reverse(ascending.begin(), ascending.end());
  EXPECT_EQ(Crc32c(ascending), 0x113fdb5cU);
  EXPECT_EQ(Crc32c(FromHex("01c00000000000000000000000000000 14000000000004000000001400000018"
                           "28000000000000000200000000000000")),
            0xd9963a56U);
}

TEST(Crc32c, HasTheCheckValueOfTheCatalogue) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(Crc32c(""), 0U);
  EXPECT_EQ(Crc32c(std::string_view()), 0U);
}

TEST(Crc32c, EqualsTheBitwiseDefinitionAtEveryLengthAndAlignment) {
  Random random(1);
  const std::string bytes = RandomBytes(random, 600);
  for (size_t offset = 0; offset < 9; ++offset) {
    for (size_t size = 0; size < 550; size += offset + 1) {
      const std::string_view part = std::string_view(bytes).substr(offset, size);
      uint32_t state = ~0U;
      for (const char byte : part) {
        state ^= static_cast<uint8_t>(byte);
        for (int bit = 0; bit < 8; ++bit) {
          state = (state >> 1) ^ ((state & 1) != 0 ? 0x82f63b78U : 0U);
        }
      }
      ASSERT_EQ(Crc32c(part), ~state) << "offset " << offset << ", size " << size;
    }
  }
}

TEST(CombineCrc32c, IsThatOfBothPartsWhereverTheyWereCut) {
  Random random(3);
  for (const size_t size : {1, 2, 3, 31, 4096, 100'000}) {
    const std::string bytes = RandomBytes(random, size);
    const std::string_view all = bytes;
    for (int i = 0; i < 50; ++i) {
      const size_t cut = random() % (size + 1);
      const std::string_view second = all.substr(cut);
      ASSERT_EQ(CombineCrc32c(Crc32c(all.substr(0, cut)), Crc32c(second), second.size()), Crc32c(all))
          << size << " bytes, cut at " << cut;
    }
  }
}

TEST(CombineCrc32c, ManyPartsCombineInTheirOrder) {
  Random random(4);
  const std::string bytes = RandomBytes(random, 50'000);
  uint32_t crc = 0;
  for (size_t offset = 0; offset < bytes.size();) {
    const std::string_view part = std::string_view(bytes).substr(offset, random() % 3000);
    crc = CombineCrc32c(crc, Crc32c(part), part.size());
    offset += part.size();
  }
  EXPECT_EQ(crc, Crc32c(bytes));
}

TEST(CombineCrc32c, APartWithoutBytesChangesNothing) {
  const uint32_t crc = Crc32c("123456789");
  EXPECT_EQ(CombineCrc32c(crc, Crc32c(""), 0), crc);
  EXPECT_EQ(CombineCrc32c(Crc32c(""), crc, 9), crc);
  EXPECT_EQ(CombineCrc32c(0, 0, 0), 0U);
}

// As long as no test could read: 2^n zeroes behind a byte, doubled from one.
TEST(CombineCrc32c, LengthsOfAllBitsCount) {
  uint32_t zeroes = Crc32c(std::string(1, '\0'));
  uint32_t appended = Crc32c(std::string("k\0", 2));
  for (int bit = 0; bit < 63; ++bit) {
    const uint64_t length = uint64_t{1} << bit;
    ASSERT_EQ(CombineCrc32c(Crc32c("k"), zeroes, length), appended) << length;
    appended = CombineCrc32c(appended, zeroes, length);
    zeroes = CombineCrc32c(zeroes, zeroes, length);
  }
}

// Cursors and fingerprints keep digests: these values are frozen.
TEST(Digest, HasTheFrozenValues) {
  EXPECT_EQ(Xxh3("").Hex(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(Xxh3Short(""), 0x2d06800538d394c2U);
  EXPECT_EQ(Xxh3("kvbatch").Hex(), "847559f5d1d09f901d00588a9e38c40e");
  EXPECT_EQ(EntryDigest("key", "value", 0).Hex(), "e84582f5c8fe2c1351ad8f295ea71283");
  EXPECT_EQ(EntryDigest("key", "value", 1).Hex(), "29a11b074a9766cf193fb428adce1535");
  EXPECT_EQ(ChainDigest(Digest(), "batch").Hex(), "c0afc89d6da3b04faaf32f32a9b9f9f8");
  EXPECT_EQ(ChainDigest(ChainDigest(Digest(), "batch"), "next").Hex(), "9405181058d5054cf0a46178d9890f27");
}

TEST(Digest, HexAndBytesAreTheSameBytes) {
  const Digest digest = Xxh3("some bytes");
  const auto bytes = digest.Bytes();
  EXPECT_EQ(ToHex({bytes.data(), bytes.size()}), digest.Hex());
  EXPECT_EQ(Digest::FromBytes(bytes.data()), digest);
  const Digest small{1, 2};
  EXPECT_EQ(small.Hex(), "00000000000000020000000000000001");
}

TEST(Digest, SumCarriesIntoTheHighHalf) {
  Digest sum{~uint64_t{0}, 5};
  sum += Digest{1, 0};
  EXPECT_EQ(sum, (Digest{0, 6}));
  sum += Digest{~uint64_t{0}, ~uint64_t{0}};
  EXPECT_EQ(sum, (Digest{~uint64_t{0}, 5}));
}

TEST(Digest, SumDoesNotDependOnOrderOrGrouping) {
  Random random(2);
  std::vector<Digest> digests;
  for (int i = 0; i < 100; ++i) {
    digests.push_back(EntryDigest(RandomBytes(random, 16), RandomBytes(random, 50), 0));
  }
  Digest forward;
  for (const Digest& digest : digests) {
    forward += digest;
  }
  std::shuffle(digests.begin(), digests.end(), random);
  Digest left;
  Digest right;
  for (size_t i = 0; i < digests.size(); ++i) {
    (i < 37 ? left : right) += digests[i];
  }
  left += right;
  EXPECT_EQ(left, forward);
}

TEST(EntryDigest, KnowsWhereTheKeyEnds) {
  EXPECT_NE(EntryDigest("ab", "c", 0), EntryDigest("a", "bc", 0));
  EXPECT_NE(EntryDigest("abc", "", 0), EntryDigest("", "abc", 0));
}

TEST(EntryDigest, KnowsEntitiesFromPlainValues) { EXPECT_NE(EntryDigest("a", "b", 0), EntryDigest("a", "b", 1)); }

TEST(ChainDigest, DependsOnTheOrderOfTheBatches) {
  const Digest start;
  EXPECT_NE(ChainDigest(ChainDigest(start, "a"), "b"), ChainDigest(ChainDigest(start, "b"), "a"));
  EXPECT_NE(ChainDigest(start, "ab"), ChainDigest(ChainDigest(start, "a"), "b"));
}

}  // namespace
}  // namespace kvbatch::testing
