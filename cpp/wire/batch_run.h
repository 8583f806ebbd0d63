// A run of batches from a reader to a connection, in one call: Python has its say between two runs, not two frames.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "frame/frame.h"
#include "store/range_reader.h"
#include "store/sent_mark.h"
#include "wire/connection.h"
#include "wire/frames_in_flight.h"

namespace kvbatch {

struct BatchRun {
  // Of the batches behind the first, which the caller has counted.
  uint64_t entries = 0;
  uint64_t raw_bytes = 0;
  uint32_t frames = 0;  // that were sent, the first one included
  FillResult next;      // what stands in the frame now, not sent yet; no entries where all was sent
};

// Sends the batch in `frame`, which ends at byte `sent_bytes` of its range, packs the next one into it, and goes on so
// while batches come, the range's last one included, `frames` at most, and not for longer than a moment. Each is added
// to `in_flight` behind the other; each but the first is recorded in `mark` before it is sent.
Result<BatchRun> SendRun(RangeReader* reader, Connection* connection, FramesInFlight* in_flight, Frame* frame,
                         size_t batch_bytes, Codec codec, uint32_t frames, SentMark* mark, uint64_t sent_bytes);

}  // namespace kvbatch
