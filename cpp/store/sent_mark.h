// SentMark: how far a range was sent and how much of it again, in memory that outlives a killed sender.
#pragma once

#include <algorithm>
#include <cstdint>

namespace kvbatch {

// Both in bytes of keys and values. Its layout is that of kvbatch.sent_log's file, on a little-endian machine.
struct SentMark {
  uint64_t furthest = 0;
  uint64_t resent = 0;

  // The bytes of the range from `start` to `end` are about to be sent.
  void Record(uint64_t start, uint64_t end) {
    if (start < furthest) {
      resent += std::min(end, furthest) - start;
    }
    furthest = std::max(furthest, end);
  }
};

}  // namespace kvbatch
