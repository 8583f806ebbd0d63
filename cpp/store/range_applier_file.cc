// The part of RangeApplier that takes whole SST files.
#include <fcntl.h>
#include <rocksdb/sst_file_reader.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "store/range_applier.h"
#include "store/rocksdb_status.h"
#include "store/sst_writing.h"
#include "store/table_check.h"

namespace kvbatch {

Result<int> RangeApplier::OpenTaken() {
  if (Status status = BackgroundStatus(); !status.ok()) {
    return status;
  }
  if (taken_.valid()) {
    return taken_.get();
  }
  if (mode_ != ApplyMode::kIngest || grafted_ || writer_) {
    return Latch(Status(Code::kProtocol, "range " + std::to_string(range_.range) + " takes no file now"));
  }
  if (Status status = store_->CheckOpen(); !status.ok()) {
    return status;
  }
  taken_path_ = store_->NextSpoolFile();
  taken_.Reset(::open(taken_path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!taken_.valid()) {
    return Latch(FromErrno(Code::kTarget, "make " + taken_path_, errno));
  }
  return taken_.get();
}

Status RangeApplier::AddPiece(uint64_t length, uint32_t crc32c) {
  if (!taken_.valid()) {
    return Status(Code::kUsage, "no file is open for this piece");
  }
  applied_.digest = ChainFilePiece(applied_.digest, taken_bytes_, length, crc32c);
  taken_bytes_ += length;
  // As MakeRoom: with the file before, which is being made durable, no more than one full file.
  return taken_bytes_ > store_->options_.sst_file_bytes / 4 ? Drain() : Status::Ok();
}

Status RangeApplier::EndFile(TakenFile file) {
  // One file at a time is under way, so that cursors become durable in their order.
  if (Status status = Drain(); !status.ok()) {
    return status;
  }
  if (!taken_.valid()) {
    return Latch(Status(Code::kProtocol, "range " + std::to_string(range_.range) + ": the end of no file"));
  }
  if (file.graft && applied_.entries > 0) {
    return Latch(Status(Code::kProtocol, "range " + std::to_string(range_.range) + ": a graft behind other entries"));
  }
  const auto follows = std::exchange(follows_, file.graft ? std::nullopt : std::optional(file.last_key));
  const std::string path = std::exchange(taken_path_, std::string());
  taken_.Reset();
  taken_bytes_ = 0;
  grafted_ = file.graft;
  applied_.entries += file.entries;
  applied_.raw_bytes += file.raw_bytes;
  applied_.last_key = file.last_key;
  const Cursor cursor = applied_;
  const auto durable = file.graft ? std::nullopt : std::optional(cursor);
  RunBehind(
      [this, path, follows, durable, file = std::move(file)] {
        bool ingested_before = false;
        Status status = CheckTaken(path, file, follows, &ingested_before);
        if (status.ok() && !ingested_before) {
          status = store_->Ingest(range_.family, path, file.graft ? IngestKind::kGraft : IngestKind::kBuilt);
        }
        if (!status.ok() || ingested_before) {
          ::unlink(path.c_str());
        }
        if (!status.ok() || !durable) {
          return status;
        }
        return store_->PutRecord(EncodeCursorKey(durable->range), EncodeCursor(*durable));
      },
      durable);
  return Status::Ok();
}

Status RangeApplier::CheckTaken(const std::string& path, const TakenFile& file,
                                const std::optional<std::string>& follows, bool* ingested_before) const {
  const auto corrupt = [this](const std::string& why) {
    return Status(Code::kCorruption, "range " + std::to_string(range_.range) + ": a file that " + why);
  };
  ColumnFamilyDescription family;
  {
    const std::lock_guard lock(store_->mutex_);
    family = store_->families_.at(range_.family);
  }
  rocksdb::SstFileReader reader(SstOptions(family));
  if (const auto status = reader.Open(path); !status.ok()) {
    return corrupt("RocksDB does not open: " + status.ToString());
  }
  if (file.graft) {
    // Nobody has looked into it: the sender read its bytes, and that they came over unchanged was checked.
    if (Status status = CheckBlocks(&reader, range_.file); !status.ok()) {
      return status;
    }
  }
  const auto properties = reader.GetTableProperties();
  if (properties->num_entries != file.entries || file.entries == 0) {
    return corrupt("holds " + std::to_string(properties->num_entries) + " entries; the sender says " +
                   std::to_string(file.entries));
  }
  if (properties->num_deletions > 0 || properties->num_merge_operands > 0 || properties->num_range_deletions > 0) {
    return corrupt("holds deletions or merge operands");
  }
  const std::unique_ptr<rocksdb::Iterator> iterator(reader.NewIterator(rocksdb::ReadOptions()));
  iterator->SeekToFirst();
  const std::string first = iterator->Valid() ? iterator->key().ToString() : std::string();
  iterator->SeekToLast();
  const bool whole = iterator->Valid();
  const std::string last = whole ? iterator->key().ToString() : std::string();
  if (!whole || last != file.last_key) {
    return corrupt(whole ? "ends at another key than the sender says" : iterator->status().ToString());
  }
  if ((follows && comparator_->Compare(first, *follows) <= 0) ||
      (range_.start && comparator_->Compare(first, *range_.start) < 0) ||
      (range_.end && comparator_->Compare(last, *range_.end) >= 0)) {
    return corrupt("does not follow what was applied, or lies outside the range");
  }
  if (file.graft) {
    auto held = store_->Holds(range_.family, *properties, first, last);
    if (!held.ok()) {
      return held.status();
    }
    *ingested_before = held.value();
  }
  return Status::Ok();
}

void RangeApplier::DropTaken() {
  if (taken_.valid()) {
    taken_.Reset();
    ::unlink(taken_path_.c_str());
  }
}

}  // namespace kvbatch
