// EntryIterator: the entries of [start, end) of one column family as a reader of a whole range wants them.
#pragma once

#include <rocksdb/db.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace kvbatch {

// Bounds of a range; none: the first or past the last key. `after` starts behind that key, for resuming.
struct RangeBounds {
  std::optional<std::string> start;
  std::optional<std::string> end;
  std::optional<std::string> after;
};

// Reads with checksums verified, readahead, and without filling the block cache. Not thread-safe. `db` and `family`
// must outlive it.
class EntryIterator {
 public:
  EntryIterator(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds);

  bool Valid() const { return iterator_->Valid(); }
  void Next() { iterator_->Next(); }

  // Loads the current entry; key(), value() and is_entity() speak of it until Next.
  void Load();
  std::string_view key() const { return key_; }
  // The value, or the serialized columns of an entity.
  std::string_view value() const { return value_; }
  bool is_entity() const { return is_entity_; }

  // kSource with the file at fault when iteration stopped because of an error.
  Status status() const;

 private:
  RangeBounds bounds_;
  rocksdb::Slice upper_;
  std::unique_ptr<rocksdb::Iterator> iterator_;
  std::string_view key_;
  std::string_view value_;
  std::string entity_;
  bool is_entity_ = false;
};

}  // namespace kvbatch
