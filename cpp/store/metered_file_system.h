// MeteredFileSystem: what a source is read through, so that its reads keep to a rate and are counted.
#pragma once

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/rate_limiter.h"

namespace kvbatch {

// What is read of a source, in bytes of its files, compressed as they are. Thread-safe.
struct ReadMeter {
  // Shared, so that who sets it need not keep the source open.
  const std::shared_ptr<RateLimiter> limiter = std::make_shared<RateLimiter>();
  std::atomic<uint64_t> bytes{0};

  // Before `wanted` bytes are read.
  void Charge(uint64_t wanted) {
    limiter->Charge(wanted);
    bytes.fetch_add(wanted, std::memory_order_relaxed);
  }
};

// The default environment; what is read at random places of its files, as tables are, is charged to `meter` first.
std::unique_ptr<rocksdb::Env> MeteredEnv(std::shared_ptr<ReadMeter> meter);

}  // namespace kvbatch
