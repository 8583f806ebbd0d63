#include "store/target_health.h"

#include <algorithm>
#include <string>

namespace kvbatch {

namespace {

uint64_t Property(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family, const std::string& name) {
  uint64_t value = 0;
  return db->GetIntProperty(family, name, &value) ? value : 0;
}

void Raise(uint64_t* worst, uint64_t value) { *worst = std::max(*worst, value); }

// The least trigger that counts; 0 is none.
void Lower(uint64_t* least, uint64_t value) {
  if (value > 0 && (*least == 0 || value < *least)) {
    *least = value;
  }
}

}  // namespace

TargetHealth MeasureHealth(rocksdb::DB* db, const std::vector<rocksdb::ColumnFamilyHandle*>& families) {
  using P = rocksdb::DB::Properties;
  TargetHealth health;
  for (auto* const family : families) {
    std::string l0;
    if (db->GetProperty(family, P::kNumFilesAtLevelPrefix + "0", &l0)) {
      Raise(&health.l0_files, std::stoull(l0));
    }
    Raise(&health.immutable_memtables, Property(db, family, P::kNumImmutableMemTable));
    Raise(&health.pending_compaction_bytes, Property(db, family, P::kEstimatePendingCompactionBytes));
    health.write_stopped = health.write_stopped || Property(db, family, P::kIsWriteStopped) > 0;
    Lower(&health.delayed_write_rate, Property(db, family, P::kActualDelayedWriteRate));
    const rocksdb::Options options = db->GetOptions(family);
    if (!options.disable_auto_compactions) {
      Lower(&health.l0_slowdown_trigger, static_cast<uint64_t>(std::max(0, options.level0_slowdown_writes_trigger)));
      Lower(&health.l0_stop_trigger, static_cast<uint64_t>(std::max(0, options.level0_stop_writes_trigger)));
      Lower(&health.soft_pending_compaction_bytes, options.soft_pending_compaction_bytes_limit);
      Lower(&health.hard_pending_compaction_bytes, options.hard_pending_compaction_bytes_limit);
    }
  }
  return health;
}

}  // namespace kvbatch
