#include "store/frame_filler.h"

#include <utility>

#include "frame/large_entry.h"

namespace kvbatch {

FrameFiller::FrameFiller(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family,
                         uint32_t target_family, const Digest& digest)
    : store_(std::move(store)), family_(family), target_family_(target_family), digest_(digest) {}

Result<FillResult> FrameFiller::Fill(Frame* frame, size_t batch_bytes, Codec codec) {
  if (batch_bytes < kBatchHeaderSize) {
    return Status(Code::kUsage, "a batch of " + std::to_string(batch_bytes) + " bytes has no room for its header");
  }
  if (Status status = frame->Reserve(batch_bytes, codec); !status.ok()) {
    return status;
  }
  return Pack(frame, batch_bytes, 0, codec);
}

Result<FillResult> FrameFiller::FillLarge(Frame* frame, size_t needed_bytes, Codec codec) {
  if (needed_bytes < kLargeEntryBytes) {
    return Fill(frame, needed_bytes, codec);
  }
  // Waits with nothing in its hands.
  Close();
  if (Status status = frame->ReserveLarge(needed_bytes, codec); !status.ok()) {
    return status;
  }
  return Pack(frame, needed_bytes, needed_bytes, codec);
}

void FrameFiller::StopBefore(size_t needed_bytes, FillResult* result) {
  needed_bytes_ = needed_bytes;
  result->stop = StopReason::kFull;
}

Result<FillResult> FrameFiller::Pack(Frame* frame, size_t batch_bytes, size_t room, Codec codec) {
  using Clock = std::chrono::steady_clock;
  const auto began = Clock::now();
  BatchBuilder builder(frame->raw(), batch_bytes);
  FillResult result;
  // An entry that is known not to fit is not looked at again.
  const size_t known = std::exchange(needed_bytes_, 0);
  if (known > batch_bytes || (known >= kLargeEntryBytes && room == 0)) {
    StopBefore(known, &result);
  } else {
    const BlockMemory::Scope scope(&blocks_, room);
    try {
      if (Status status = PackInto(&builder, room, &result); !status.ok()) {
        return status;
      }
    } catch (const NoRoomForBlock& no_room) {
      Close();
      StopBefore(no_room.needed() + kBlockSlack, &result);
    }
  }
  result.entries = builder.count();
  if (result.stop == StopReason::kFull && result.entries == 0) {
    result.stop = StopReason::kLargeEntry;
    result.needed_bytes = needed_bytes_;
  }
  const std::string_view batch = builder.Finish();
  frame->SetRaw(batch.size(), builder.count());
  if (result.entries > 0) {
    NotePacked();
    digest_ = ChainDigest(digest_, batch);
  } else if (result.stop == StopReason::kLargeEntry) {
    frame->SetRaw(0, 0);
  }
  if (room > 0 || needed_bytes_ >= kLargeEntryBytes) {
    Close();
  }
  const auto packed = Clock::now();
  read_time_ += packed - began;
  if (result.entries > 0) {
    frame->Compress(codec);
    compress_time_ += Clock::now() - packed;
  }
  return result;
}

}  // namespace kvbatch
