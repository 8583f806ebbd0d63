#include "store/memtable_bound.h"

#include <rocksdb/version.h>
#include <rocksdb/write_batch.h>

#include <limits>

namespace kvbatch {

namespace {

// Of an entry besides its key and value: sequence number, lengths, and its node with the pointers.
constexpr uint64_t kEntryBytes = 40;

// Counts what a batch takes in the memtables of families that do not have it yet.
class Weigher final : public rocksdb::WriteBatch::Handler {
 public:
  Weigher(const std::map<uint32_t, uint64_t>& log_numbers, uint64_t log_number)
      : log_numbers_(log_numbers), log_number_(log_number) {}

  uint64_t bytes() const { return bytes_; }

  rocksdb::Status PutCF(uint32_t family, const rocksdb::Slice& key, const rocksdb::Slice& value) override {
    return Add(family, key.size() + value.size());
  }
  rocksdb::Status PutEntityCF(uint32_t family, const rocksdb::Slice& key, const rocksdb::Slice& entity) override {
    return Add(family, key.size() + entity.size());
  }
#if ROCKSDB_MAJOR > 9 || (ROCKSDB_MAJOR == 9 && ROCKSDB_MINOR >= 10)
  rocksdb::Status TimedPutCF(uint32_t family, const rocksdb::Slice& key, const rocksdb::Slice& value,
                             uint64_t /*write_time*/) override {
    return Add(family, key.size() + value.size());
  }
#endif
  rocksdb::Status DeleteCF(uint32_t family, const rocksdb::Slice& key) override { return Add(family, key.size()); }
  rocksdb::Status SingleDeleteCF(uint32_t family, const rocksdb::Slice& key) override {
    return Add(family, key.size());
  }
  rocksdb::Status DeleteRangeCF(uint32_t family, const rocksdb::Slice& begin, const rocksdb::Slice& end) override {
    return Add(family, begin.size() + end.size());
  }
  rocksdb::Status MergeCF(uint32_t family, const rocksdb::Slice& key, const rocksdb::Slice& value) override {
    return Add(family, key.size() + value.size());
  }
  rocksdb::Status PutBlobIndexCF(uint32_t family, const rocksdb::Slice& key, const rocksdb::Slice& value) override {
    return Add(family, key.size() + value.size());
  }
  void LogData(const rocksdb::Slice& /*blob*/) override {}
  rocksdb::Status MarkBeginPrepare(bool /*unprepared*/) override { return rocksdb::Status::OK(); }
  rocksdb::Status MarkEndPrepare(const rocksdb::Slice& /*id*/) override { return rocksdb::Status::OK(); }
  rocksdb::Status MarkNoop(bool /*empty*/) override { return rocksdb::Status::OK(); }
  rocksdb::Status MarkRollback(const rocksdb::Slice& /*id*/) override { return rocksdb::Status::OK(); }
  rocksdb::Status MarkCommit(const rocksdb::Slice& /*id*/) override { return rocksdb::Status::OK(); }
  rocksdb::Status MarkCommitWithTimestamp(const rocksdb::Slice& /*id*/, const rocksdb::Slice& /*time*/) override {
    return rocksdb::Status::OK();
  }

 private:
  rocksdb::Status Add(uint32_t family, uint64_t bytes) {
    const auto found = log_numbers_.find(family);
    if (found != log_numbers_.end() && log_number_ >= found->second) {
      bytes_ += bytes + kEntryBytes;
    }
    return rocksdb::Status::OK();
  }

  const std::map<uint32_t, uint64_t>& log_numbers_;
  const uint64_t log_number_;
  uint64_t bytes_ = 0;
};

}  // namespace

MemtableBound::MemtableBound(size_t max_bytes)
    : max_bytes_(max_bytes),
      // With a size of none it would not count.
      manager_(std::make_shared<rocksdb::WriteBufferManager>(std::numeric_limits<size_t>::max() / 2)) {}

void MemtableBound::ColumnFamilyLogNumberMap(const std::map<uint32_t, uint64_t>& log_numbers,
                                             const std::map<std::string, uint32_t>& /*ids*/) {
  log_numbers_ = log_numbers;
}

rocksdb::WalFilter::WalProcessingOption MemtableBound::LogRecordFound(unsigned long long log_number,
                                                                      const std::string& /*file*/,
                                                                      const rocksdb::WriteBatch& batch,
                                                                      rocksdb::WriteBatch* /*new_batch*/,
                                                                      bool* /*changed*/) {
  if (!exceeded_ && manager_->memory_usage() + batch.GetDataSize() <= max_bytes_) {
    return WalProcessingOption::kContinueProcessing;
  }
  Weigher weigher(log_numbers_, log_number);
  const uint64_t bytes = batch.Iterate(&weigher).ok() ? weigher.bytes() : batch.GetDataSize();
  if (!exceeded_ && manager_->memory_usage() + bytes <= max_bytes_) {
    return WalProcessingOption::kContinueProcessing;
  }
  exceeded_ = true;
  left_out_ += bytes;
  return WalProcessingOption::kIgnoreCurrentRecord;
}

}  // namespace kvbatch
