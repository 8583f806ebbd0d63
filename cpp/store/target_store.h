// TargetStore: a RocksDB directory that a job writes into, with the job's records in a reserved column family.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/table_properties.h>
#include <rocksdb/write_batch.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "batch/batch_format.h"
#include "frame/frame.h"
#include "store/cursor.h"
#include "store/finisher.h"
#include "store/ingester.h"
#include "store/store_description.h"
#include "store/table_run.h"
#include "store/target_health.h"

namespace kvbatch {

// The first pieces of a file of a range whose sender went away.
struct PartialFile {
  uint32_t range = 0;
  uint64_t length = 0;
  uint32_t crc32c = 0;
};

// A whole SST file of another store's column family, by its name in a directory.
struct ImportedFile {
  std::string name;
  uint64_t file_bytes = 0;
  TablePlace place;
};

struct TargetOptions {
  bool create = true;                            // make the store where there is none
  ColumnFamilyDescription default_family;        // its default family then; the name does not matter
  uint64_t sst_file_bytes = uint64_t{64} << 20;  // most that a range has unfinished; files are cut at 3/4 of it
  uint64_t max_memory = 0;                       // of the process, for what HoldKeys and memtables take; 0: no bound
};

// Thread-safe but for Open and Close. Automatic compactions are off while it is open: a job leaves files where they
// belong and must not run the owner's merge operators or compaction filters.
class TargetStore : public std::enable_shared_from_this<TargetStore> {
 public:
  // kRefused when another process has it open or it cannot be opened as it is; kUsage when it does not exist and is
  // not to be made. Leftovers of an interrupted job in the spool directory are removed, but for the first pieces of
  // files that it can go on with.
  static Result<std::shared_ptr<TargetStore>> Open(const std::string& path, const TargetOptions& options);
  ~TargetStore();

  TargetStore(const TargetStore&) = delete;
  TargetStore& operator=(const TargetStore&) = delete;

  const std::string& path() const { return path_; }
  // Families besides the reserved one.
  std::vector<ColumnFamilyDescription> Families() const;
  // RocksDB's id of this store, which no other store has.
  Result<std::string> Identity() const;

  // The id of the family, made with the given traits where it does not exist. kRefused when it exists with another
  // comparator.
  Result<uint32_t> EnsureFamily(const ColumnFamilyDescription& family);
  // The family, made of all the files that it has in another store: they are moved out of `directory`, by name where
  // that is the same file system, or copied. kRefused for the default family, which every store has, and where this
  // RocksDB cannot do it; kCorruption, and no such family, for files that do not make one up.
  Status ImportFamily(const ColumnFamilyDescription& family, const std::string& directory,
                      const std::vector<ImportedFile>& files, bool move);
  Result<uint32_t> FamilyId(const std::string& name) const;
  // Whether the family holds an entry in [start, end).
  Result<bool> HasData(const std::string& name, const std::optional<std::string>& start,
                       const std::optional<std::string>& end) const;

  // The job's own records. They are synced when PutRecord returns.
  bool HasRecords() const;
  Result<std::optional<std::string>> GetRecord(std::string_view key) const;
  Status PutRecord(std::string_view key, std::string_view value);
  Result<std::vector<Cursor>> Cursors() const;
  // Of ranges whose own file is in the store, with what counts behind it: see RangeApplier::EndFile.
  Result<std::vector<Cursor>> Grafts() const;
  // What stands in the spool of files that nobody is receiving now, in the order of their ranges. Reads them; leaves
  // out what cannot be read. Of the ranges in `built`, whose files are made by the sender, without the last 16 KiB:
  // what stands at such a file's end tells when it was made, and would not come out the same when it is made again.
  std::vector<PartialFile> PartialFiles(const std::set<uint32_t>& built = {}) const;
  // Drops the reserved family: from here on the directory is an ordinary store.
  Status DropRecords();

  // Validates the batch in `frame` against this store's families and writes it with the WAL on, not synced.
  // kCorruption, and nothing written, for whatever RocksDB itself would notice only behind its WAL.
  Status Write(Frame* frame);
  // As Write.
  Status WriteBatch(std::string_view batch);
  Status SyncWal();
  // How near it is to making writers wait.
  Result<TargetHealth> Health() const;
  // Memtables to files, so that the store is whole in its SST files.
  Status Flush();
  // Waits for background work and closes; a store that is nobody's unfinished target gets automatic compactions back.
  // Everything else fails afterwards.
  Status Close();

 private:
  friend class RangeApplier;

  TargetStore() = default;
  // Requires mutex_.
  uint32_t Adopt(rocksdb::ColumnFamilyHandle* handle, const ColumnFamilyDescription& family);
  static rocksdb::ColumnFamilyOptions WriteOptionsFor(const ColumnFamilyDescription& family);
  Status CheckOpen() const;
  Status EnsureReserved();
  Result<std::vector<Cursor>> ReadCursors(std::string_view prefix) const;
  // Removes what nobody can go on with, and the directory itself when nothing is left in it.
  void CleanSpool();
  Status RestoreOwnersOptions();
  // Requires mutex_ and a record of a known family.
  Status CheckRecord(const Record& record) const;
  // With `cursor`, the cursor stands in the same write.
  Status WriteValidated(rocksdb::WriteBatch batch, const Cursor* cursor);
  rocksdb::ColumnFamilyHandle* Handle(uint32_t id) const;
  std::string NextSpoolFile();
  std::string PartialPath(uint32_t range) const;
  // As Ingester::Ingest.
  Status Ingest(uint32_t family, const std::string& file, IngestKind kind);
  // Before a file becomes the store's whose first and last key have so many bytes together. kRefused where RocksDB,
  // which keeps those of every file in memory, would take too much for it. Small keys do not count.
  Status HoldKeys(uint64_t bytes);
  Status HoldKeysOfFiles();
  // Whether the family holds, between the two keys, the very file whose properties these are.
  Result<bool> Holds(uint32_t family, const rocksdb::TableProperties& file, const std::string& first,
                     const std::string& last) const;

  std::string path_;
  TargetOptions options_;
  mutable std::mutex mutex_;
  std::map<uint32_t, rocksdb::ColumnFamilyHandle*> handles_;
  std::map<uint32_t, ColumnFamilyDescription> families_;
  std::set<uint32_t> mergeable_;  // ids of the families that the store itself can merge in
  rocksdb::ColumnFamilyHandle* reserved_ = nullptr;
  uint64_t next_spool_file_ = 0;
  uint64_t held_key_bytes_ = 0;
  std::unique_ptr<rocksdb::DB> db_;
  std::unique_ptr<Ingester> ingester_;
  std::unique_ptr<Finisher> finisher_;
};

}  // namespace kvbatch
