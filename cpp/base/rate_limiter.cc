#include "base/rate_limiter.h"

#include <algorithm>

namespace kvbatch {

namespace {

// One wait is for what this much time brings, in bounds: small enough to be even, large enough to be worth a system
// call.
constexpr double kPieceSeconds = 0.01;
constexpr double kMinPiece = 4 << 10;
constexpr double kMaxPiece = 256 << 10;
constexpr double kBurstSeconds = 0.1;
constexpr uint64_t kReadsPerSecond = 800;
constexpr uint64_t kMinRead = 64 << 10;
constexpr uint64_t kMaxRead = 1 << 20;
// A wait ends at least so often, so that no arithmetic on times can make it endless.
constexpr std::chrono::seconds kLongestWait{1};

double Burst(double rate) { return std::max(static_cast<double>(RateLimiter::kMinBurst), rate * kBurstSeconds); }

}  // namespace

void RateLimiter::SetRate(uint64_t bytes_per_second) {
  {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    if (rate() > 0) {
      Refill(now);
      tokens_ = std::min(tokens_, Burst(static_cast<double>(bytes_per_second)));
    } else {
      tokens_ = 0;
      filled_ = now;
    }
    rate_.store(bytes_per_second, std::memory_order_relaxed);
  }
  changed_.notify_all();
}

uint64_t RateLimiter::read_bytes() const { return std::clamp(rate() / kReadsPerSecond, kMinRead, kMaxRead); }

void RateLimiter::Refill(Clock::time_point now) {
  const auto rate = static_cast<double>(this->rate());
  tokens_ = std::min(Burst(rate), tokens_ + rate * std::chrono::duration<double>(now - filled_).count());
  filled_ = now;
}

uint64_t RateLimiter::Acquire(uint64_t wanted) {
  if (rate() == 0 || wanted == 0) {
    return wanted;
  }
  waiting_.fetch_add(1, std::memory_order_relaxed);
  Clock::time_point began;
  {
    const std::lock_guard lock(mutex_);
    began = Clock::now();
    ++lasting_;
    lasting_since_ += began.time_since_epoch();
  }
  uint64_t granted = wanted;
  {
    const std::lock_guard turn(turn_);
    std::unique_lock lock(mutex_);
    while (rate() > 0) {
      const auto rate = static_cast<double>(this->rate());
      Refill(Clock::now());
      const double needed =
          std::min(static_cast<double>(wanted), std::clamp(rate * kPieceSeconds, kMinPiece, kMaxPiece));
      if (tokens_ >= needed) {
        granted = std::min(wanted, static_cast<uint64_t>(tokens_));
        tokens_ -= static_cast<double>(granted);
        break;
      }
      const auto wait = std::chrono::duration<double>((needed - tokens_) / rate);
      changed_.wait_for(lock, std::min<std::chrono::duration<double>>(wait, kLongestWait));
    }
    --lasting_;
    lasting_since_ -= began.time_since_epoch();
    waited_ += Clock::now() - began;
  }
  waiting_.fetch_sub(1, std::memory_order_relaxed);
  return std::max<uint64_t>(granted, 1);
}

void RateLimiter::Charge(uint64_t bytes) {
  while (bytes > 0) {
    bytes -= Acquire(bytes);
  }
}

std::chrono::nanoseconds RateLimiter::waited() const {
  const std::lock_guard lock(mutex_);
  return waited_ + lasting_ * Clock::now().time_since_epoch() - lasting_since_;
}

}  // namespace kvbatch
