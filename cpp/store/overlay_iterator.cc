#include "store/overlay_iterator.h"

#include <rocksdb/comparator.h>
#include <rocksdb/sst_file_reader.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "batch/wide_columns.h"
#include "store/block_memory.h"
#include "store/rocksdb_status.h"
#include "store/timed_put.h"

#if KVBATCH_TABLE_ITERATORS
#include <rocksdb/utilities/types_util.h>
#endif

namespace kvbatch {

namespace {

#if KVBATCH_TABLE_ITERATORS

// The records of one SST file, deletions included.
class TableSource final : public OperationSource {
 public:
  TableSource(const TableFile& file, rocksdb::Options options, const RangeBounds& bounds)
      : path_(file.path), sequence_(file.sequence), end_(bounds.end), options_(std::move(options)), reader_(options_) {
    if (Take(Open(), "open " + path_)) {
      table_ = reader_.NewTableIterator();
      Seek(bounds.start);
      Settle();
    }
  }

  bool Valid() const override { return valid_; }
  void Next() override {
    last_.assign(View(record_.user_key));
    do {
      table_->Next();
      Settle();
    } while (valid_ && View(record_.user_key) == last_);
  }
  std::string_view key() const override { return View(record_.user_key); }
  std::string_view value() const override { return value_; }
  RecordKind kind() const override { return kind_; }
  uint64_t sequence() const override { return sequence_.value_or(record_.sequence); }
  Status status() const override { return status_; }

 private:
  rocksdb::Status Open() {
    // Its index and filter are no entries.
    const BlockMemory::Unbound unbound;
    return reader_.Open(path_);
  }

  bool Take(const rocksdb::Status& status, const std::string& what) {
    if (!status.ok()) {
      Stop(FromSource(status, what));
    }
    return status.ok();
  }

  void Stop(Status status) {
    status_ = std::move(status);
    valid_ = false;
  }

  void Seek(const std::optional<std::string>& start) {
    std::string internal_key;
    if (!start) {
      table_->SeekToFirst();
    } else if (Take(rocksdb::GetInternalKeyForSeek(*start, options_.comparator, &internal_key), "seek in " + path_)) {
      table_->Seek(internal_key);
    }
  }

  void Settle() {
    valid_ = status_.ok() && table_->Valid();
    if (!valid_) {
      (void)Take(table_->status(), "read " + path_);
      return;
    }
    if (!Take(rocksdb::ParseEntry(table_->key(), options_.comparator, &record_), "read " + path_)) {
      return;
    }
    if (end_ && options_.comparator->Compare(record_.user_key, *end_) >= 0) {
      valid_ = false;
      return;
    }
    value_ = View(table_->value());
    switch (record_.type) {
      case rocksdb::kEntryPut:
        kind_ = RecordKind::kPut;
        break;
      case rocksdb::kEntryDelete:
      case rocksdb::kEntrySingleDelete:
        kind_ = RecordKind::kDelete;
        value_ = {};
        break;
      case rocksdb::kEntryWideColumnEntity:
        TakeEntity();
        break;
      case rocksdb::kEntryTimedPut:
        kind_ = RecordKind::kPut;
        if (!UnpackTimedPut(&value_)) {
          Stop(Status(Code::kSource, "malformed timed value in " + path_));
        }
        break;
      default:
        Stop(Status(Code::kSource, path_ + " holds a record that no reader of single files understands"));
    }
  }

  void TakeEntity() {
    bool is_entity = false;
    if (!ReadEntity(value_, &is_entity, &value_)) {
      return Stop(Status(Code::kSource, "malformed columns in " + path_));
    }
    kind_ = is_entity ? RecordKind::kEntity : RecordKind::kPut;
  }

  const std::string path_;
  const std::optional<uint64_t> sequence_;
  const std::optional<std::string> end_;
  const rocksdb::Options options_;
  rocksdb::SstFileReader reader_;
  std::unique_ptr<rocksdb::Iterator> table_;
  rocksdb::ParsedEntryInfo record_;
  std::string last_;
  std::string_view value_;
  RecordKind kind_ = RecordKind::kPut;
  bool valid_ = false;
  Status status_;
};

#endif  // KVBATCH_TABLE_ITERATORS

// What memtables show: newer than any file, deletions left out.
class MemtableSource final : public OperationSource {
 public:
  MemtableSource(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family, const RangeBounds& bounds) : end_(bounds.end) {
    rocksdb::ReadOptions options;
    options.read_tier = rocksdb::kMemtableTier;
    options.total_order_seek = true;
    if (end_) {
      upper_ = ToSlice(*end_);
      options.iterate_upper_bound = &upper_;
    }
    iterator_.reset(db->NewIterator(options, family));
    if (bounds.start) {
      iterator_->Seek(*bounds.start);
    } else {
      iterator_->SeekToFirst();
    }
    Settle();
  }

  bool Valid() const override { return iterator_->Valid(); }
  void Next() override {
    iterator_->Next();
    Settle();
  }
  std::string_view key() const override { return View(iterator_->key()); }
  std::string_view value() const override { return value_; }
  RecordKind kind() const override { return kind_; }
  uint64_t sequence() const override { return std::numeric_limits<uint64_t>::max(); }
  Status status() const override { return FromSource(iterator_->status(), "read the memtables of the source"); }

 private:
  void Settle() {
    if (!iterator_->Valid()) {
      return;
    }
    const rocksdb::WideColumns& columns = iterator_->columns();
    if (columns.size() == 1 && columns.front().name().empty()) {
      kind_ = RecordKind::kPut;
      value_ = View(columns.front().value());
      return;
    }
    std::vector<WideColumn> views;
    for (const auto& column : columns) {
      views.emplace_back(View(column.name()), View(column.value()));
    }
    entity_.clear();
    SerializeEntity(views, &entity_);
    kind_ = RecordKind::kEntity;
    value_ = entity_;
  }

  const std::optional<std::string> end_;
  rocksdb::Slice upper_;
  std::unique_ptr<rocksdb::Iterator> iterator_;
  std::string entity_;
  std::string_view value_;
  RecordKind kind_ = RecordKind::kPut;
};

// Deletions that the WAL speaks of, of keys that the store does not show. Of the others something newer stands
// elsewhere, maybe in the base, whose sequence numbers are gone.
class WalSource final : public OperationSource {
 public:
  WalSource(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family, const std::vector<std::string>& keys,
            const RangeBounds& bounds)
      : comparator_(family->GetComparator()),
        bound_(bounds.end),
        at_(bounds.start ? Find(keys, comparator_, *bounds.start) : keys.begin()),
        end_(bounds.end ? Find(keys, comparator_, *bounds.end) : keys.end()) {
    rocksdb::ReadOptions options;
    options.total_order_seek = true;
    options.fill_cache = false;
    if (bound_) {
      upper_ = ToSlice(*bound_);
      options.iterate_upper_bound = &upper_;
    }
    shown_.reset(db->NewIterator(options, family));
    if (at_ < end_) {
      shown_->Seek(*at_);
    }
    Settle();
  }

  bool Valid() const override { return shown_->status().ok() && at_ < end_; }
  void Next() override {
    ++at_;
    Settle();
  }
  std::string_view key() const override { return *at_; }
  std::string_view value() const override { return {}; }
  RecordKind kind() const override { return RecordKind::kDelete; }
  uint64_t sequence() const override { return std::numeric_limits<uint64_t>::max(); }
  Status status() const override { return FromSource(shown_->status(), "read the store"); }

 private:
  using Position = std::vector<std::string>::const_iterator;

  void Settle() {
    for (; at_ < end_; ++at_) {
      // Whatever lies before the key that it stands on is not shown: a run of deletions is gone through once.
      if (shown_->Valid() && comparator_->Compare(shown_->key(), *at_) < 0) {
        shown_->Seek(*at_);
      }
      if (!shown_->Valid() || shown_->key() != *at_) {
        return;
      }
    }
  }

  static Position Find(const std::vector<std::string>& keys, const rocksdb::Comparator* comparator,
                       const std::string& key) {
    return std::lower_bound(keys.begin(), keys.end(), key, [comparator](const auto& deleted, const auto& bound) {
      return comparator->Compare(deleted, bound) < 0;
    });
  }

  const rocksdb::Comparator* comparator_;
  const std::optional<std::string> bound_;
  rocksdb::Slice upper_;
  std::unique_ptr<rocksdb::Iterator> shown_;
  Position at_;
  const Position end_;
};

}  // namespace

OverlayIterator::OverlayIterator(const SourceStore& store, rocksdb::ColumnFamilyHandle* family, const TableFile& base,
                                 const RangeBounds& bounds)
    : comparator_(family->GetComparator()) {
  auto layout = store.Tables(family);
  if (!layout.ok()) {
    status_ = layout.status();
    return;
  }
#if KVBATCH_TABLE_ITERATORS
  std::vector<const TableFile*> met;
  for (const TableFile& file : layout.value()->files) {
    if (file.path != base.path && (!bounds.start || comparator_->Compare(file.largest, *bounds.start) >= 0) &&
        (!bounds.end || comparator_->Compare(file.smallest, *bounds.end) < 0)) {
      met.push_back(&file);
    }
  }
  const rocksdb::Options options = store.TableOptions(family, ReadaheadOfEach(met.size()));
  for (const TableFile* const file : met) {
    sources_.push_back(std::make_unique<TableSource>(*file, options, bounds));
  }
#else
  (void)base;
#endif
  if (layout.value()->memtables) {
    auto deletions = store.DeletedInWal(family);
    if (!deletions.ok()) {
      status_ = deletions.status();
      return;
    }
    sources_.push_back(std::make_unique<MemtableSource>(store.db(), family, bounds));
    sources_.push_back(std::make_unique<WalSource>(store.db(), family, deletions.value()->keys, bounds));
  }
  Settle();
}

OverlayIterator::~OverlayIterator() = default;

void OverlayIterator::Next() {
  // The others that stand on this key are older.
  const std::string key(newest_->key());
  for (const auto& source : sources_) {
    if (source->Valid() && source->key() == key) {
      source->Next();
    }
  }
  Settle();
}

void OverlayIterator::Settle() {
  newest_ = nullptr;
  for (const auto& source : sources_) {
    if (!source->Valid()) {
      if (Status status = source->status(); !status.ok()) {
        status_ = std::move(status);
        newest_ = nullptr;
        return;
      }
      continue;
    }
    const int order = newest_ == nullptr ? -1 : comparator_->Compare(ToSlice(source->key()), ToSlice(newest_->key()));
    if (order < 0 || (order == 0 && source->sequence() > newest_->sequence())) {
      newest_ = source.get();
    }
  }
}

}  // namespace kvbatch
