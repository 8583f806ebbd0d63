#include "frame/buffer_pool.h"

#include <atomic>
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
