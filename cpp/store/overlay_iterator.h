// OverlayIterator: what stands over a file that is moved whole, as the newest operation of each key.
#pragma once

#include <rocksdb/db.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "batch/batch_format.h"
#include "store/range_bounds.h"
#include "store/source_store.h"
#include "store/table_run.h"

namespace kvbatch {

// One place where operations stand, in the order of their keys, each key once with its newest operation.
class OperationSource {
 public:
  virtual ~OperationSource() = default;
  virtual bool Valid() const = 0;
  // To the next key.
  virtual void Next() = 0;
  virtual std::string_view key() const = 0;
  virtual std::string_view value() const = 0;  // of an entity: its serialized columns
  virtual RecordKind kind() const = 0;         // kPut, kEntity or kDelete
  virtual uint64_t sequence() const = 0;
  virtual Status status() const = 0;
};

// Merges the files of a family but one, its memtables and the deletions of its WAL. Not thread-safe.
class OverlayIterator {
 public:
  // Stands on the first operation in `bounds`. `base` is the file that it leaves out. Every other file that meets the
  // bounds must be plain, the family's WAL too (SourceStore::WalIsPlain).
  OverlayIterator(const SourceStore& store, rocksdb::ColumnFamilyHandle* family, const TableFile& base,
                  const RangeBounds& bounds);
  ~OverlayIterator();

  bool Valid() const { return newest_ != nullptr; }
  void Next();

  // Until Next.
  std::string_view key() const { return newest_->key(); }
  std::string_view value() const { return newest_->value(); }
  RecordKind kind() const { return newest_->kind(); }

  const Status& status() const { return status_; }

 private:
  void Settle();

  const rocksdb::Comparator* comparator_;
  std::vector<std::unique_ptr<OperationSource>> sources_;
  OperationSource* newest_ = nullptr;
  Status status_;
};

}  // namespace kvbatch
