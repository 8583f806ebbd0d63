// RateLimiter: a token bucket that the threads of a job share, its rate changeable at any time.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace kvbatch {

// Thread-safe. Tokens are bytes. The bucket holds what a tenth of a second brings, kMinBurst at least: that is the most
// that passes at once after a pause.
class RateLimiter {
 public:
  static constexpr uint64_t kMinBurst = 64 << 10;

  // 0: no limit.
  explicit RateLimiter(uint64_t bytes_per_second = 0) { SetRate(bytes_per_second); }

  RateLimiter(const RateLimiter&) = delete;
  RateLimiter& operator=(const RateLimiter&) = delete;

  // Holds from now on, for those who wait too: with 0 nobody waits any more.
  void SetRate(uint64_t bytes_per_second);
  uint64_t rate() const { return rate_.load(std::memory_order_relaxed); }

  // What reads that keep to the rate ask a disk for at once, so that it stays free for others in between: what a
  // millisecond or so brings, within bounds.
  uint64_t read_bytes() const;

  // How many of `wanted` bytes may be moved now, 1 at least; waits while the bucket is empty. Without a limit all of
  // them.
  uint64_t Acquire(uint64_t wanted);

  // Acquire, again and again, until all of `bytes` have passed.
  void Charge(uint64_t bytes);

  // What all threads together waited so far; waits that still last count.
  std::chrono::nanoseconds waited() const;

  // Threads that wait at this moment.
  unsigned waiting() const { return waiting_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;

  void Refill(Clock::time_point now);

  std::atomic<uint64_t> rate_{0};
  std::atomic<unsigned> waiting_{0};
  // Those who wait take turns, so that each needs to know of its own tokens only.
  std::mutex turn_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  double tokens_ = 0;
  Clock::time_point filled_;
  Clock::duration waited_{0};
  // Of the waits that last: how many there are, and the sum of when they began.
  unsigned lasting_ = 0;
  Clock::duration lasting_since_{0};
};

}  // namespace kvbatch
