// Ingester: moves finished SST files into a store. Those that become ready while others are under way go in together.
#pragma once

#include <rocksdb/db.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/status.h"

namespace kvbatch {

enum class IngestKind {
  kBuilt,  // made by an SstFileWriter
  kGraft   // made by a database: all of its sequence numbers are 0, and nothing may lie where it goes
};

// Thread-safe. Files that are under way at the same time must not overlap within a family.
class Ingester {
 public:
  // The store must outlive it; `path` names it in messages.
  Ingester(rocksdb::DB* db, std::string path);

  Ingester(const Ingester&) = delete;
  Ingester& operator=(const Ingester&) = delete;

  // Returns when the file is durably in the family, or is not and stays where it is: kCorruption for a file that
  // RocksDB does not take, kNoSpace, kTarget, kRefused for a graft where RocksDB cannot do it. Whatever waits when a
  // call of RocksDB's ends goes into the next one, which is atomic across families; a file that RocksDB does not take
  // fails alone.
  Status Ingest(rocksdb::ColumnFamilyHandle* family, const std::string& file, IngestKind kind);

  // Calls of RocksDB that moved files in, each with one file or several.
  uint64_t calls() const;

 private:
  struct Waiting {
    rocksdb::ColumnFamilyHandle* family;
    const std::string* file;
    IngestKind kind;
    Status status;
    bool done = false;
  };

  Status Together(const std::vector<Waiting*>& group);
  void IngestGroup(const std::vector<Waiting*>& group);

  rocksdb::DB* const db_;
  const std::string path_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Waiting*> waiting_;
  bool under_way_ = false;
  uint64_t calls_ = 0;
};

}  // namespace kvbatch
