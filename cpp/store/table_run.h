// TableRun: the entries of SST files whose key ranges do not overlap, read file by file.
//
// Where one file alone holds all there is of its keys, RocksDB's merging and its memtables have nothing to add, and
// leaving them out halves what an entry costs. In each file the newest version of a key stands first.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/version.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "store/range_bounds.h"

// Whether RocksDB has what this is made of; an older one reads everything through its own iterator.
#define KVBATCH_TABLE_ITERATORS (ROCKSDB_MAJOR > 9 || (ROCKSDB_MAJOR == 9 && ROCKSDB_MINOR >= 10))

namespace rocksdb {
class SstFileReader;
}

namespace kvbatch {

// Where an SST file stands in its column family, which only the MANIFEST knows.
struct TablePlace {
  int level = 0;
  uint64_t smallest_sequence = 0;
  uint64_t largest_sequence = 0;
  uint64_t epoch = 0;  // orders the files of level 0; 0: RocksDB goes by their sequence numbers
  // Internal keys: those that the file counts as having, which a range deletion in it may reach beyond its entries.
  std::string smallest;
  std::string largest;

  bool operator==(const TablePlace& other) const = default;
};

// One SST file of a column family and the user keys it spans, both ends included.
struct TableFile {
  std::string path;
  std::string name;  // of the file in the store's directory; empty when it lies elsewhere
  std::string smallest;
  std::string largest;
  uint64_t file_bytes = 0;
  uint64_t entries = 0;
  uint64_t raw_bytes = 0;  // keys and values before compression
  // Of every entry, where all have the same one: a file from outside says 0, and only the MANIFEST knows better.
  std::optional<uint64_t> sequence;
  // Puts and deletions of single keys, nothing else: whoever reads it by itself understands it.
  bool plain = false;
  // Can be moved as it is: plain, without deletions, older than everything else about its keys (all of its sequence
  // numbers are 0), in the store's directory.
  bool graftable = false;
  bool blobs = false;  // values of it stand in blob files
  TablePlace place;
};

// What the files of a column family allow.
struct TableLayout {
  std::vector<TableFile> files;  // in the order of their smallest keys; empty when this RocksDB cannot read them
  // Whether files can be read without RocksDB's view of all: no entry in memtables, no range deletion in any file. Both
  // are invisible to whoever reads a file by itself.
  bool readable = false;
  bool memtables = false;  // there are entries in memtables
  // How many files RocksDB's own iterator has open at once: those of level 0, which may overlap, and one of each
  // other level.
  size_t merged = 0;
  // Of the files that it may have open, their indexes.
  uint64_t index_bytes = 0;
};

// kSource when the properties of a file cannot be read.
Result<TableLayout> DescribeTables(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family);

// The files that meet the range, in the order of their keys, if no two of them overlap; else none.
std::vector<TableFile> DisjointTables(const TableLayout& layout, const rocksdb::Comparator* comparator,
                                      const RangeBounds& bounds);

// Not thread-safe.
class TableRun {
 public:
  // `files` as DisjointTables gives them, not empty; `options` open them. Stands on the first entry in `bounds`.
  TableRun(std::vector<TableFile> files, rocksdb::Options options, const RangeBounds& bounds);
  ~TableRun();

  TableRun(const TableRun&) = delete;
  TableRun& operator=(const TableRun&) = delete;

  bool Valid() const { return valid_; }
  void Next();

  // The current entry, until Next. The value is that of a plain entry, or the serialized columns of an entity.
  std::string_view key() const { return key_; }
  std::string_view value() const { return value_; }
  bool is_entity() const { return is_entity_; }

  // Not Valid, but not at the end either: the record at key() takes more than its file to understand (a merge operand,
  // a reference to a blob). The entries from that key on are RocksDB's own iterator's.
  bool needs_merging() const { return needs_merging_; }

  // kSource with the file at fault.
  const Status& status() const { return status_; }

 private:
  bool OpenNext();
  void Settle();
  void Stop(Status status);
  bool TakeEntity(std::string_view columns);
  bool TakeTimedPut(std::string_view packed);

  const std::vector<TableFile> files_;
  const rocksdb::Options options_;
  const RangeBounds bounds_;
  size_t next_file_ = 0;
  std::unique_ptr<rocksdb::SstFileReader> reader_;
  std::unique_ptr<rocksdb::Iterator> table_;
  bool check_end_ = false;  // the range may end inside the present file
  // Records of this key that follow are older than what was met, or lie before the range.
  std::string settled_key_;
  bool has_settled_key_ = false;
  bool valid_ = false;
  bool needs_merging_ = false;
  std::string_view key_;
  std::string_view value_;
  bool is_entity_ = false;
  Status status_;
};

}  // namespace kvbatch
