#include "wire/batch_run.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "store_testing.h"
#include "wire_testing.h"

namespace kvbatch::testing {
namespace {

constexpr size_t kBatchBytes = 2000;

// A range of some thirty batches between a reader and the two ends of a connection.
class BatchRunTest : public ::testing::Test {
 protected:
  BatchRunTest() {
    {
      OwnedStore store(path_);
      for (const auto& [key, value] : entries_) {
        store.Put(key, value);
      }
      store.Flush();
    }
    store_ = OpenSource(path_);
    reader_.emplace(store_, Must(store_->Family("default")), RangeBounds{}, 0, Digest());
  }

  // Packs the first batch, which the caller of SendRun always has done and recorded.
  void PackFirst() {
    const FillResult first = Must(reader_->Fill(&frame_, kBatchBytes, Codec::kNone));
    ASSERT_EQ(first.stop, StopReason::kFull);
    sent_bytes_ = first.raw_bytes;
    mark_.Record(0, sent_bytes_);
  }

  Result<BatchRun> Run(uint32_t frames) {
    return SendRun(&*reader_, &left_, &in_flight_, &frame_, kBatchBytes, Codec::kNone, frames, &mark_, sent_bytes_);
  }

  // The raw batch of the next frame that arrived.
  std::string Arrived() {
    Frame frame(pool_);
    EXPECT_THAT(right_.Receive(&frame), IsOk());
    return std::string(Must(frame.OpenRaw()));
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
  const Entries entries_ = SomeEntries(1000, 50);
  const std::shared_ptr<BufferPool> pool_ = BufferPool::Create(64 << 20);
  std::shared_ptr<SourceStore> store_;
  std::optional<RangeReader> reader_;
  Frame frame_{pool_};
  Sockets sockets_ = LocalPair();
  Connection left_{std::move(sockets_.first), "left", FrameLimits()};
  Connection right_{std::move(sockets_.second), "right", FrameLimits()};
  SentMark mark_;
  FramesInFlight in_flight_;
  uint64_t sent_bytes_ = 0;
};

TEST_F(BatchRunTest, SendsSoManyAndLeavesTheNextOneInTheFrame) {
  PackFirst();
  const BatchRun run = Must(Run(3));
  ASSERT_EQ(run.frames, 3U);
  EXPECT_EQ(left_.frames_sent(), 3U);
  ASSERT_EQ(in_flight_.frames(), 3U);
  Digest digest;
  for (uint32_t i = 0; i < run.frames; ++i) {
    const std::string batch = Arrived();
    digest = ChainDigest(digest, batch);
    const AcknowledgedFrames sent = in_flight_.Take(1).value();
    EXPECT_EQ(sent.digest, digest);
    EXPECT_EQ(sent.raw_bytes, batch.size());
  }
  EXPECT_EQ(run.next.stop, StopReason::kFull);
  EXPECT_EQ(frame_.header().entries, run.next.entries);
  EXPECT_EQ(reader_->digest(), ChainDigest(digest, Must(frame_.OpenRaw())));
}

TEST_F(BatchRunTest, CountsAndRecordsAllThatItSentButTheFirst) {
  PackFirst();
  const BatchRun run = Must(Run(4));
  EXPECT_GT(run.entries, 0U);
  EXPECT_EQ(mark_.furthest, sent_bytes_ + run.raw_bytes);
  EXPECT_EQ(mark_.resent, 0U);
}

TEST_F(BatchRunTest, WhatWasSentBeforeIsRecordedAsSentAgain) {
  PackFirst();
  mark_ = {.furthest = sent_bytes_ + 1000, .resent = 7};
  const BatchRun run = Must(Run(4));
  ASSERT_GT(run.raw_bytes, 1000U);
  EXPECT_EQ(mark_.furthest, sent_bytes_ + run.raw_bytes);
  EXPECT_EQ(mark_.resent, 1007U);
}

TEST_F(BatchRunTest, TheLastBatchOfTheRangeGoesToo) {
  PackFirst();
  BatchRun run;
  uint64_t entries = frame_.header().entries;
  Digest received;
  std::thread receiver([this, &received] {
    Frame frame(pool_);
    while (right_.Receive(&frame).ok()) {
      received = ChainDigest(received, Must(frame.OpenRaw()));
    }
  });
  do {
    run = Must(Run(1000));
    entries += run.entries;
    sent_bytes_ += run.raw_bytes;
    if (run.next.entries > 0) {
      // The moment that a run may take was over; the caller records what it goes on with.
      mark_.Record(sent_bytes_, sent_bytes_ + run.next.raw_bytes);
      sent_bytes_ += run.next.raw_bytes;
      entries += run.next.entries;
    }
  } while (run.next.entries > 0);
  left_.Shutdown();
  receiver.join();
  EXPECT_EQ(run.next.stop, StopReason::kEnd);
  EXPECT_EQ(entries, entries_.size());
  EXPECT_EQ(mark_.furthest, sent_bytes_);
  EXPECT_EQ(in_flight_.Take(in_flight_.frames()).value().digest, received);
  EXPECT_EQ(reader_->digest(), received);
}

TEST_F(BatchRunTest, ARunThatIsOverLeavesTheLastBatchToTheCaller) {
  PackFirst();
  FillResult next{.stop = StopReason::kFull};
  uint64_t frames = 0;
  std::thread receiver([this] {
    Frame frame(pool_);
    while (right_.Receive(&frame).ok()) {
    }
  });
  while (next.stop == StopReason::kFull) {
    next = Must(Run(1)).next;
    ++frames;
  }
  EXPECT_EQ(next.stop, StopReason::kEnd);
  EXPECT_GT(next.entries, 0U);
  EXPECT_EQ(left_.frames_sent(), frames);
  left_.Shutdown();
  receiver.join();
}

TEST_F(BatchRunTest, OneFrameAtATimeIsWhatARunOfOneIs) {
  PackFirst();
  const BatchRun run = Must(Run(1));
  EXPECT_EQ(run.frames, 1U);
  EXPECT_EQ(run.entries, 0U);
  EXPECT_EQ(run.raw_bytes, 0U);
  EXPECT_EQ(mark_.furthest, sent_bytes_);
}

TEST_F(BatchRunTest, ABrokenConnectionEndsIt) {
  PackFirst();
  right_.Shutdown();
  EXPECT_THAT(Run(1000), Fails(Code::kTransport));
}

// Over a link that takes its time a run must not keep its caller for all of its frames.
TEST_F(BatchRunTest, ASlowLinkEndsARunEarly) {
  PackFirst();
  Sockets sockets = LocalPair();
  const int least = 1;
  ASSERT_EQ(::setsockopt(sockets.first.get(), SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
  Connection near(std::move(sockets.first), "near", FrameLimits());
  Connection far(std::move(sockets.second), "far", FrameLimits());
  std::thread receiver([this, &far] {
    Frame frame(pool_);
    while (far.Receive(&frame).ok()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(25));
    }
  });
  const auto run =
      SendRun(&*reader_, &near, &in_flight_, &frame_, kBatchBytes, Codec::kNone, 1000, &mark_, sent_bytes_);
  near.Shutdown();
  receiver.join();
  ASSERT_THAT(run, IsOk());
  EXPECT_EQ(run.value().next.stop, StopReason::kFull);
  const uint32_t frames = run.value().frames;
  EXPECT_LT(frames, 10U);
  // Acks are timed from when each had left, however long the run went on.
  const auto oldest = in_flight_.Take(1).value().age;
  EXPECT_GT(oldest, in_flight_.Take(frames - 1).value().age + std::chrono::milliseconds(25));
}

}  // namespace
}  // namespace kvbatch::testing
