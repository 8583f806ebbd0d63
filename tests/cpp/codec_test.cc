#include "codec/codec.h"

#include <thread>
#include <vector>

#include "testing.h"

namespace kvbatch::testing {
namespace {

class CompressingCodec : public ::testing::TestWithParam<Codec> {
 protected:
  static std::string Compressed(const std::string& raw) {
    std::string out(CompressBound(GetParam(), raw.size()), '\0');
    out.resize(Compress(GetParam(), raw, out.data(), out.size()));
    return out;
  }
};

INSTANTIATE_TEST_SUITE_P(Codecs, CompressingCodec, ::testing::Values(Codec::kLz4, Codec::kZstd),
                         [](const auto& instance) { return std::string(CodecName(instance.param)); });

TEST(Codec, HasItsNamesAndNumbers) {
  EXPECT_STREQ(CodecName(Codec::kNone), "none");
  EXPECT_STREQ(CodecName(Codec::kLz4), "lz4");
  EXPECT_STREQ(CodecName(Codec::kZstd), "zstd");
  for (int value = 0; value < 256; ++value) {
    EXPECT_EQ(IsKnownCodec(static_cast<uint8_t>(value)), value <= 2) << value;
  }
}

TEST(Codec, NoneNeverCompressesAndCopiesBack) {
  char out[10] = {};
  EXPECT_EQ(Compress(Codec::kNone, "abc", out, sizeof(out)), 0U);
  EXPECT_THAT(Decompress(Codec::kNone, "abc", out, 3), IsOk());
  EXPECT_STREQ(out, "abc");
  EXPECT_THAT(Decompress(Codec::kNone, "abc", out, 2), Fails(Code::kCorruption));
  EXPECT_THAT(Decompress(Codec::kNone, "abc", out, 4), Fails(Code::kCorruption));
  EXPECT_THAT(Decompress(Codec::kNone, "", out, 0), IsOk());
  EXPECT_EQ(CompressBound(Codec::kNone, 77), 77U);
}

TEST_P(CompressingCodec, RoundTripsAnySize) {
  Random random(7);
  for (const size_t size : {0, 1, 13, 100, 65535, 65536, 1 << 20}) {
    for (const std::string& raw : {Repetitive(size), RandomBytes(random, size)}) {
      const std::string compressed = Compressed(raw);
      ASSERT_FALSE(compressed.empty()) << size;
      std::string out(size, '\0');
      ASSERT_THAT(Decompress(GetParam(), compressed, out.data(), size), IsOk());
      EXPECT_EQ(out, raw);
    }
  }
}

TEST_P(CompressingCodec, ShrinksText) { EXPECT_LT(Compressed(Repetitive(100'000)).size(), 10'000U); }

TEST_P(CompressingCodec, WhatDoesNotFitIsZero) {
  Random random(8);
  const std::string noise = RandomBytes(random, 1000);
  GuardedMemory memory(1000);
  for (const size_t capacity : {0, 1, 500, 999}) {
    EXPECT_EQ(Compress(GetParam(), noise, memory.Tail(capacity), capacity), 0U) << capacity;
  }
  const std::string text = Repetitive(1000);
  const size_t size = Compressed(text).size();
  EXPECT_EQ(Compress(GetParam(), text, memory.Tail(size / 2), size / 2), 0U);
}

TEST_P(CompressingCodec, AnotherRawSizeIsCorruption) {
  const std::string raw = Repetitive(5000);
  const std::string compressed = Compressed(raw);
  GuardedMemory memory(8192);
  for (const size_t size : {0, 1, 4999, 5001, 8192}) {
    EXPECT_THAT(Decompress(GetParam(), compressed, memory.Tail(size), size), Fails(Code::kCorruption)) << size;
  }
  EXPECT_THAT(Decompress(GetParam(), compressed, memory.Tail(5000), 5000), IsOk());
}

TEST_P(CompressingCodec, TheCorruptionNamesTheSizesAndTheCodec) {
  char out[7];
  EXPECT_THAT(Decompress(GetParam(), "garbage", out, sizeof(out)),
              Fails(Code::kCorruption, std::string("7 bytes is not 7 bytes compressed with ") + CodecName(GetParam())));
}

TEST_P(CompressingCodec, EveryTruncationIsCorruption) {
  const std::string compressed = Compressed(Repetitive(3000));
  GuardedMemory in(compressed.size());
  std::string out(3000, '\0');
  for (size_t size = 0; size < compressed.size(); ++size) {
    EXPECT_THAT(Decompress(GetParam(), in.Place(std::string_view(compressed).substr(0, size)), out.data(), out.size()),
                Fails(Code::kCorruption))
        << size;
  }
}

TEST_P(CompressingCodec, FlippedBitsNeverWritePastTheRawSize) {
  Random random(9);
  const std::string raw = Repetitive(2000) + RandomBytes(random, 500);
  const std::string compressed = Compressed(raw);
  GuardedMemory in(compressed.size());
  GuardedMemory out(raw.size());
  for (size_t bit = 0; bit < 8 * compressed.size(); ++bit) {
    std::string flipped = compressed;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const Status status = Decompress(GetParam(), in.Place(flipped), out.Tail(raw.size()), raw.size());
    ASSERT_TRUE(status.ok() || status.code() == Code::kCorruption);
  }
}

TEST_P(CompressingCodec, GarbageIsCorruptionOrBytes) {
  Random random(10);
  GuardedMemory in(200);
  GuardedMemory out(500);
  for (int round = 0; round < 20'000; ++round) {
    const size_t size = Below(random, 500);
    const Status status =
        Decompress(GetParam(), in.Place(RandomBytes(random, Below(random, 200))), out.Tail(size), size);
    ASSERT_TRUE(status.ok() || status.code() == Code::kCorruption);
  }
}

TEST_P(CompressingCodec, ThreadsDoNotDisturbEachOther) {
  std::vector<std::thread> threads;
  std::vector<int> right(4);
  for (size_t i = 0; i < right.size(); ++i) {
    threads.emplace_back([i, &right] {
      Random random(100 + i);
      for (int round = 0; round < 50; ++round) {
        const std::string raw = Repetitive(1000 + Below(random, 20'000)) + RandomBytes(random, 100);
        const std::string compressed = Compressed(raw);
        std::string out(raw.size(), '\0');
        right[i] += Decompress(GetParam(), compressed, out.data(), out.size()).ok() && out == raw ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_THAT(right, ::testing::Each(50));
}

TEST(Codec, TooLargeForLz4InOnePieceIsSaid) {
  constexpr size_t kTooLarge = (size_t{2} << 30) + 1;
  EXPECT_EQ(CompressBound(Codec::kLz4, kTooLarge), 0U);
  char out[16];
  EXPECT_THAT(Decompress(Codec::kLz4, std::string_view("x"), out, kTooLarge), Fails(Code::kCorruption));
}

}  // namespace
}  // namespace kvbatch::testing
