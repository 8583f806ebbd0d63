// MemtableBound: what the memtables of a store take that is opened with a WAL, and an end to it.
#pragma once

#include <rocksdb/wal_filter.h>
#include <rocksdb/write_buffer_manager.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace kvbatch {

// RocksDB puts all of a WAL into memtables when it opens a store read-only, however large it is. This one looks at each
// record before: from the one on that goes over the bound, none is replayed, and what they would take is only counted.
// Must outlive the opening.
class MemtableBound final : public rocksdb::WalFilter {
 public:
  explicit MemtableBound(size_t max_bytes);

  // To be the DBOptions' write_buffer_manager: it counts.
  const std::shared_ptr<rocksdb::WriteBufferManager>& manager() const { return manager_; }
  // The store is not whole then.
  bool exceeded() const { return exceeded_; }
  // What memtables take, or would take with all of the WAL.
  uint64_t bytes() const { return manager_->memory_usage() + left_out_; }

  const char* Name() const override { return "kvbatch.MemtableBound"; }
  void ColumnFamilyLogNumberMap(const std::map<uint32_t, uint64_t>& log_numbers,
                                const std::map<std::string, uint32_t>& ids) override;
  WalProcessingOption LogRecordFound(unsigned long long log_number, const std::string& file,
                                     const rocksdb::WriteBatch& batch, rocksdb::WriteBatch* new_batch,
                                     bool* changed) override;

 private:
  const size_t max_bytes_;
  const std::shared_ptr<rocksdb::WriteBufferManager> manager_;
  std::map<uint32_t, uint64_t> log_numbers_;  // by family: what stands in earlier logs is in its files already
  bool exceeded_ = false;
  uint64_t left_out_ = 0;
};

}  // namespace kvbatch
