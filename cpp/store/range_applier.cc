#include "store/range_applier.h"

#include <rocksdb/env.h>
#include <unistd.h>

#include <set>
#include <utility>

#include "batch/batch_reader.h"
#include "batch/wide_columns.h"
#include "frame/large_entry.h"
#include "store/rocksdb_status.h"
#include "store/sst_writing.h"

namespace kvbatch {

namespace {

// Data is written back while the file grows, beside the filling, so that the sync at its end finds little left to do.
// Direct writes would spare a fifth of the CPU, but a megabyte at a time they keep a disk half idle: 1.0 against 2.1 M
// entries/s on a network disk.
constexpr uint64_t kBytesPerSync = 4 << 20;

constexpr size_t kCursorRoom = 1 << 10;

}  // namespace

Result<std::unique_ptr<RangeApplier>> RangeApplier::Create(std::shared_ptr<TargetStore> store, ApplyRange range,
                                                           ApplyMode mode, Cursor cursor, ApplyStart start) {
  if (store->Handle(range.family) == nullptr) {
    return Status(Code::kUsage, store->path() + " has no column family with id " + std::to_string(range.family));
  }
  std::unique_ptr<RangeApplier> applier(new RangeApplier(std::move(store), std::move(range), mode, std::move(cursor)));
  if (start.grafted) {
    applier->grafted_ = true;
    if (!std::exchange(applier->applied_.complete, false)) {
      applier->follows_.reset();
    }
  } else if (start.offset > 0) {
    if (Status status = applier->KeepTaken(start.offset); !status.ok()) {
      return status;
    }
  }
  return applier;
}

RangeApplier::RangeApplier(std::shared_ptr<TargetStore> store, ApplyRange range, ApplyMode mode, Cursor cursor)
    : store_(std::move(store)),
      range_(std::move(range)),
      mode_(mode),
      comparator_(store_->Handle(range_.family)->GetComparator()),
      applied_(std::move(cursor)) {
  applied_.range = range_.range;
  if (applied_.entries > 0) {
    follows_ = applied_.last_key;
  }
}

RangeApplier::~RangeApplier() { Close(); }

void RangeApplier::Close() {
  (void)Drain();
  if (writer_) {
    writer_.reset();
    ::unlink(file_.c_str());
  }
  LeaveTaken();
}

Status RangeApplier::BackgroundStatus() {
  const std::lock_guard lock(mutex_);
  return background_;
}

Status RangeApplier::Latch(Status status) {
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    if (background_.ok()) {
      background_ = status;
    }
  }
  return status;
}

Status RangeApplier::OpenWriter() {
  if (Status status = store_->CheckOpen(); !status.ok()) {
    return status;
  }
  ColumnFamilyDescription family;
  {
    const std::lock_guard lock(store_->mutex_);
    family = store_->families_.at(range_.family);
  }
  file_ = store_->NextSpoolFile();
  rocksdb::EnvOptions env_options;
  env_options.bytes_per_sync = kBytesPerSync;
  writer_ = std::make_unique<rocksdb::SstFileWriter>(env_options, SstOptions(family), store_->Handle(range_.family),
                                                     /*invalidate_page_cache=*/false);
  const auto status = writer_->Open(file_);
  if (!status.ok()) {
    writer_.reset();
  }
  return FromTarget(status, "make " + file_);
}

uint64_t RangeApplier::unfinished_bytes() const {
  return taken_bytes_ + (writer_ ? writer_->FileSize() : unsynced_bytes_);
}

Status RangeApplier::MakeRoom(uint64_t bytes) {
  // A file and what is filled behind it while it is made durable are together no more than one full file, since that
  // is what a crash may take.
  const uint64_t overlap = store_->options_.sst_file_bytes / 4;
  const uint64_t filled = unfinished_bytes() + bytes;
  if (writer_ && filled > store_->options_.sst_file_bytes - overlap) {
    return Submit(false);
  }
  return filled > overlap ? Drain() : Status::Ok();
}

Status RangeApplier::AddToFile(std::string_view batch) {
  if (!writer_) {
    if (Status status = OpenWriter(); !status.ok()) {
      return status;
    }
  }
  BatchReader reader(batch);
  Record record;
  std::vector<WideColumn> scratch;
  while (reader.Next(&record)) {
    const auto status = AddRecord(writer_.get(), record, &scratch);
    if (!status.ok()) {
      // The writer refuses a key that does not follow the one before it; anything else is the disk's fault.
      return status.IsInvalidArgument() ? Status(Code::kCorruption, "batch: keys out of order: " + status.ToString())
                                        : FromTarget(status, "write " + file_);
    }
  }
  return Status::Ok();
}

Status RangeApplier::Apply(Frame* frame) {
  if (Status status = BackgroundStatus(); !status.ok()) {
    return status;
  }
  return Latch(ApplyFrame(frame));
}

Status RangeApplier::ApplyFrame(Frame* frame) {
  if (taken_.valid()) {
    return Status(Code::kProtocol, "range " + std::to_string(range_.range) + ": a batch inside a file");
  }
  auto raw = frame->OpenRaw();
  if (!raw.ok()) {
    return raw.status();
  }
  const std::set<uint32_t> families{range_.family};
  BatchRules rules;
  rules.column_families = &families;
  rules.only_puts = !grafted_;
  if (grafted_) {
    rules.check = [](const Record& record) {
      const bool known =
          record.kind == RecordKind::kPut || record.kind == RecordKind::kEntity || record.kind == RecordKind::kDelete;
      return known ? Status::Ok() : Status(Code::kCorruption, "batch: neither a value nor a deletion over a graft");
    };
  }
  std::optional<rocksdb::Slice> before;
  if (mode_ == ApplyMode::kWrite) {
    // The SST writer of the other mode looks at this itself.
    rules.check = [this, &before](const Record& record) {
      const rocksdb::Slice key = ToSlice(record.key);
      if (before && comparator_->Compare(*before, key) >= 0) {
        return Status(Code::kCorruption, "batch: keys out of order");
      }
      before = key;
      return Status::Ok();
    };
  }
  auto summary = ValidateBatch(raw.value(), rules);
  if (!summary.ok()) {
    return summary.status();
  }
  if (summary.value().records != frame->header().entries) {
    return Status(Code::kCorruption, "frame header counts " + std::to_string(frame->header().entries) +
                                         " entries, its batch holds " + std::to_string(summary.value().records));
  }
  if (summary.value().records == 0) {
    return Status::Ok();
  }
  const size_t bytes = raw.value().size();
  const bool large = summary.value().records == 1 && bytes >= kLargeEntryBytes;
  const rocksdb::Slice first = ToSlice(summary.value().first_key);
  const rocksdb::Slice last = ToSlice(summary.value().last_key);
  if ((follows_ && comparator_->Compare(first, *follows_) <= 0) ||
      (range_.start && comparator_->Compare(first, *range_.start) < 0) ||
      (range_.end && comparator_->Compare(last, *range_.end) >= 0)) {
    return Status(Code::kCorruption, "batch: its keys do not follow what was applied, or lie outside the range");
  }

  if (mode_ == ApplyMode::kIngest) {
    if (Status status = MakeRoom(raw.value().size()); !status.ok()) {
      return status;
    }
  }
  Cursor next = applied_;
  next.entries += summary.value().records;
  next.raw_bytes += summary.value().key_bytes + summary.value().value_bytes;
  next.digest = ChainDigest(applied_.digest, raw.value());
  next.last_key.assign(summary.value().last_key);
  if (mode_ == ApplyMode::kIngest) {
    if (Status status = AddToFile(raw.value()); !status.ok()) {
      return status;
    }
    applied_ = std::move(next);
    follows_ = applied_.last_key;
    return large ? SettleLarge(frame, bytes) : Status::Ok();
  }
  std::string batch;
  // The cursor goes behind it.
  batch.reserve(bytes + kCursorRoom);
  batch.assign(raw.value());
  if (large) {
    frame->DropPayload();
    // It will be a file of its own.
    if (Status status = store_->HoldKeys(2 * next.last_key.size()); !status.ok()) {
      return status;
    }
  }
  Status status = store_->WriteValidated(rocksdb::WriteBatch(std::move(batch)), &next);
  if (status.ok() && large) {
    // The memtable has it now, and gives it back when it is a file.
    status = store_->Flush();
  }
  if (!status.ok()) {
    return status;
  }
  applied_ = std::move(next);
  follows_ = applied_.last_key;
  unsynced_bytes_ += bytes;
  return unsynced_bytes_ >= store_->options_.sst_file_bytes ? Submit(false) : Status::Ok();
}

Status RangeApplier::SettleLarge(Frame* frame, size_t bytes) {
  frame->DropPayload();
  const size_t needed = kLargeEntryCopies * bytes;
  if (lease_.leased() >= needed) {
    return Status::Ok();
  }
  lease_.Release();
  lease_ = frame->pool().TryLease(needed);
  if (lease_.leased() >= needed) {
    return Status::Ok();
  }
  if (Status status = Submit(false); !status.ok()) {
    return status;
  }
  return Drain();
}

Status RangeApplier::Finish(uint64_t entries, uint64_t raw_bytes, const Digest& digest) {
  if (Status status = BackgroundStatus(); !status.ok()) {
    return status;
  }
  if (taken_.valid()) {
    return Latch(Status(Code::kProtocol, "range " + std::to_string(range_.range) + " ends inside a file"));
  }
  if (grafted_) {
    // What lies over the file replaces and deletes some of it, which only the sender has counted.
    applied_.entries = entries;
    applied_.raw_bytes = raw_bytes;
  }
  if (entries != applied_.entries || raw_bytes != applied_.raw_bytes || !(digest == applied_.digest)) {
    return Latch(Status(Code::kCorruption, "range " + std::to_string(range_.range) + ": the sender counted " +
                                               std::to_string(entries) + " entries, " + std::to_string(raw_bytes) +
                                               " bytes, digest " + digest.Hex() + "; the receiver applied " +
                                               std::to_string(applied_.entries) + ", " +
                                               std::to_string(applied_.raw_bytes) + ", " + applied_.digest.Hex()));
  }
  applied_.complete = true;
  return Submit(true);
}

Status RangeApplier::Flush() {
  const bool nothing = mode_ == ApplyMode::kIngest ? writer_ == nullptr : unsynced_bytes_ == 0;
  return nothing ? BackgroundStatus() : Submit(false);
}

Status RangeApplier::Submit(bool complete) {
  // Cursors of a range must become durable in their order, so one file at a time is under way.
  if (Status status = Drain(); !status.ok()) {
    return status;
  }
  if (Status status = store_->CheckOpen(); !status.ok()) {
    return status;
  }
  Cursor cursor = applied_;
  cursor.complete = complete;
  if (mode_ == ApplyMode::kWrite) {
    unsynced_bytes_ = 0;
    Status status =
        complete ? store_->PutRecord(EncodeCursorKey(cursor.range), EncodeCursor(cursor)) : store_->SyncWal();
    const std::lock_guard lock(mutex_);
    if (status.ok()) {
      durable_ = std::move(cursor);
    }
    return background_ = status;
  }
  std::shared_ptr<rocksdb::SstFileWriter> writer = std::move(writer_);
  const std::string file = writer ? std::exchange(file_, std::string()) : std::string();
  const auto lease = std::make_shared<Buffer>(std::move(lease_));
  const bool over_graft = grafted_ && !complete;
  cursor.complete = complete || over_graft;
  RunBehind(
      [this, writer = std::move(writer), file, lease, cursor, over_graft]() mutable {
        const bool built = writer != nullptr;
        rocksdb::ExternalSstFileInfo info;
        Status status = built ? FromTarget(writer->Finish(&info), "finish " + file) : Status::Ok();
        writer.reset();
        if (status.ok() && built) {
          status = store_->HoldKeys(info.smallest_key.size() + info.largest_key.size());
        }
        if (status.ok() && built) {
          status = store_->Ingest(range_.family, file, IngestKind::kBuilt);
        }
        lease->Release();
        const auto prefix = over_graft ? kGraftPrefix : kCursorPrefix;
        return status.ok() ? store_->PutRecord(EncodeCursorKey(cursor.range, prefix), EncodeCursor(cursor)) : status;
      },
      over_graft ? std::nullopt : std::optional(cursor));
  return Status::Ok();
}

void RangeApplier::RunBehind(std::function<Status()> work, std::optional<Cursor> durable) {
  {
    const std::lock_guard lock(mutex_);
    under_way_ = true;
  }
  store_->finisher_->Submit([this, work = std::move(work), durable = std::move(durable)] {
    Status status = work();
    const std::lock_guard lock(mutex_);
    if (!status.ok()) {
      background_ = status;
    } else if (durable) {
      durable_ = durable;
    }
    under_way_ = false;
    changed_.notify_all();
  });
}

Status RangeApplier::Drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !under_way_; });
  return background_;
}

std::optional<Cursor> RangeApplier::TakeDurable() {
  const std::lock_guard lock(mutex_);
  return std::exchange(durable_, std::nullopt);
}

}  // namespace kvbatch
