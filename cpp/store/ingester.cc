#include "store/ingester.h"

#include <rocksdb/options.h>

#include <algorithm>
#include <map>
#include <utility>

#include "store/rocksdb_status.h"
#include "store/table_run.h"

namespace kvbatch {

namespace {

rocksdb::IngestExternalFileOptions OptionsFor(IngestKind kind) {
  rocksdb::IngestExternalFileOptions options;
  options.move_files = true;
  options.snapshot_consistency = false;
#if KVBATCH_TABLE_ITERATORS
  options.allow_db_generated_files = kind == IngestKind::kGraft;
#else
  (void)kind;
#endif
  return options;
}

}  // namespace

Ingester::Ingester(rocksdb::DB* db, std::string path) : db_(db), path_(std::move(path)) {}

Status Ingester::Ingest(rocksdb::ColumnFamilyHandle* family, const std::string& file, IngestKind kind) {
#if !KVBATCH_TABLE_ITERATORS
  if (kind == IngestKind::kGraft) {
    return Status(Code::kRefused, "a source's own files need RocksDB 9.10; this build has an older one");
  }
#endif
  Waiting mine{.family = family, .file = &file, .kind = kind, .status = Status::Ok()};
  std::unique_lock lock(mutex_);
  waiting_.push_back(&mine);
  changed_.wait(lock, [this, &mine] { return mine.done || !under_way_; });
  if (mine.done) {
    return mine.status;
  }
  // All that wait, this one among them, but for those of another kind: RocksDB takes one set of options a family.
  const auto others = std::stable_partition(waiting_.begin(), waiting_.end(),
                                            [kind](const Waiting* each) { return each->kind == kind; });
  const std::vector<Waiting*> group(waiting_.begin(), others);
  waiting_.erase(waiting_.begin(), others);
  under_way_ = true;
  lock.unlock();
  IngestGroup(group);
  lock.lock();
  under_way_ = false;
  for (Waiting* each : group) {
    each->done = true;
  }
  lock.unlock();
  changed_.notify_all();
  return mine.status;
}

uint64_t Ingester::calls() const {
  const std::lock_guard lock(mutex_);
  return calls_;
}

void Ingester::IngestGroup(const std::vector<Waiting*>& group) {
  const Status together = Together(group);
  for (Waiting* each : group) {
    // Nothing of a group that failed went in. One file may be why: the others are none the worse for it.
    each->status = together.ok() || group.size() == 1 ? together : Together({each});
  }
}

Status Ingester::Together(const std::vector<Waiting*>& group) {
  std::map<rocksdb::ColumnFamilyHandle*, std::vector<std::string>> files;
  for (const Waiting* each : group) {
    files[each->family].push_back(*each->file);
  }
  std::vector<rocksdb::IngestExternalFileArg> arguments;
  for (auto& [family, paths] : files) {
    rocksdb::IngestExternalFileArg& argument = arguments.emplace_back();
    argument.column_family = family;
    argument.external_files = std::move(paths);
    argument.options = OptionsFor(group.front()->kind);
  }
  const auto status = db_->IngestExternalFiles(arguments);
  if (status.ok()) {
    const std::lock_guard lock(mutex_);
    ++calls_;
    return Status::Ok();
  }
  if (status.IsCorruption()) {
    // Of the file, which was made elsewhere, not of this store.
    return Status(Code::kCorruption, "ingest into " + path_ + ": " + status.ToString());
  }
  return FromTarget(status, "ingest into " + path_);
}

}  // namespace kvbatch
