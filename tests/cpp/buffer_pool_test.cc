#include "frame/buffer_pool.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "testing.h"

namespace kvbatch::testing {
namespace {

constexpr size_t kKiB = 1 << 10;

TEST(BufferPool, GivesAtLeastWhatIsAskedFor) {
  const auto pool = BufferPool::Create(1 << 20);
  for (const size_t size : {size_t{0}, size_t{1}, 64 * kKiB, 64 * kKiB + 1, 1024 * kKiB}) {
    Buffer buffer = Must(pool->Acquire(size));
    EXPECT_GE(buffer.capacity(), size);
    EXPECT_EQ(pool->leased_bytes(), buffer.capacity());
    std::memset(buffer.data(), 1, buffer.capacity());
  }
  EXPECT_EQ(pool->leased_bytes(), 0U);
  EXPECT_EQ(pool->max_bytes(), size_t{1} << 20);
}

TEST(BufferPool, MoreThanTheBudgetIsRefused) {
  const auto pool = BufferPool::Create(1000);
  EXPECT_THAT(pool->Acquire(1001), Fails(Code::kUsage, "1001 bytes does not fit the memory budget of 1000"));
  EXPECT_THAT(pool->Acquire(~size_t{0}), Fails(Code::kUsage));
  EXPECT_THAT(pool->Acquire(1000), IsOk());
}

TEST(BufferPool, ReusesWhatCameBack) {
  const auto pool = BufferPool::Create(10 << 20);
  Buffer buffer = Must(pool->Acquire(1 << 20));
  const char* const memory = buffer.data();
  buffer.Release();
  EXPECT_EQ(buffer.capacity(), 0U);
  EXPECT_EQ(buffer.data(), nullptr);
  buffer = Must(pool->Acquire((1 << 20) - 5000));
  EXPECT_EQ(buffer.data(), memory);
}

TEST(BufferPool, DoesNotLendALargeBufferForASmallNeed) {
  const auto pool = BufferPool::Create(10 << 20);
  Must(pool->Acquire(8 << 20)).Release();
  const Buffer small = Must(pool->Acquire(64 * kKiB));
  EXPECT_EQ(small.capacity(), 64 * kKiB);
  EXPECT_EQ(pool->leased_bytes(), 64 * kKiB);
}

TEST(BufferPool, ALargerNeedTakesThePlaceOfABufferThatIsTooSmall) {
  auto pool = BufferPool::Create(16 << 20);
  {
    auto first = pool->Acquire(1 << 20).Take();
    auto second = pool->Acquire(1 << 20).Take();
  }
  EXPECT_EQ(pool->kept_bytes(), 2u << 20);
  auto larger = pool->Acquire(2 << 20).Take();
  EXPECT_EQ(pool->kept_bytes(), 1u << 20);
  auto another = pool->Acquire(2 << 20).Take();
  EXPECT_EQ(pool->kept_bytes(), 0u);
  larger.Release();
  another.Release();
  EXPECT_EQ(pool->kept_bytes(), 4u << 20);
  // What fits as it is is not given up, and a smaller need takes nobody's place.
  auto small = pool->Acquire(128 << 10).Take();
  EXPECT_EQ(pool->kept_bytes(), 4u << 20);
}

TEST(BufferPool, ReleaseTwiceGivesBackOnce) {
  const auto pool = BufferPool::Create(1 << 20);
  Buffer first = Must(pool->Acquire(256 * kKiB));
  const Buffer second = Must(pool->Acquire(256 * kKiB));
  first.Release();
  first.Release();
  EXPECT_EQ(pool->leased_bytes(), 256 * kKiB);
}

TEST(BufferPool, MovesCarryTheLease) {
  const auto pool = BufferPool::Create(1 << 20);
  Buffer first = Must(pool->Acquire(128 * kKiB));
  char* const memory = first.data();
  Buffer second(std::move(first));
  EXPECT_EQ(first.data(), nullptr);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(first.capacity(), 0U);
  EXPECT_EQ(second.data(), memory);
  Buffer third = Must(pool->Acquire(256 * kKiB));
  third = std::move(second);
  EXPECT_EQ(third.data(), memory);
  EXPECT_EQ(pool->leased_bytes(), 128 * kKiB);
  Buffer& same = third;
  third = std::move(same);
  EXPECT_EQ(third.data(), memory);
  EXPECT_EQ(pool->leased_bytes(), 128 * kKiB);
}

TEST(BufferPool, ALeaseOutlivesTheCallersPool) {
  auto pool = BufferPool::Create(1 << 20);
  Buffer buffer = Must(pool->Acquire(1000));
  pool.reset();
  std::memset(buffer.data(), 1, buffer.capacity());
  buffer.Release();
}

TEST(BufferPool, WaitsUntilALeaseComesBack) {
  const auto pool = BufferPool::Create(256 * kKiB);
  Buffer all = Must(pool->Acquire(256 * kKiB));
  std::atomic<bool> served = false;
  std::thread waiter([&] {
    EXPECT_THAT(pool->Acquire(128 * kKiB), IsOk());
    served = true;
  });
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 1; }));
  EXPECT_FALSE(served);
  all.Release();
  waiter.join();
  EXPECT_TRUE(served);
  EXPECT_EQ(pool->waiting(), 0U);
  EXPECT_EQ(pool->leased_bytes(), 0U);
}

TEST(BufferPool, OneReturnServesEveryWaiterThatFits) {
  const auto pool = BufferPool::Create(256 * kKiB);
  Buffer all = Must(pool->Acquire(256 * kKiB));
  std::vector<std::thread> waiters;
  std::vector<Buffer> held(4);
  for (Buffer& buffer : held) {
    waiters.emplace_back([&] { buffer = Must(pool->Acquire(64 * kKiB)); });
  }
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 4; }));
  all.Release();
  for (std::thread& waiter : waiters) {
    waiter.join();
  }
  EXPECT_EQ(pool->leased_bytes(), 256 * kKiB);
}

TEST(BufferPool, ALargeNeedIsNotStarvedBySmallOnes) {
  const auto pool = BufferPool::Create(256 * kKiB);
  Buffer small = Must(pool->Acquire(64 * kKiB));
  std::vector<int> order;
  std::thread large([&] {
    const Buffer all = Must(pool->Acquire(256 * kKiB));
    order.push_back(1);
  });
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 1; }));
  std::thread next([&] {
    // There is room for it at once, but it is not its turn.
    const Buffer another = Must(pool->Acquire(64 * kKiB));
    order.push_back(2);
  });
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 2; }));
  small.Release();
  large.join();
  next.join();
  EXPECT_THAT(order, ::testing::ElementsAre(1, 2));
}

TEST(BufferPool, RoomBesideABufferCountsAsTheBufferDoes) {
  const auto pool = BufferPool::Create(1 << 20);
  Buffer buffer = Must(pool->Acquire(128 * kKiB, 512 * kKiB));
  EXPECT_EQ(buffer.capacity(), 128 * kKiB);
  EXPECT_EQ(buffer.leased(), 640 * kKiB);
  EXPECT_EQ(pool->leased_bytes(), 640 * kKiB);
  EXPECT_THAT(pool->Acquire(512 * kKiB, 512 * kKiB + 1), Fails(Code::kUsage));
  buffer.DropMemory();
  EXPECT_EQ(buffer.data(), nullptr);
  EXPECT_EQ(buffer.capacity(), 0U);
  EXPECT_EQ(pool->leased_bytes(), 640 * kKiB);
  const Buffer moved = std::move(buffer);
  EXPECT_EQ(moved.leased(), 640 * kKiB);
  EXPECT_EQ(buffer.leased(), 0U);  // NOLINT(bugprone-use-after-move)
  const Buffer room = Must(pool->Acquire(0, 384 * kKiB));
  EXPECT_EQ(room.data(), nullptr);
  EXPECT_EQ(pool->leased_bytes(), 1024 * kKiB);
}

TEST(BufferPool, WhatIsOnlyTriedTakesAnEighthAndNeverWaits) {
  const auto pool = BufferPool::Create(8 << 20);
  Buffer tried = pool->TryLease(768 * kKiB);
  EXPECT_EQ(tried.leased(), 768 * kKiB);
  EXPECT_EQ(pool->TryLease(512 * kKiB).leased(), 0U);
  const Buffer rest = Must(pool->Acquire(7 << 20));
  EXPECT_EQ(pool->TryLease(256 * kKiB).leased(), 256 * kKiB);
  tried.Release();
  EXPECT_EQ(pool->leased_bytes(), size_t{7} << 20);
  EXPECT_EQ(pool->TryLease(1024 * kKiB).leased(), 1024 * kKiB);
}

TEST(BufferPool, ALargerBudgetServesThoseWhoWait) {
  const auto pool = BufferPool::Create(128 * kKiB);
  const Buffer all = Must(pool->Acquire(128 * kKiB));
  std::thread waiter([&] { EXPECT_THAT(pool->Acquire(64 * kKiB), IsOk()); });
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 1; }));
  pool->SetMaxBytes(192 * kKiB);
  waiter.join();
  EXPECT_EQ(pool->max_bytes(), 192 * kKiB);
}

TEST(BufferPool, ASmallerBudgetHoldsOnceEnoughCameBack) {
  const auto pool = BufferPool::Create(1 << 20);
  Buffer first = Must(pool->Acquire(512 * kKiB));
  Buffer second = Must(pool->Acquire(256 * kKiB));
  Must(pool->Acquire(256 * kKiB)).Release();
  pool->SetMaxBytes(256 * kKiB);
  EXPECT_THAT(pool->Acquire(257 * kKiB), Fails(Code::kUsage, "budget of 262144"));
  std::atomic<bool> served = false;
  std::thread waiter([&] {
    EXPECT_THAT(pool->Acquire(64 * kKiB), IsOk());
    served = true;
  });
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 1; }));
  first.Release();
  EXPECT_FALSE(served);  // the second alone takes all that there is now
  second.Release();
  waiter.join();
}

TEST(BufferPool, ABudgetThatBecomesTooSmallEndsAWait) {
  const auto pool = BufferPool::Create(512 * kKiB);
  const Buffer all = Must(pool->Acquire(512 * kKiB));
  std::thread waiter([&] { EXPECT_THAT(pool->Acquire(256 * kKiB), Fails(Code::kUsage)); });
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 1; }));
  pool->SetMaxBytes(128 * kKiB);
  waiter.join();
}

TEST(BufferPool, WaitsThatLastCountAsFarAsTheyGot) {
  using std::chrono::nanoseconds;
  const auto pool = BufferPool::Create(64 * kKiB);
  Buffer all = Must(pool->Acquire(64 * kKiB));
  EXPECT_EQ(pool->waited(), nanoseconds(0));
  std::thread waiter([&] { EXPECT_THAT(pool->Acquire(1), IsOk()); });
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 1; }));
  const auto so_far = pool->waited();
  EXPECT_TRUE(Eventually([&] { return pool->waited() > so_far; }));
  const auto lasting = pool->waited();
  all.Release();
  waiter.join();
  const auto ended = pool->waited();
  EXPECT_GE(ended, lasting);
  EXPECT_EQ(pool->waited(), ended);
}

TEST(BufferPool, CloseWakesEveryWaiterAndGivesNothingMore) {
  const auto pool = BufferPool::Create(128 * kKiB);
  Buffer all = Must(pool->Acquire(128 * kKiB));
  std::vector<std::thread> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] { EXPECT_THAT(pool->Acquire(1), Fails(Code::kClosed)); });
  }
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 3; }));
  pool->Close();
  for (std::thread& waiter : waiters) {
    waiter.join();
  }
  EXPECT_THAT(pool->Acquire(0), Fails(Code::kClosed));
  all.Release();
  EXPECT_EQ(pool->leased_bytes(), 0U);
  EXPECT_THAT(pool->Acquire(1), Fails(Code::kClosed));
}

size_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total = 0;
  size_t resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(::getpagesize());
}

TEST(BufferPool, GivesTheSystemBackWhatItDoesNotKeep) {
  // As a program does that once had much: glibc then keeps pieces of this size to itself.
  std::free(std::malloc(24 << 20));
  const auto pool = BufferPool::Create(256 << 20);
  const size_t before = ResidentBytes();
  std::vector<Buffer> buffers;
  for (const size_t mebibytes : {1, 2, 4, 8}) {
    for (int i = 0; i < 4; ++i) {
      buffers.push_back(Must(pool->Acquire(mebibytes << 20)));
      std::memset(buffers.back().data(), 1, buffers.back().capacity());
    }
  }
  EXPECT_GT(ResidentBytes(), before + (50 << 20));
  buffers.erase(buffers.begin(), buffers.end() - 1);  // what was had last is still there
  pool->Close();
  EXPECT_LT(ResidentBytes(), before + (12 << 20));
}

TEST(BufferPool, ManyThreadsStayWithinTheBudget) {
  const auto pool = BufferPool::Create(1 << 20);
  std::atomic<size_t> in_use = 0;
  std::atomic<bool> exceeded = false;
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      Random random(seed);
      for (int round = 0; round < 2000; ++round) {
        Buffer buffer = Must(pool->Acquire(1 + Below(random, 900 * kKiB)));
        if (in_use.fetch_add(buffer.capacity()) + buffer.capacity() > pool->max_bytes()) {
          exceeded = true;
        }
        buffer.data()[0] = 'x';
        buffer.data()[buffer.capacity() - 1] = 'y';
        in_use.fetch_sub(buffer.capacity());
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_FALSE(exceeded);
  EXPECT_EQ(pool->leased_bytes(), 0U);
  EXPECT_EQ(pool->waiting(), 0U);
}

}  // namespace
}  // namespace kvbatch::testing
