// The data frames of a connection that no ack spoke for yet, in the order in which they were sent. Python hears of them
// by the ack, not by the frame.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

#include "base/checksum.h"

namespace kvbatch {

// What an ack speaks for.
struct AcknowledgedFrames {
  Digest digest;                         // the running digest behind the last of them
  uint64_t raw_bytes = 0;                // of all of them
  std::chrono::duration<double> age{0};  // since the last of them had left
};

// For the thread that sends.
class FramesInFlight {
 public:
  // A frame has just left; `digest` is the running digest behind it.
  void Add(const Digest& digest, uint64_t raw_bytes);

  // Takes the oldest `frames`, one at least; nothing where not so many are in flight.
  std::optional<AcknowledgedFrames> Take(size_t frames);

  size_t frames() const { return sent_.size(); }
  uint64_t raw_bytes() const { return raw_bytes_; }

 private:
  using Clock = std::chrono::steady_clock;

  struct Sent {
    Digest digest;
    uint64_t raw_bytes;
    Clock::time_point at;
  };

  std::deque<Sent> sent_;
  uint64_t raw_bytes_ = 0;
};

}  // namespace kvbatch
