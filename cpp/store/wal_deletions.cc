#include "store/wal_deletions.h"

#include <rocksdb/comparator.h>
#include <rocksdb/transaction_log.h>
#include <rocksdb/write_batch.h>

#include <algorithm>

#include "store/rocksdb_status.h"
#include "store/table_run.h"

namespace kvbatch {

namespace {

// Takes the deletions out of batches whose records have one sequence number each, as they come.
class Collector final : public rocksdb::WriteBatch::Handler {
 public:
  explicit Collector(std::map<uint32_t, WalDeletions>* families) : families_(families) {}

  void Begin(uint64_t sequence) { sequence_ = sequence; }
  uint64_t sequence() const { return sequence_; }
  bool understood() const { return understood_; }

  rocksdb::Status PutCF(uint32_t /*family*/, const rocksdb::Slice& /*key*/, const rocksdb::Slice& /*value*/) override {
    return Counted();
  }
  rocksdb::Status PutEntityCF(uint32_t /*family*/, const rocksdb::Slice& /*key*/,
                              const rocksdb::Slice& /*entity*/) override {
    return Counted();
  }
#if KVBATCH_TABLE_ITERATORS
  rocksdb::Status TimedPutCF(uint32_t /*family*/, const rocksdb::Slice& /*key*/, const rocksdb::Slice& /*value*/,
                             uint64_t /*write_time*/) override {
    return Counted();
  }
#endif
  rocksdb::Status DeleteCF(uint32_t family, const rocksdb::Slice& key) override {
    (*families_)[family].keys.push_back(key.ToString());
    return Counted();
  }
  rocksdb::Status SingleDeleteCF(uint32_t family, const rocksdb::Slice& key) override { return DeleteCF(family, key); }
  rocksdb::Status DeleteRangeCF(uint32_t family, const rocksdb::Slice& /*begin*/,
                                const rocksdb::Slice& /*end*/) override {
    (*families_)[family].plain = false;
    return Counted();
  }
  rocksdb::Status MergeCF(uint32_t family, const rocksdb::Slice& /*key*/, const rocksdb::Slice& /*value*/) override {
    (*families_)[family].plain = false;
    return Counted();
  }
  rocksdb::Status PutBlobIndexCF(uint32_t family, const rocksdb::Slice& /*key*/,
                                 const rocksdb::Slice& /*value*/) override {
    (*families_)[family].plain = false;
    return Counted();
  }
  void LogData(const rocksdb::Slice& /*blob*/) override {}
  // Transactions of two phases number their records when they are committed.
  rocksdb::Status MarkBeginPrepare(bool /*unprepared*/) override { return NotUnderstood(); }
  rocksdb::Status MarkEndPrepare(const rocksdb::Slice& /*id*/) override { return NotUnderstood(); }
  rocksdb::Status MarkNoop(bool /*empty*/) override { return rocksdb::Status::OK(); }
  rocksdb::Status MarkRollback(const rocksdb::Slice& /*id*/) override { return NotUnderstood(); }
  rocksdb::Status MarkCommit(const rocksdb::Slice& /*id*/) override { return NotUnderstood(); }
  rocksdb::Status MarkCommitWithTimestamp(const rocksdb::Slice& /*id*/, const rocksdb::Slice& /*time*/) override {
    return NotUnderstood();
  }

 private:
  rocksdb::Status Counted() {
    ++sequence_;
    return rocksdb::Status::OK();
  }
  rocksdb::Status NotUnderstood() {
    understood_ = false;
    return rocksdb::Status::OK();
  }

  std::map<uint32_t, WalDeletions>* const families_;
  uint64_t sequence_ = 0;
  bool understood_ = true;
};

void Sort(WalDeletions* deletions, const rocksdb::Comparator* comparator) {
  auto& keys = deletions->keys;
  std::sort(keys.begin(), keys.end(),
            [comparator](const auto& a, const auto& b) { return comparator->Compare(a, b) < 0; });
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
}

}  // namespace

Result<std::map<uint32_t, WalDeletions>> ReadWalDeletions(
    rocksdb::DB* db, const std::map<uint32_t, const rocksdb::Comparator*>& families) {
  constexpr char kWhat[] = "read the WAL";
  std::map<uint32_t, WalDeletions> deletions;
  rocksdb::VectorLogPtr files;
  if (Status status = FromSource(db->GetSortedWalFiles(files), kWhat); !status.ok()) {
    return status;
  }
  const auto alive = std::find_if(files.begin(), files.end(), [](const auto& file) {
    return file->Type() == rocksdb::kAliveLogFile && file->SizeFileBytes() > 0;
  });
  if (alive == files.end() || (*alive)->StartSequence() == 0) {
    return deletions;
  }
  std::unique_ptr<rocksdb::TransactionLogIterator> log;
  if (Status status = FromSource(db->GetUpdatesSince((*alive)->StartSequence(), &log), kWhat); !status.ok()) {
    return status;
  }
  Collector collector(&deletions);
  uint64_t expected = 0;
  for (; log->Valid(); log->Next()) {
    const rocksdb::BatchResult batch = log->GetBatch();
    if (expected != 0 && batch.sequence != expected) {
      return Status(Code::kSource, "read the WAL: sequence number " + std::to_string(batch.sequence) + " where " +
                                       std::to_string(expected) + " was due");
    }
    collector.Begin(batch.sequence);
    if (Status status = FromSource(batch.writeBatchPtr->Iterate(&collector), kWhat); !status.ok()) {
      return status;
    }
    expected = collector.sequence();
  }
  if (Status status = FromSource(log->status(), kWhat); !status.ok()) {
    return status;
  }
  if (!collector.understood() || (expected != 0 && expected != db->GetLatestSequenceNumber() + 1)) {
    return Status(Code::kSource, "read the WAL: it holds transactions, or ends before the store does");
  }
  for (auto& [family, found] : deletions) {
    if (const auto known = families.find(family); known != families.end()) {
      Sort(&found, known->second);
    }
  }
  return deletions;
}

}  // namespace kvbatch
