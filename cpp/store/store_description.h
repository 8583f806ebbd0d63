// What a RocksDB directory says of itself before it is opened: its column families and how they were set up.
#pragma once

#include <rocksdb/options.h>

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace kvbatch {

// What is read ahead of whoever reads whole ranges or whole files.
inline constexpr size_t kReadaheadBytes = 1 << 20;
// Less spares no reads: a block is about as large.
inline constexpr size_t kLeastReadaheadBytes = 16 << 10;

// What is read ahead of each of `files` files that one reader merges: all of them together have what one file would.
inline constexpr size_t ReadaheadOfEach(size_t files) {
  const size_t share = files > 1 ? kReadaheadBytes / files : kReadaheadBytes;
  return share < kLeastReadaheadBytes ? 0 : share;
}

// The column family in which a target keeps its job record and cursors until the job is finished.
inline constexpr char kReservedColumnFamily[] = "__kvbatch__";

// The traits of a column family that a copy should keep. The names are RocksDB's own, as its OPTIONS file has them.
struct ColumnFamilyDescription {
  std::string name;  // arbitrary bytes, usually UTF-8
  std::string comparator = "leveldb.BytewiseComparator";
  std::string merge_operator;       // empty: none
  std::string compression = "lz4";  // none, snappy, zlib, bzip2, lz4, lz4hc or zstd: that of the bottommost level
  std::string filter_policy;        // as FilterPolicy::CreateFromString takes it; empty: none
  uint64_t block_size = 16 << 10;
  // A store opens only with at least as many levels as its files stand in, so a copy must not have more than its
  // source.
  int num_levels = 7;
};

// Lists the column families in the order of their ids, traits from the newest OPTIONS file; a store without one
// has the defaults above. kUsage when `path` is no directory or no RocksDB directory, kSource when it cannot be read.
// Opens nothing for writing.
Result<std::vector<ColumnFamilyDescription>> DescribeStore(const std::string& path);

// Where the store keeps its WAL: mostly `path` itself; else the directory that its OPTIONS file names. A store that was
// copied may still name the place it came from; a directory that is a store of its own, or is gone, is not taken.
std::string WalDirectory(const std::string& path);

// Whether the OPTIONS file sets block_align for any family. RocksDB before 9.2 leaves the bytes that fill such blocks
// up out of the checksum that it records of a file (https://github.com/facebook/rocksdb/pull/12542).
bool AlignsBlocks(const std::string& path);

// kRefused, by name, for a comparator this build does not know and for user-defined timestamps.
Status CheckComparator(const ColumnFamilyDescription& family);

// RocksDB options that open the family: comparator, merge operator where this build knows it, table format.
// Requires CheckComparator to have passed. An operator that it does not know is replaced by a failing one.
// Blocks are cached in `cache`, or not at all; then BlockMemory bounds those who ask for it.
rocksdb::ColumnFamilyOptions OpenOptions(const ColumnFamilyDescription& family,
                                         const std::shared_ptr<rocksdb::Cache>& cache = nullptr);

// Merges nothing. Without any operator RocksDB ends the replay of a WAL at the first merge operand.
std::shared_ptr<rocksdb::MergeOperator> FailingMergeOperator(const std::string& name);

// Whether the family's merge operator is set and known to this build.
bool HasUsableMergeOperator(const ColumnFamilyDescription& family);

// kUsage for a compression name that is not in the list above or not linked into this build.
Result<rocksdb::CompressionType> ParseCompression(const std::string& name);

// The RocksDB this build is linked with, e.g. "9.10.0".
std::string RocksdbVersion();

// A logger that drops everything, so that opening a store writes no LOG file.
std::shared_ptr<rocksdb::Logger> SilentLogger();

}  // namespace kvbatch
