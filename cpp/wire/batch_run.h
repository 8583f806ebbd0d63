// A run of batches from a reader to a connection, in one call: Python has its say between two runs, not two frames.
#pragma once

#include <cstdint>
#include <vector>

#include "base/checksum.h"
#include "base/status.h"
#include "frame/frame.h"
#include "store/range_reader.h"
#include "store/sent_mark.h"
#include "wire/connection.h"

namespace kvbatch {

struct BatchRun {
  // Of the batches behind the first, which the caller has counted.
  uint64_t entries = 0;
  uint64_t raw_bytes = 0;
  std::vector<Digest> digests;  // the running digest behind each batch that was sent
  std::vector<double> sent_at;  // when the last byte of each had left, in seconds of std::chrono::steady_clock
  FillResult next;              // what stands in the frame now, not sent yet; no entries where all was sent
};

// Sends the batch in `frame`, which ends at byte `sent_bytes` of its range, packs the next one into it, and goes on so
// while batches come, the range's last one included, `frames` at most, and not for longer than a moment. Each but the
// first is recorded in `mark` before it is sent.
Result<BatchRun> SendRun(RangeReader* reader, Connection* connection, Frame* frame, size_t batch_bytes, Codec codec,
                         uint32_t frames, SentMark* mark, uint64_t sent_bytes);

}  // namespace kvbatch
