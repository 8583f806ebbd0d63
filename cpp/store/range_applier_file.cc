// The part of RangeApplier that takes whole SST files.
#include <fcntl.h>
#include <rocksdb/sst_file_reader.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/file_checksum.h"
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
  taken_path_ = store_->PartialPath(range_.range);
  taken_.Reset(::open(taken_path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!taken_.valid()) {
    return Latch(FromErrno(Code::kTarget, "make " + taken_path_, errno));
  }
  return taken_.get();
}

Status RangeApplier::KeepTaken(uint64_t offset) {
  taken_path_ = store_->PartialPath(range_.range);
  const Status less(Code::kProtocol, "range " + std::to_string(range_.range) + " cannot go on at byte " +
                                         std::to_string(offset) + " of a file: less of it is there");
  if (mode_ != ApplyMode::kIngest) {
    return less;
  }
  taken_.Reset(::open(taken_path_.c_str(), O_RDWR | O_CLOEXEC));
  struct stat status{};
  if (!taken_.valid() || ::fstat(taken_.get(), &status) != 0 || static_cast<uint64_t>(status.st_size) < offset) {
    taken_.Reset();
    return less;
  }
  if (::ftruncate(taken_.get(), static_cast<off_t>(offset)) != 0) {
    return FromErrno(Code::kTarget, "cut " + taken_path_, errno);
  }
  const auto crc = FileCrc32c(taken_.get(), 0, offset, Code::kTarget, "read " + taken_path_);
  return crc.ok() ? AddPiece(offset, crc.value()) : crc.status();
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
  // The next one's pieces have the name now.
  const std::string path = store_->NextSpoolFile();
  if (std::rename(taken_path_.c_str(), path.c_str()) != 0) {
    return Latch(FromErrno(Code::kTarget, "rename " + taken_path_, errno));
  }
  taken_.Reset();
  taken_bytes_ = 0;
  grafted_ = file.graft;
  applied_.entries += file.entries;
  applied_.raw_bytes += file.raw_bytes;
  applied_.last_key = file.last_key;
  const Cursor cursor = applied_;
  const auto durable = file.graft ? std::nullopt : std::optional(cursor);
  RunBehind(
      [this, path, follows, cursor, file = std::move(file)] {
        bool ingested_before = false;
        Status status = CheckTaken(path, file, follows, &ingested_before);
        if (status.ok() && !ingested_before) {
          status = store_->Ingest(range_.family, path, file.graft ? IngestKind::kGraft : IngestKind::kBuilt);
        }
        if (!status.ok() || ingested_before) {
          ::unlink(path.c_str());
        }
        const auto prefix = file.graft ? kGraftPrefix : kCursorPrefix;
        return status.ok() ? store_->PutRecord(EncodeCursorKey(cursor.range, prefix), EncodeCursor(cursor)) : status;
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
  return *ingested_before ? Status::Ok() : store_->HoldKeys(first.size() + last.size());
}

void RangeApplier::LeaveTaken() {
  if (!taken_.valid()) {
    return;
  }
  // Behind the last piece that was whole and right more may have come.
  const bool kept =
      background_.ok() && taken_bytes_ > 0 && ::ftruncate(taken_.get(), static_cast<off_t>(taken_bytes_)) == 0;
  taken_.Reset();
  if (!kept) {
    ::unlink(taken_path_.c_str());
  }
}

}  // namespace kvbatch
