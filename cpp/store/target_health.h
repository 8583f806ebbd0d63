// TargetHealth: how near a store is to making its writers wait.
#pragma once

#include <rocksdb/db.h>

#include <cstdint>
#include <vector>

namespace kvbatch {

// The worst of all column families, from RocksDB's own properties and options.
struct TargetHealth {
  uint64_t l0_files = 0;
  uint64_t immutable_memtables = 0;
  uint64_t pending_compaction_bytes = 0;
  uint64_t delayed_write_rate = 0;  // bytes a second that RocksDB allows its writers now; 0: all
  bool write_stopped = false;
  // From where on RocksDB slows and stops writers. 0 where it does not: a target has no automatic compactions while a
  // job writes to it, and then L0 files and pending bytes hold nobody up.
  uint64_t l0_slowdown_trigger = 0;
  uint64_t l0_stop_trigger = 0;
  uint64_t soft_pending_compaction_bytes = 0;
  uint64_t hard_pending_compaction_bytes = 0;
};

// Looks at the families; costs some microseconds each.
TargetHealth MeasureHealth(rocksdb::DB* db, const std::vector<rocksdb::ColumnFamilyHandle*>& families);

}  // namespace kvbatch
