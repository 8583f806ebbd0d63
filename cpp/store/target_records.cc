// The records of a job in its target: TargetStore's reserved column family.
#include <rocksdb/options.h>

#include <utility>

#include "store/rocksdb_status.h"
#include "store/target_store.h"

namespace kvbatch {

namespace {

ColumnFamilyDescription ReservedFamily() {
  ColumnFamilyDescription family;
  family.name = kReservedColumnFamily;
  family.compression = "none";
  return family;
}

}  // namespace

bool TargetStore::HasRecords() const {
  const std::lock_guard lock(mutex_);
  return reserved_ != nullptr;
}

Status TargetStore::EnsureReserved() {
  const std::lock_guard lock(mutex_);
  if (reserved_ != nullptr) {
    return Status::Ok();
  }
  const auto status = db_->CreateColumnFamily(WriteOptionsFor(ReservedFamily()), kReservedColumnFamily, &reserved_);
  return FromTarget(status, "make the reserved column family in " + path_);
}

Result<std::optional<std::string>> TargetStore::GetRecord(std::string_view key) const {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  if (!HasRecords()) {
    return std::optional<std::string>();
  }
  std::string value;
  const auto status = db_->Get(rocksdb::ReadOptions(), reserved_, ToSlice(key), &value);
  if (status.IsNotFound()) {
    return std::optional<std::string>();
  }
  if (!status.ok()) {
    return FromTarget(status, "read the job record of " + path_);
  }
  return std::optional<std::string>(std::move(value));
}

Status TargetStore::PutRecord(std::string_view key, std::string_view value) {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  if (Status status = EnsureReserved(); !status.ok()) {
    return status;
  }
  rocksdb::WriteOptions options;
  options.sync = true;
  return FromTarget(db_->Put(options, reserved_, ToSlice(key), ToSlice(value)), "write the job record of " + path_);
}

Result<std::vector<Cursor>> TargetStore::Cursors() const { return ReadCursors(kCursorPrefix); }

Result<std::vector<Cursor>> TargetStore::Grafts() const { return ReadCursors(kGraftPrefix); }

Result<std::vector<Cursor>> TargetStore::ReadCursors(std::string_view prefix) const {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  std::vector<Cursor> cursors;
  if (!HasRecords()) {
    return cursors;
  }
  const std::unique_ptr<rocksdb::Iterator> iterator(db_->NewIterator(rocksdb::ReadOptions(), reserved_));
  for (iterator->Seek(ToSlice(prefix)); iterator->Valid() && View(iterator->key()).starts_with(prefix);
       iterator->Next()) {
    auto cursor = DecodeCursor(View(iterator->key()), View(iterator->value()), prefix);
    if (!cursor.ok()) {
      return cursor.status();
    }
    cursors.push_back(cursor.Take());
  }
  if (Status status = FromTarget(iterator->status(), "read the cursors of " + path_); !status.ok()) {
    return status;
  }
  return cursors;
}

Status TargetStore::DropRecords() {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  const std::lock_guard lock(mutex_);
  if (reserved_ == nullptr) {
    return Status::Ok();
  }
  if (Status status = FromTarget(db_->DropColumnFamily(reserved_), "drop the job record of " + path_); !status.ok()) {
    return status;
  }
  db_->DestroyColumnFamilyHandle(std::exchange(reserved_, nullptr));
  return Status::Ok();
}

}  // namespace kvbatch
