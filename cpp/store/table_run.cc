#include "store/table_run.h"

#include <rocksdb/comparator.h>
#include <rocksdb/metadata.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table_properties.h>

#include <algorithm>
#include <numeric>
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

// That RocksDB keeps open though nobody reads them: SourceStore's max_open_files.
constexpr size_t kCachedTables = 64;

uint64_t MemtableEntries(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family) {
  uint64_t entries = 0;
  for (const auto& property :
       {rocksdb::DB::Properties::kNumEntriesActiveMemTable, rocksdb::DB::Properties::kNumEntriesImmMemTables}) {
    uint64_t number = 0;
    // Not known is as good as some.
    entries += db->GetIntProperty(family, property, &number) ? number : 1;
  }
  return entries;
}

TableFile Describe(const rocksdb::SstFileMetaData& file, int level, const std::string& path,
                   const rocksdb::TableProperties& properties, const std::string& directory) {
  // Each key of a table carries its sequence number and type.
  constexpr uint64_t kInternalKeyBytes = 8;
  TableFile described;
  described.path = path;
  described.name = file.directory == directory ? file.relative_filename : std::string();
  described.smallest = file.smallestkey;
  described.largest = file.largestkey;
  described.file_bytes = file.size;
  described.entries = properties.num_entries;
  described.raw_bytes =
      properties.raw_key_size - kInternalKeyBytes * properties.num_entries + properties.raw_value_size;
  if (file.smallest_seqno == file.largest_seqno) {
    described.sequence = file.largest_seqno;
  }
  described.blobs = file.oldest_blob_file_number != 0;
  described.plain = properties.num_range_deletions == 0 && properties.num_merge_operands == 0 && !described.blobs;
  described.graftable = described.plain && properties.num_deletions == 0 && properties.num_entries > 0 &&
                        file.largest_seqno == 0 && !described.name.empty();
#if KVBATCH_TABLE_ITERATORS
  described.place = {level, file.smallest_seqno, file.largest_seqno, file.epoch_number, file.smallest, file.largest};
#else
  (void)level;
#endif
  return described;
}

}  // namespace

Result<TableLayout> DescribeTables(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family) {
  TableLayout layout;
  rocksdb::ColumnFamilyMetaData metadata;
  db->GetColumnFamilyMetaData(family, &metadata);
  for (const auto& level : metadata.levels) {
    layout.merged += level.level == 0 ? level.files.size() : std::min<size_t>(level.files.size(), 1);
  }
  if (!KVBATCH_TABLE_ITERATORS) {
    return layout;
  }
  layout.memtables = MemtableEntries(db, family) > 0;
  layout.readable = !layout.memtables;
  rocksdb::TablePropertiesCollection tables;
  if (Status status = FromSource(db->GetPropertiesOfAllTables(family, &tables), "read table properties");
      !status.ok()) {
    return status;
  }
  for (const auto& level : metadata.levels) {
    for (const auto& file : level.files) {
      const std::string path = file.directory + "/" + file.relative_filename;
      const auto properties = tables.find(path);
      if (properties == tables.end()) {
        return Status(Code::kSource, "no table properties of " + path);
      }
      layout.files.push_back(Describe(file, level.level, path, *properties->second, db->GetName()));
      layout.readable = layout.readable && properties->second->num_range_deletions == 0;
    }
  }
  std::vector<uint64_t> indexes;
  for (const auto& [path, properties] : tables) {
    indexes.push_back(properties->index_size);
  }
  std::sort(indexes.rbegin(), indexes.rend());
  indexes.resize(std::min(indexes.size(), std::max(layout.merged, kCachedTables)));
  layout.index_bytes = std::accumulate(indexes.begin(), indexes.end(), uint64_t{0});
  const auto* comparator = family->GetComparator();
  std::sort(layout.files.begin(), layout.files.end(), [comparator](const TableFile& a, const TableFile& b) {
    return comparator->Compare(a.smallest, b.smallest) < 0;
  });
  return layout;
}

std::vector<TableFile> DisjointTables(const TableLayout& layout, const rocksdb::Comparator* comparator,
                                      const RangeBounds& bounds) {
  std::vector<TableFile> met;
  if (!layout.readable) {
    return met;
  }
  const auto& first = bounds.after ? bounds.after : bounds.start;
  for (const TableFile& file : layout.files) {
    if ((first && comparator->Compare(file.largest, *first) < 0) ||
        (bounds.end && comparator->Compare(file.smallest, *bounds.end) >= 0)) {
      continue;
    }
    if (!met.empty() && comparator->Compare(met.back().largest, file.smallest) >= 0) {
      return {};
    }
    met.push_back(file);
  }
  return met;
}

#if KVBATCH_TABLE_ITERATORS

TableRun::TableRun(std::vector<TableFile> files, rocksdb::Options options, const RangeBounds& bounds)
    : files_(std::move(files)), options_(std::move(options)), bounds_(bounds) {
  if (bounds_.after) {
    settled_key_ = *bounds_.after;
    has_settled_key_ = true;
  }
  if (OpenNext()) {
    Settle();
  }
}

TableRun::~TableRun() = default;

void TableRun::Stop(Status status) {
  valid_ = false;
  status_ = std::move(status);
}

bool TableRun::OpenNext() {
  if (next_file_ == files_.size()) {
    Stop(Status::Ok());
    return false;
  }
  const TableFile& file = files_[next_file_];
  table_.reset();
  reader_ = std::make_unique<rocksdb::SstFileReader>(options_);
  {
    // Its index and filter are no entries.
    const BlockMemory::Unbound unbound;
    if (Status status = FromSource(reader_->Open(file.path), "open " + file.path); !status.ok()) {
      Stop(std::move(status));
      return false;
    }
  }
  table_ = reader_->NewTableIterator();
  check_end_ = bounds_.end && options_.comparator->Compare(file.largest, *bounds_.end) >= 0;
  const auto& first = bounds_.after ? bounds_.after : bounds_.start;
  if (next_file_ == 0 && first) {
    std::string internal_key;
    // Behind a key means behind all of its versions: its block may be a large one, which need not be read again.
    const auto made = bounds_.after ? rocksdb::GetInternalKeyForSeekForPrev(*first, options_.comparator, &internal_key)
                                    : rocksdb::GetInternalKeyForSeek(*first, options_.comparator, &internal_key);
    if (!made.ok()) {
      Stop(FromSource(made, "seek in " + file.path));
      return false;
    }
    table_->Seek(internal_key);
  } else {
    table_->SeekToFirst();
  }
  ++next_file_;
  return true;
}

bool TableRun::TakeEntity(std::string_view columns) {
  if (!ReadEntity(columns, &is_entity_, &value_)) {
    Stop(Status(Code::kSource, "read the store: malformed columns in " + files_[next_file_ - 1].path));
    return false;
  }
  return true;
}

bool TableRun::TakeTimedPut(std::string_view packed) {
  value_ = packed;
  is_entity_ = false;
  if (!UnpackTimedPut(&value_)) {
    Stop(Status(Code::kSource, "read the store: malformed timed value in " + files_[next_file_ - 1].path));
    return false;
  }
  return true;
}

void TableRun::Next() {
  table_->Next();
  Settle();
}

// Goes on to the first record, the present one included, that is the newest of its key and no deletion.
void TableRun::Settle() {
  for (;; table_->Next()) {
    while (!table_->Valid()) {
      if (Status status = FromSource(table_->status(), "read the store"); !status.ok()) {
        return Stop(std::move(status));
      }
      if (!OpenNext()) {
        return;
      }
    }
    rocksdb::ParsedEntryInfo record;
    if (const auto parsed = rocksdb::ParseEntry(table_->key(), options_.comparator, &record); !parsed.ok()) {
      return Stop(FromSource(parsed, "read " + files_[next_file_ - 1].path));
    }
    if (check_end_ && options_.comparator->Compare(record.user_key, *bounds_.end) >= 0) {
      return Stop(Status::Ok());
    }
    key_ = View(record.user_key);
    if (has_settled_key_ && key_ == settled_key_) {
      continue;
    }
    // Nothing is older than sequence number 0.
    has_settled_key_ = record.sequence > 0;
    if (has_settled_key_) {
      settled_key_.assign(key_);
    }
    switch (record.type) {
      case rocksdb::kEntryPut:
        value_ = View(table_->value());
        is_entity_ = false;
        valid_ = true;
        return;
      case rocksdb::kEntryWideColumnEntity:
        valid_ = TakeEntity(View(table_->value()));
        return;
      case rocksdb::kEntryTimedPut:
        valid_ = TakeTimedPut(View(table_->value()));
        return;
      case rocksdb::kEntryDelete:
      case rocksdb::kEntrySingleDelete:
        break;
      default:
        needs_merging_ = true;
        return Stop(Status::Ok());
    }
  }
}

#else

// Never made: no layout is readable.
TableRun::TableRun(std::vector<TableFile> files, rocksdb::Options options, const RangeBounds& bounds)
    : files_(std::move(files)), options_(std::move(options)), bounds_(bounds) {}

TableRun::~TableRun() = default;

void TableRun::Next() {}

#endif  // KVBATCH_TABLE_ITERATORS

}  // namespace kvbatch
