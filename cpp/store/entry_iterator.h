// EntryIterator: the entries of [start, end) of one column family as a reader of a whole range wants them.
#pragma once

#include <rocksdb/db.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "store/range_bounds.h"
#include "store/table_run.h"

namespace kvbatch {

class SourceStore;

// Reads with checksums verified, readahead, and without filling the block cache. Where the files of the range do not
// overlap they are read one behind the other, see TableRun; else, and where that does not suffice, through RocksDB's
// own iterator. Not thread-safe. `store` and `family` must outlive it.
class EntryIterator {
 public:
  // `read_ahead`: false for who wants an entry or two.
  EntryIterator(const SourceStore& store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                bool read_ahead = true);

  bool Valid() const { return tables_ ? tables_->Valid() : iterator_ && iterator_->Valid(); }
  void Next();

  // Loads the current entry; key(), value() and is_entity() speak of it until Next.
  void Load();
  std::string_view key() const { return key_; }
  // The value, or the serialized columns of an entity.
  std::string_view value() const { return value_; }
  bool is_entity() const { return is_entity_; }

  // kSource with the file at fault when iteration stopped because of an error.
  Status status() const;

  // Whether the current entry was read without RocksDB's iterator.
  bool reads_tables() const { return tables_ != nullptr; }

 private:
  void OpenIterator();
  void LeaveTablesIfNeeded();

  rocksdb::DB* const db_;
  rocksdb::ColumnFamilyHandle* const family_;
  RangeBounds bounds_;
  size_t readahead_ = 0;  // of each file that RocksDB's iterator merges
  rocksdb::Slice upper_;
  std::unique_ptr<TableRun> tables_;
  std::unique_ptr<rocksdb::Iterator> iterator_;
  Status opened_;
  std::string_view key_;
  std::string_view value_;
  std::string entity_;
  bool is_entity_ = false;
};

}  // namespace kvbatch
