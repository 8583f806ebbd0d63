#include "store/range_reader.h"

#include <utility>

#include "frame/large_entry.h"

namespace kvbatch {

RangeReader::RangeReader(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                         uint32_t target_family, const Digest& digest)
    : FrameFiller(std::move(store), family, target_family, digest), bounds_(std::move(bounds)) {}

Status RangeReader::PackInto(BatchBuilder* builder, size_t room, FillResult* result) {
  if (!entries_) {
    entries_ = std::make_unique<EntryIterator>(store(), family(), bounds_, room == 0);
  }
  for (; entries_->Valid(); entries_->Next()) {
    entries_->Load();
    const std::string_view key = entries_->key();
    const std::string_view value = entries_->value();
    const bool large = key.size() + value.size() >= kLargeEntryBytes;
    if (large) {
      if (Status status = store().CheckKey(key); !status.ok()) {
        return status;
      }
    }
    const bool fits = (!large || (room > 0 && builder->count() == 0)) &&
                      (entries_->is_entity() ? builder->PutEntity(target_family(), key, value)
                                             : builder->Put(target_family(), key, value));
    if (!fits) {
      StopBefore(BatchBuilder::SpaceFor(target_family(), key, value), result);
      break;
    }
    // The iterator's key is gone after Next; the batch's own copy of it stays.
    const size_t value_part = Varint32Length(static_cast<uint32_t>(value.size())) + value.size();
    const char* const key_end = builder->end() - value_part;
    packed_key_ = {key_end - key.size(), key.size()};
    result->raw_bytes += key.size() + value.size();
    if (large) {
      // What follows may be as large.
      result->stop = StopReason::kFull;
      break;
    }
  }
  return entries_->status();
}

void RangeReader::NotePacked() {
  last_key_.assign(packed_key_);
  bounds_.after = last_key_;
}

}  // namespace kvbatch
