#include "base/rate_limiter.h"

#include <thread>
#include <vector>

#include "testing.h"

namespace kvbatch::testing {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

TEST(RateLimiter, WithoutALimitNobodyWaits) {
  RateLimiter limiter;
  EXPECT_EQ(limiter.Acquire(uint64_t{1} << 40), uint64_t{1} << 40);
  EXPECT_EQ(limiter.waited().count(), 0);
}

TEST(RateLimiter, NoMoreThanTheRateAndTheBurstPasses) {
  constexpr uint64_t kRate = 10 << 20;
  RateLimiter limiter(kRate);
  const auto start = Clock::now();
  uint64_t passed = 0;
  while (SecondsSince(start) < 0.5) {
    passed += limiter.Acquire(1 << 20);
  }
  // Time goes on between the last grant and the look at the clock, so the bound from above always holds.
  EXPECT_LE(static_cast<double>(passed), kRate * SecondsSince(start) + kRate / 10.0);
  EXPECT_GT(passed, kRate / 8);
}

TEST(RateLimiter, WhatWasSavedUpInAPauseIsBounded) {
  RateLimiter limiter(1 << 20);
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_LE(limiter.Acquire(uint64_t{1} << 30), uint64_t{1} << 20);
}

TEST(RateLimiter, ThreadsShareTheRate) {
  constexpr uint64_t kRate = 8 << 20;
  RateLimiter limiter(kRate);
  const auto start = Clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&limiter] { limiter.Charge(1 << 20); });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  // 4 MiB at 8 MiB a second, less a burst of a tenth of a second.
  EXPECT_GE(SecondsSince(start), 0.35);
  EXPECT_GT(limiter.waited(), std::chrono::milliseconds(300));
  EXPECT_EQ(limiter.waiting(), 0u);
}

TEST(RateLimiter, ANewRateHoldsForWhoWaits) {
  RateLimiter limiter(1);
  std::thread thread([&limiter] { limiter.Charge(1 << 20); });
  while (limiter.waiting() == 0) {
    std::this_thread::yield();
  }
  limiter.SetRate(uint64_t{1} << 30);
  thread.join();
  EXPECT_EQ(limiter.rate(), uint64_t{1} << 30);
}

TEST(RateLimiter, ALimitThatIsLiftedLetsAllPass) {
  RateLimiter limiter(1);
  std::thread thread([&limiter] { limiter.Charge(1 << 20); });
  while (limiter.waiting() == 0) {
    std::this_thread::yield();
  }
  limiter.SetRate(0);
  thread.join();
}

TEST(RateLimiter, AWaitThatLastsCounts) {
  RateLimiter limiter(1);
  std::thread thread([&limiter] { limiter.Charge(1 << 20); });
  while (limiter.waited() < std::chrono::milliseconds(50)) {
    std::this_thread::yield();
  }
  EXPECT_EQ(limiter.waiting(), 1u);
  limiter.SetRate(0);
  thread.join();
  EXPECT_GE(limiter.waited(), std::chrono::milliseconds(50));
}

}  // namespace
}  // namespace kvbatch::testing
