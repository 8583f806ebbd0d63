#include "store/overlay_reader.h"

#include <utility>

#include "batch/wide_columns.h"
#include "frame/large_entry.h"
#include "store/rocksdb_status.h"

#if KVBATCH_TABLE_ITERATORS
#include <rocksdb/utilities/types_util.h>
#endif

namespace kvbatch {

namespace {

// A step costs about a thirtieth of a seek.
constexpr int kStepsBeforeSeek = 32;

}  // namespace

OverlayReader::Opened::Opened(const SourceStore& store, rocksdb::ColumnFamilyHandle* family, const TableFile& file,
                              const RangeBounds& bounds)
    : operations(store, family, file, bounds), base_reader(store.TableOptions(family, kReadaheadBytes)) {
  if (!operations.Valid()) {
    return;
  }
  {
    // Its index and filter are no entries.
    const BlockMemory::Unbound unbound;
    status = FromSource(base_reader.Open(file.path), "open " + file.path);
  }
  if (status.ok()) {
#if KVBATCH_TABLE_ITERATORS
    base = base_reader.NewTableIterator();
    base->SeekToFirst();
#endif
  }
}

OverlayReader::OverlayReader(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family,
                             const TableFile& base, const RangeBounds& bounds, uint32_t target_family,
                             const Digest& digest)
    : FrameFiller(std::move(store), family, target_family, digest),
      base_(base),
      bounds_{bounds.start, bounds.end, std::nullopt},
      after_(bounds.after),
      entries_(base.entries),
      raw_bytes_(base.raw_bytes) {}

#if KVBATCH_TABLE_ITERATORS

Result<bool> OverlayReader::InBase(std::string_view key, uint64_t* value_bytes) {
  const rocksdb::Slice wanted = ToSlice(key);
  const auto* comparator = family()->GetComparator();
  for (int steps = 0; opened_->base->Valid(); ++steps) {
    rocksdb::ParsedEntryInfo record;
    if (const auto parsed = rocksdb::ParseEntry(opened_->base->key(), comparator, &record); !parsed.ok()) {
      return FromSource(parsed, "read the store");
    }
    const int order = comparator->Compare(record.user_key, wanted);
    if (order == 0) {
      // As RangeReader counts them: of an entity its serialized columns, unless it is a plain value in truth.
      std::string_view value = View(opened_->base->value());
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
      opened_->base->Next();
      continue;
    }
    std::string internal_key;
    const auto made = rocksdb::GetInternalKeyForSeek(wanted, comparator, &internal_key);
    if (!made.ok()) {
      return FromSource(made, "seek in the source");
    }
    opened_->base->Seek(internal_key);
  }
  if (Status status = FromSource(opened_->base->status(), "read the store"); !status.ok()) {
    return status;
  }
  return false;
}

#else

// Never asked: no file is grafted.
Result<bool> OverlayReader::InBase(std::string_view /*key*/, uint64_t* /*value_bytes*/) { return false; }

#endif  // KVBATCH_TABLE_ITERATORS

bool OverlayReader::IsSkipped(std::string_view key) const {
  return after_ && family()->GetComparator()->Compare(ToSlice(key), *after_) <= 0;
}

Status OverlayReader::PackInto(BatchBuilder* builder, size_t room, FillResult* result) {
  if (!opened_) {
    opened_ = std::make_unique<Opened>(store(), family(), base_, bounds_);
    // Once more the one that was looked at last.
    if (OverlayIterator& operations = opened_->operations;
        looked_ && operations.Valid() && operations.key() == *bounds_.start) {
      operations.Next();
    }
  }
  if (!opened_->status.ok()) {
    return opened_->status;
  }
  OverlayIterator& operations = opened_->operations;
  for (; operations.Valid(); operations.Next()) {
    const std::string_view key = operations.key();
    const std::string_view value = operations.value();
    uint64_t replaced_bytes = 0;
    auto replaces = InBase(key, &replaced_bytes);
    if (!replaces.ok()) {
      return replaces.status();
    }
    const bool deletes = operations.kind() == RecordKind::kDelete;
    if (!deletes || replaces.value()) {
      const bool skipped = IsSkipped(key);
      const bool large = !skipped && key.size() + value.size() >= kLargeEntryBytes;
      if (large) {
        if (Status status = store().CheckKey(key); !status.ok()) {
          return status;
        }
      }
      const auto pack = [&] {
        return deletes                                    ? builder->Delete(target_family(), key)
               : operations.kind() == RecordKind::kEntity ? builder->PutEntity(target_family(), key, value)
                                                          : builder->Put(target_family(), key, value);
      };
      const bool has_room = !large || (room > 0 && builder->count() == 0);
      if (!skipped && !(has_room && pack())) {
        StopBefore(BatchBuilder::SpaceFor(target_family(), key, value), result);
        return Status::Ok();
      }
      const uint64_t pair_bytes = key.size() + value.size();
      entries_ += (deletes ? 0 : 1) - (replaces.value() ? 1 : 0);
      raw_bytes_ += (deletes ? 0 : pair_bytes) - (replaces.value() ? key.size() + replaced_bytes : 0);
      (skipped ? skipped_bytes_ : result->raw_bytes) += pair_bytes;
      last_key_.assign(key);
      if (large) {
        bounds_.start = last_key_;
        looked_ = true;
        result->stop = StopReason::kFull;
        return Status::Ok();
      }
    }
    if (!looked_) {
      bounds_.start.emplace();
      looked_ = true;
    }
    bounds_.start->assign(key);
  }
  return operations.status();
}

}  // namespace kvbatch
