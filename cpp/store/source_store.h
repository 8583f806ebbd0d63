// SourceStore: a RocksDB directory opened read-only, offline, without a trace: no LOG, no lock file, no mtime changes.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/write_buffer_manager.h>

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "store/metered_file_system.h"
#include "store/recorded_checksums.h"
#include "store/store_description.h"
#include "store/store_lock.h"
#include "store/table_run.h"
#include "store/wal_deletions.h"

namespace kvbatch {

// Figures of one column family from its table properties and memtables. All are estimates but the file count.
struct ColumnFamilyFigures {
  uint64_t entries = 0;
  uint64_t raw_bytes = 0;   // keys and values before compression
  uint64_t file_bytes = 0;  // SST and blob files
  uint64_t files = 0;       // SST files
  uint64_t memtable_entries = 0;
  uint64_t merge_operands = 0;  // in the files
};

// What a store may take of a job's memory while it is open.
struct SourceMemory {
  uint64_t max_memory = 0;      // of the job; 0: no bound
  uint64_t reserved_bytes = 0;  // of that, what the job needs for itself at least
};

// Thread-safe once open. Readers must not outlive it; the bindings keep it alive for them.
class SourceStore {
 public:
  // Opens `names` (all when empty) and takes the store's lock in shared mode. Refuses what cannot be moved: unknown
  // comparators, user-defined timestamps, merge operands whose operator is not known, a store that is being written.
  // kUsage when its WAL takes more memory than there is; the message says what would be enough.
  static Result<std::shared_ptr<SourceStore>> Open(const std::string& path, const std::vector<std::string>& names,
                                                   const SourceMemory& memory = {});
  ~SourceStore();

  SourceStore(const SourceStore&) = delete;
  SourceStore& operator=(const SourceStore&) = delete;

  const std::string& path() const { return path_; }
  // The opened families in the order of their ids.
  const std::vector<ColumnFamilyDescription>& families() const { return families_; }
  // kUsage when there is no such family.
  Result<rocksdb::ColumnFamilyHandle*> Family(const std::string& name) const;
  rocksdb::DB* db() const { return db_.get(); }
  // To read one file of the family by itself, `readahead` bytes ahead once it is read from front to back.
  rocksdb::Options TableOptions(rocksdb::ColumnFamilyHandle* family, size_t readahead) const;
  uint64_t LatestSequence() const { return db_->GetLatestSequenceNumber(); }

  // Everything that is read of the store's tables goes through it; what is sent of them by other ways is charged by who
  // sends it.
  ReadMeter& reads() const { return *reads_; }

  // RocksDB's id of this store, which no other store has.
  Result<std::string> Identity() const;

  // What memtables take, which hold the WAL.
  uint64_t memtable_bytes() const { return memtables_->memory_usage(); }

  // kRefused for a key that is too large for the memory there is: readers, RocksDB and what the sides tell each other
  // have a key many times.
  Status CheckKey(std::string_view key) const;

  // What the files of the opened families take while they are read, beyond what is every stream's in any case: of all
  // readers together their indexes, of each reader the blocks of the files that it merges.
  struct FileMemory {
    uint64_t shared_bytes = 0;
    uint64_t reader_bytes = 0;
    uint64_t merged = 0;  // files at once, where they are many
  };
  Result<FileMemory> MemoryForFiles() const;

  Result<ColumnFamilyFigures> Figures(const std::string& name) const;

  // The first and last key of a family; nothing when it is empty. Where they stand at large entries, which are not read
  // for this, what the files say of their ends: there may be fewer keys than that.
  Result<std::optional<std::pair<std::string, std::string>>> FirstAndLastKey(const std::string& name) const;

  // The first key at or behind `key` (in the comparator's order); nothing when there is none. `key` itself where a
  // large entry would have to be read.
  Result<std::optional<std::string>> Seek(const std::string& name, const std::string& key) const;

  // What the files of a family allow; looked at once. The pointer lives as long as the store.
  Result<const TableLayout*> Tables(rocksdb::ColumnFamilyHandle* family) const;

  // The file `file` of the directory, one of those of the family. kUsage when it is none.
  Result<TableFile> Table(const std::string& name, const std::string& file) const;

  // The crc32c that the SST or blob file `file` of the directory had when RocksDB wrote it; nothing where that was not
  // recorded, or cannot be relied on: see AlignsBlocks.
  Result<std::optional<uint32_t>> RecordedCrc32c(const std::string& file) const;

  // What the WAL says of deletions in a family whose memtables hold entries; it is read once, when it is first asked
  // for. The pointer lives as long as the store.
  Result<const WalDeletions*> DeletedInWal(rocksdb::ColumnFamilyHandle* family) const;

  // Whether what stands in the memtables of a family can be read by itself: puts and deletions of single keys only.
  Result<bool> MemtablesArePlain(const std::string& name) const;

  // Estimated bytes, files and memtables, between `start` and each of `keys` (in the comparator's order); about none
  // for a key before it.
  Result<std::vector<uint64_t>> ApproximateSizes(const std::string& name, const std::string& start,
                                                 const std::vector<std::string>& keys) const;

 private:
  SourceStore() = default;
  std::unique_ptr<rocksdb::Iterator> NewKeyIterator(rocksdb::ColumnFamilyHandle* family) const;
  Result<std::optional<std::pair<std::string, std::string>>> EndsOfTables(rocksdb::ColumnFamilyHandle* family) const;
  Result<const TableLayout*> TablesOf(const std::string& name) const;
  Status CheckKeysOfFiles() const;
  Status CheckMergeOperands(const ColumnFamilyDescription& family) const;

  std::string path_;
  size_t max_key_bytes_ = std::numeric_limits<size_t>::max();
  std::shared_ptr<StoreLock> lock_;
  std::vector<ColumnFamilyDescription> families_;
  std::map<std::string, rocksdb::ColumnFamilyHandle*> handles_;
  const std::shared_ptr<ReadMeter> reads_ = std::make_shared<ReadMeter>();
  const std::unique_ptr<rocksdb::Env> env_ = MeteredEnv(reads_);
  std::shared_ptr<rocksdb::WriteBufferManager> memtables_;
  std::unique_ptr<rocksdb::DB> db_;
  mutable std::mutex mutex_;
  mutable std::map<rocksdb::ColumnFamilyHandle*, TableLayout> layouts_;
  mutable std::optional<Result<std::map<uint32_t, WalDeletions>>> wal_;
  mutable std::optional<Result<RecordedChecksums>> recorded_;
};

}  // namespace kvbatch
