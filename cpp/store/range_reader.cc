#include "store/range_reader.h"

#include <utility>

#include "frame/large_entry.h"

namespace kvbatch {

RangeReader::RangeReader(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                         uint32_t target_family, const Digest& digest)
    : store_(std::move(store)),
      family_(family),
      bounds_(std::move(bounds)),
      target_family_(target_family),
      digest_(digest) {}

Result<FillResult> RangeReader::Fill(Frame* frame, size_t batch_bytes, Codec codec) {
  if (batch_bytes < kBatchHeaderSize) {
    return Status(Code::kUsage, "a batch of " + std::to_string(batch_bytes) + " bytes has no room for its header");
  }
  if (Status status = frame->Reserve(batch_bytes, codec); !status.ok()) {
    return status;
  }
  return Pack(frame, batch_bytes, 0, codec);
}

Result<FillResult> RangeReader::FillLarge(Frame* frame, size_t needed_bytes, Codec codec) {
  if (needed_bytes < kLargeEntryBytes) {
    return Fill(frame, needed_bytes, codec);
  }
  // Waits with nothing in its hands.
  entries_.reset();
  if (Status status = frame->ReserveLarge(needed_bytes, codec); !status.ok()) {
    return status;
  }
  return Pack(frame, needed_bytes, needed_bytes, codec);
}

void RangeReader::PackEntries(BatchBuilder* builder, size_t room, FillResult* result) {
  if (!entries_) {
    entries_ = std::make_unique<EntryIterator>(*store_, family_, bounds_, room == 0);
  }
  for (; entries_->Valid(); entries_->Next()) {
    entries_->Load();
    const std::string_view key = entries_->key();
    const std::string_view value = entries_->value();
    const bool large = key.size() + value.size() >= kLargeEntryBytes;
    const bool fits = (!large || (room > 0 && builder->count() == 0)) &&
                      (entries_->is_entity() ? builder->PutEntity(target_family_, key, value)
                                             : builder->Put(target_family_, key, value));
    if (!fits) {
      needed_bytes_ = BatchBuilder::SpaceFor(target_family_, key, value);
      result->stop = StopReason::kFull;
      return;
    }
    // The iterator's key is gone after Next; the batch's own copy of it stays.
    const size_t value_part = Varint32Length(static_cast<uint32_t>(value.size())) + value.size();
    const char* const key_end = builder->end() - value_part;
    packed_key_ = {key_end - key.size(), key.size()};
    result->raw_bytes += key.size() + value.size();
    if (large) {
      // What follows may be as large.
      result->stop = StopReason::kFull;
      return;
    }
  }
}

Result<FillResult> RangeReader::Pack(Frame* frame, size_t batch_bytes, size_t room, Codec codec) {
  using Clock = std::chrono::steady_clock;
  const auto began = Clock::now();
  BatchBuilder builder(frame->raw(), batch_bytes);
  FillResult result;
  // An entry that is known not to fit is not looked at again.
  const size_t known = std::exchange(needed_bytes_, 0);
  if (known > batch_bytes || (known >= kLargeEntryBytes && room == 0)) {
    needed_bytes_ = known;
    result.stop = StopReason::kFull;
  } else {
    const BlockMemory::Scope scope(&blocks_, room);
    try {
      PackEntries(&builder, room, &result);
    } catch (const NoRoomForBlock& no_room) {
      entries_.reset();
      needed_bytes_ = no_room.needed() + kBlockSlack;
      result.stop = StopReason::kFull;
    }
  }
  if (entries_) {
    if (Status status = entries_->status(); !status.ok()) {
      return status;
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
    last_key_.assign(packed_key_);
    bounds_.after = last_key_;
    digest_ = ChainDigest(digest_, batch);
  } else if (result.stop == StopReason::kLargeEntry) {
    frame->SetRaw(0, 0);
  }
  if (room > 0 || needed_bytes_ >= kLargeEntryBytes) {
    entries_.reset();
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
