#include "wire/batch_run.h"

#include <chrono>

namespace kvbatch {

namespace {

// Over a slow link a run is one batch: progress is seen, and a stop heeded, between two of them.
constexpr std::chrono::milliseconds kLongestRun{100};

}  // namespace

Result<BatchRun> SendRun(RangeReader* reader, Connection* connection, FramesInFlight* in_flight, Frame* frame,
                         size_t batch_bytes, Codec codec, uint32_t frames, SentMark* mark, uint64_t sent_bytes) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + kLongestRun;
  BatchRun run;
  bool last = false;
  while (true) {
    if (Status status = connection->Send(frame); !status.ok()) {
      return status;
    }
    in_flight->Add(reader->digest(), frame->header().raw_length);
    ++run.frames;
    if (last) {
      run.next = FillResult{.stop = StopReason::kEnd};
      return run;
    }
    auto filled = reader->Fill(frame, batch_bytes, codec);
    if (!filled.ok()) {
      return filled.status();
    }
    run.next = filled.value();
    last = run.next.stop == StopReason::kEnd && run.next.entries > 0;
    if ((run.next.stop != StopReason::kFull && !last) || run.frames >= frames || Clock::now() >= end) {
      return run;
    }
    mark->Record(sent_bytes, sent_bytes + run.next.raw_bytes);
    sent_bytes += run.next.raw_bytes;
    run.entries += run.next.entries;
    run.raw_bytes += run.next.raw_bytes;
  }
}

}  // namespace kvbatch
