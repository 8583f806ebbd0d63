#include "store/overlay_reader.h"

#include <utility>

#include "batch/batch_builder.h"
#include "batch/wide_columns.h"
#include "store/rocksdb_status.h"

#if KVBATCH_TABLE_ITERATORS
#include <rocksdb/utilities/types_util.h>
#endif

namespace kvbatch {

namespace {

// A step costs about a thirtieth of a seek.
constexpr int kStepsBeforeSeek = 32;

}  // namespace

OverlayReader::OverlayReader(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family,
                             const TableFile& base, const RangeBounds& bounds, uint32_t target_family,
                             const Digest& digest)
    : store_(std::move(store)),
      comparator_(family->GetComparator()),
      operations_(*store_, family, base, bounds),
      base_reader_(store_->db()->GetOptions(family)),
      target_family_(target_family),
      digest_(digest),
      entries_(base.entries),
      raw_bytes_(base.raw_bytes) {
  if (!operations_.Valid()) {
    return;
  }
  opened_ = FromSource(base_reader_.Open(base.path), "open " + base.path);
  if (opened_.ok()) {
#if KVBATCH_TABLE_ITERATORS
    base_ = base_reader_.NewTableIterator();
    base_->SeekToFirst();
#endif
  }
}

#if KVBATCH_TABLE_ITERATORS

Result<bool> OverlayReader::InBase(std::string_view key, uint64_t* value_bytes) {
  const rocksdb::Slice wanted = ToSlice(key);
  for (int steps = 0; base_->Valid(); ++steps) {
    rocksdb::ParsedEntryInfo record;
    if (const auto parsed = rocksdb::ParseEntry(base_->key(), comparator_, &record); !parsed.ok()) {
      return FromSource(parsed, "read the store");
    }
    const int order = comparator_->Compare(record.user_key, wanted);
    if (order == 0) {
      // As RangeReader counts them: of an entity its serialized columns, unless it is a plain value in truth.
      std::string_view value = View(base_->value());
      bool is_entity = false;
      if (record.type == rocksdb::kEntryWideColumnEntity) {
        (void)ReadEntity(value, &is_entity, &value);
      }
      *value_bytes = value.size();
      return true;
    }
    if (order > 0) {
      return false;
    }
    if (steps < kStepsBeforeSeek) {
      base_->Next();
      continue;
    }
    std::string internal_key;
    const auto made = rocksdb::GetInternalKeyForSeek(wanted, comparator_, &internal_key);
    if (!made.ok()) {
      return FromSource(made, "seek in the source");
    }
    base_->Seek(internal_key);
  }
  if (Status status = FromSource(base_->status(), "read the store"); !status.ok()) {
    return status;
  }
  return false;
}

#else

// Never asked: no file is grafted.
Result<bool> OverlayReader::InBase(std::string_view /*key*/, uint64_t* /*value_bytes*/) { return false; }

#endif  // KVBATCH_TABLE_ITERATORS

Result<FillResult> OverlayReader::Fill(Frame* frame, size_t batch_bytes, Codec codec) {
  if (batch_bytes < kBatchHeaderSize) {
    return Status(Code::kUsage, "a batch of " + std::to_string(batch_bytes) + " bytes has no room for its header");
  }
  if (!opened_.ok()) {
    return opened_;
  }
  if (Status status = frame->Reserve(batch_bytes, codec); !status.ok()) {
    return status;
  }
  BatchBuilder builder(frame->raw(), batch_bytes);
  FillResult result;
  for (; operations_.Valid(); operations_.Next()) {
    const std::string_view key = operations_.key();
    const std::string_view value = operations_.value();
    uint64_t replaced_bytes = 0;
    auto replaces = InBase(key, &replaced_bytes);
    if (!replaces.ok()) {
      return replaces.status();
    }
    const bool deletes = operations_.kind() == RecordKind::kDelete;
    if (deletes && !replaces.value()) {
      continue;
    }
    const bool fits = deletes                                     ? builder.Delete(target_family_, key)
                      : operations_.kind() == RecordKind::kEntity ? builder.PutEntity(target_family_, key, value)
                                                                  : builder.Put(target_family_, key, value);
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
    const uint64_t pair_bytes = key.size() + value.size();
    entries_ += (deletes ? 0 : 1) - (replaces.value() ? 1 : 0);
    raw_bytes_ += (deletes ? 0 : pair_bytes) - (replaces.value() ? key.size() + replaced_bytes : 0);
    result.raw_bytes += pair_bytes;
    last_key_.assign(key);
  }
  if (!operations_.status().ok()) {
    return operations_.status();
  }
  result.entries = builder.count();
  const std::string_view batch = builder.Finish();
  frame->SetRaw(batch.size(), builder.count());
  if (result.entries > 0) {
    digest_ = ChainDigest(digest_, batch);
    frame->Compress(codec);
  }
  return result;
}

}  // namespace kvbatch
