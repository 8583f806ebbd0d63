#include "frame/frame.h"

#include <thread>

#include "testing.h"

namespace kvbatch::testing {
namespace {

constexpr Codec kCodecs[] = {Codec::kNone, Codec::kLz4, Codec::kZstd};

// What the other side holds after it received `sent`.
Frame Received(const std::shared_ptr<BufferPool>& pool, const Frame& sent) {
  Frame frame(pool);
  EXPECT_THAT(frame.ReserveFor(sent.header()), IsOk());
  const std::string_view payload = sent.payload();
  if (!payload.empty()) {
    std::memcpy(frame.payload_buffer(), payload.data(), payload.size());
  }
  return frame;
}

TEST(Frame, ComesBackAsItWasSent) {
  const auto pool = BufferPool::Create(32 << 20);
  Random random(11);
  for (const Codec codec : kCodecs) {
    for (const size_t size : {0, 1, 12, 100, 1 << 20}) {
      for (const std::string& raw : {Repetitive(size), RandomBytes(random, size)}) {
        const Frame sent = FrameOf(pool, raw, 7, codec);
        EXPECT_EQ(sent.header().raw_length, size);
        EXPECT_EQ(sent.header().entries, 7U);
        Frame received = Received(pool, sent);
        for (int times = 0; times < 2; ++times) {
          const auto opened = received.OpenRaw();
          ASSERT_THAT(opened, IsOk());
          EXPECT_EQ(opened.value(), raw);
        }
      }
    }
  }
}

TEST(Frame, ALargeEntryTakesAllOfItsMemoryAtOnce) {
  const auto pool = BufferPool::Create(64 << 20);
  constexpr size_t kMiB = 1 << 20;
  Frame sent(pool);
  for (const Codec codec : kCodecs) {
    EXPECT_THAT(sent.ReserveLarge(4 * kMiB, codec), IsOk());
    EXPECT_EQ(pool->leased_bytes(), 12 * kMiB);
    EXPECT_EQ(sent.raw_capacity(), 4 * kMiB);
  }
  // An ordinary batch does not keep it.
  EXPECT_THAT(sent.Reserve(kMiB, Codec::kNone), IsOk());
  EXPECT_EQ(pool->leased_bytes(), kMiB);
  sent.Release();

  FrameHeader header;
  header.type = FrameType::kData;
  header.raw_length = header.payload_length = 4 * kMiB;
  header.entries = 1;
  const auto its_pool = BufferPool::Create(64 << 20);
  Frame received(its_pool);
  EXPECT_THAT(received.ReserveFor(header), IsOk());
  EXPECT_EQ(its_pool->leased_bytes(), 12 * kMiB);
  received.DropPayload();
  EXPECT_EQ(its_pool->leased_bytes(), 12 * kMiB);
  EXPECT_TRUE(received.payload().empty());
  header.entries = 2;
  EXPECT_THAT(received.ReserveFor(header), IsOk());
  EXPECT_EQ(its_pool->leased_bytes(), 4 * kMiB);
}

TEST(Frame, CompressesWhereThatMakesItSmaller) {
  const auto pool = BufferPool::Create(32 << 20);
  for (const Codec codec : {Codec::kLz4, Codec::kZstd}) {
    const Frame frame = FrameOf(pool, Repetitive(10'000), 1, codec);
    EXPECT_EQ(frame.header().codec, codec);
    EXPECT_LT(frame.header().payload_length, 1000U);
    EXPECT_EQ(frame.payload().size(), frame.header().payload_length);
  }
}

TEST(Frame, StaysAsItIsWhereCompressionDoesNotShrinkIt) {
  const auto pool = BufferPool::Create(32 << 20);
  Random random(12);
  const std::string noise = RandomBytes(random, 10'000);
  for (const Codec codec : {Codec::kLz4, Codec::kZstd}) {
    const Frame frame = FrameOf(pool, noise, 1, codec);
    EXPECT_EQ(frame.header().codec, Codec::kNone);
    EXPECT_EQ(frame.header().payload_length, noise.size());
    EXPECT_EQ(frame.payload(), noise);
  }
}

TEST(Frame, AnEmptyPayloadIsNotCompressed) {
  const auto pool = BufferPool::Create(1 << 20);
  const Frame frame = FrameOf(pool, "", 0, Codec::kLz4);
  EXPECT_EQ(frame.header().codec, Codec::kNone);
  EXPECT_TRUE(frame.payload().empty());
}

TEST(Frame, TheSenderStillReadsItsRawBytesAfterCompressing) {
  const auto pool = BufferPool::Create(1 << 20);
  const std::string raw = Repetitive(5000);
  Frame frame = FrameOf(pool, raw, 1, Codec::kZstd);
  const auto opened = frame.OpenRaw();
  ASSERT_THAT(opened, IsOk());
  EXPECT_EQ(opened.value(), raw);
}

TEST(Frame, ReserveStartsOverAndKeepsTheBuffer) {
  const auto pool = BufferPool::Create(8 << 20);
  Frame frame = FrameOf(pool, Repetitive(100'000), 9, Codec::kLz4);
  frame.header().job = 1;
  const char* const memory = frame.raw();
  ASSERT_THAT(frame.Reserve(50'000, Codec::kLz4), IsOk());
  EXPECT_EQ(frame.header(), FrameHeader());
  EXPECT_EQ(frame.raw(), memory);
  EXPECT_EQ(frame.raw_capacity(), 50'000U);
  const std::string raw = Repetitive(50'000);
  std::memcpy(frame.raw(), raw.data(), raw.size());
  frame.SetRaw(raw.size(), 1);
  frame.Compress(Codec::kLz4);
  Frame received = Received(pool, frame);
  EXPECT_EQ(Must(received.OpenRaw()), raw);
}

TEST(Frame, ReserveGivesTheOldBufferBackFirst) {
  const auto pool = BufferPool::Create(3 << 20);
  Frame frame(pool);
  ASSERT_THAT(frame.Reserve(2 << 20, Codec::kNone), IsOk());
  // Would wait for itself if it held on to the two MiB.
  ASSERT_THAT(frame.Reserve(3 << 20, Codec::kNone), IsOk());
  EXPECT_EQ(pool->leased_bytes(), size_t{3} << 20);
}

TEST(Frame, ACompressedFrameTakesOneLeaseForBothForms) {
  const auto pool = BufferPool::Create(4 << 20);
  FrameHeader header;
  header.codec = Codec::kLz4;
  header.raw_length = 2 << 20;
  header.payload_length = 1 << 20;
  Frame frame(pool);
  ASSERT_THAT(frame.ReserveFor(header), IsOk());
  EXPECT_EQ(pool->leased_bytes(), size_t{3} << 20);
  frame.Release();
  EXPECT_EQ(pool->leased_bytes(), 0U);
}

TEST(Frame, AWrongRawLengthIsCorruption) {
  const auto pool = BufferPool::Create(1 << 20);
  for (const Codec codec : {Codec::kLz4, Codec::kZstd}) {
    Frame sent = FrameOf(pool, Repetitive(1000), 1, codec);
    for (const uint64_t length : {uint64_t{0}, uint64_t{999}, uint64_t{1001}}) {
      sent.header().raw_length = length;
      Frame received = Received(pool, sent);
      EXPECT_THAT(received.OpenRaw(), Fails(Code::kCorruption)) << length;
      EXPECT_THAT(received.OpenRaw(), Fails(Code::kCorruption)) << "it stays so";
    }
  }
}

TEST(Frame, MoreThanThePoolHasIsRefused) {
  const auto pool = BufferPool::Create(1 << 20);
  Frame frame(pool);
  EXPECT_THAT(frame.Reserve((1 << 20) + 1, Codec::kNone), Fails(Code::kUsage));
  EXPECT_THAT(frame.Reserve((1 << 19) + 1, Codec::kLz4), Fails(Code::kUsage)) << "twice the room";
  EXPECT_THAT(frame.Reserve(~size_t{0}, Codec::kLz4), Fails(Code::kUsage));
  EXPECT_THAT(frame.Reserve(size_t{1} << 63, Codec::kLz4), Fails(Code::kUsage)) << "twice that is 0";
}

TEST(Frame, HasNoPayloadAfterARefusal) {
  const auto pool = BufferPool::Create(1 << 20);
  Frame sender = FrameOf(pool, "payload", 1);
  EXPECT_THAT(sender.Reserve(2 << 20, Codec::kNone), Fails(Code::kUsage));
  EXPECT_EQ(sender.payload().size(), 0U);

  Frame receiver = FrameOf(pool, "payload", 1);
  FrameHeader header;
  header.raw_length = 2 << 20;
  header.payload_length = 2 << 20;
  EXPECT_THAT(receiver.ReserveFor(header), Fails(Code::kUsage));
  EXPECT_EQ(receiver.payload().size(), 0U);
}

TEST(Frame, ReleasedItIsEmpty) {
  const auto pool = BufferPool::Create(1 << 20);
  Frame frame = FrameOf(pool, "payload", 1);
  frame.Release();
  EXPECT_EQ(frame.header(), FrameHeader());
  EXPECT_TRUE(frame.payload().empty());
  EXPECT_THAT(frame.OpenRaw(), IsOk());
  EXPECT_EQ(pool->leased_bytes(), 0U);
}

TEST(Frame, AClosedPoolEndsTheWait) {
  const auto pool = BufferPool::Create(1 << 20);
  Frame holder(pool);
  ASSERT_THAT(holder.Reserve(1 << 20, Codec::kNone), IsOk());
  std::thread waiter([&] {
    Frame frame(pool);
    EXPECT_THAT(frame.Reserve(1000, Codec::kNone), Fails(Code::kClosed));
  });
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 1; }));
  pool->Close();
  waiter.join();
}

}  // namespace
}  // namespace kvbatch::testing
