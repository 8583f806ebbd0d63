#include "store/range_reader.h"

#include <utility>

#include "batch/batch_builder.h"

namespace kvbatch {

RangeReader::RangeReader(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                         uint32_t target_family, const Digest& digest)
    : store_(std::move(store)),
      entries_(*store_, family, std::move(bounds)),
      target_family_(target_family),
      digest_(digest) {}

Result<FillResult> RangeReader::Fill(Frame* frame, size_t batch_bytes, Codec codec) {
  if (batch_bytes < kBatchHeaderSize) {
    return Status(Code::kUsage, "a batch of " + std::to_string(batch_bytes) + " bytes has no room for its header");
  }
  if (Status status = frame->Reserve(batch_bytes, codec); !status.ok()) {
    return status;
  }
  using Clock = std::chrono::steady_clock;
  const auto began = Clock::now();
  BatchBuilder builder(frame->raw(), batch_bytes);
  FillResult result;
  std::string_view last_key;
  for (; entries_.Valid(); entries_.Next()) {
    entries_.Load();
    const std::string_view key = entries_.key();
    const std::string_view value = entries_.value();
    const bool fits =
        entries_.is_entity() ? builder.PutEntity(target_family_, key, value) : builder.Put(target_family_, key, value);
    if (!fits) {
      if (builder.count() == 0) {
        result.stop = StopReason::kLargeEntry;
        result.needed_bytes = BatchBuilder::SpaceFor(target_family_, key, value);
        frame->SetRaw(0, 0);
        return result;
      }
      result.stop = StopReason::kFull;
      break;
    }
    // The iterator's key is gone after Next; the batch's own copy of it stays.
    const size_t value_part = Varint32Length(static_cast<uint32_t>(value.size())) + value.size();
    const char* const key_end = frame->raw() + builder.size() - value_part;
    last_key = {key_end - key.size(), key.size()};
    result.raw_bytes += key.size() + value.size();
  }
  if (Status status = entries_.status(); !status.ok()) {
    return status;
  }
  result.entries = builder.count();
  const std::string_view batch = builder.Finish();
  frame->SetRaw(batch.size(), builder.count());
  if (result.entries > 0) {
    last_key_.assign(last_key);
    digest_ = ChainDigest(digest_, batch);
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
