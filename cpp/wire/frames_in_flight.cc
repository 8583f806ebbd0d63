#include "wire/frames_in_flight.h"

namespace kvbatch {

void FramesInFlight::Add(const Digest& digest, uint64_t raw_bytes) {
  sent_.push_back({digest, raw_bytes, Clock::now()});
  raw_bytes_ += raw_bytes;
}

std::optional<AcknowledgedFrames> FramesInFlight::Take(size_t frames) {
  if (frames == 0 || frames > sent_.size()) {
    return std::nullopt;
  }
  const auto behind = sent_.begin() + static_cast<std::ptrdiff_t>(frames);
  const Sent& last = *(behind - 1);
  AcknowledgedFrames taken{.digest = last.digest, .age = Clock::now() - last.at};
  for (auto frame = sent_.begin(); frame != behind; ++frame) {
    taken.raw_bytes += frame->raw_bytes;
  }
  raw_bytes_ -= taken.raw_bytes;
  sent_.erase(sent_.begin(), behind);
  return taken;
}

}  // namespace kvbatch
