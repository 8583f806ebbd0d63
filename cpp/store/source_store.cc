#include "store/source_store.h"

#include <rocksdb/table.h>
#include <rocksdb/table_properties.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <regex>
#include <utility>

#include "frame/large_entry.h"
#include "store/block_memory.h"
#include "store/memtable_bound.h"
#include "store/rocksdb_status.h"

namespace kvbatch {

namespace {

// One key may take so much of the memory that there is; a smaller one than a large entry is not looked at.
constexpr uint64_t kKeyShare = 64;

// A sequential reader has a handful of files open at a time; every further one only holds its index in memory.
constexpr int kMaxOpenFiles = 64;

std::shared_ptr<rocksdb::TableFactory> TableFactory(const rocksdb::TableFactory& like, size_t readahead) {
  rocksdb::BlockBasedTableOptions table = *like.GetOptions<rocksdb::BlockBasedTableOptions>();
  table.initial_auto_readahead_size = table.max_auto_readahead_size = readahead;
  // Whoever reads whole ranges asks no filter, and one is held in memory for each open file.
  table.filter_policy = nullptr;
  return std::shared_ptr<rocksdb::TableFactory>(rocksdb::NewBlockBasedTableFactory(table));
}

std::string InMib(uint64_t bytes) { return std::to_string((bytes + (1 << 19)) >> 20) + " MiB"; }

std::string Quoted(const std::string& name) { return "\"" + name + "\""; }

// Of a file that is missing or cut RocksDB says that the MANIFEST may be corrupted. The MANIFEST is only what lists it.
Status NotOpened(const std::string& path, const rocksdb::Status& status) {
  const std::string said = status.ToString();
  if (status.IsInvalidArgument()) {
    // An option of ours contradicts the store, its comparator above all.
    return Status(Code::kRefused, "open " + path + ": " + said);
  }
  // RocksDB 7 gives a table that is missing its old ending.
  static const std::regex listed(R"(/([0-9]{6,})\.(sst|ldb|blob))");
  std::smatch named;
  if (status.IsCorruption() && std::regex_search(said, named, listed)) {
    const std::string file = path + "/" + named.str(1) + (named.str(2) == "blob" ? ".blob" : ".sst");
    std::error_code error;
    if (!std::filesystem::exists(file, error)) {
      return Status(Code::kSource, file + " is missing and the store lists it. Restore it in place");
    }
    return DamagedSource(file + " is damaged: " + said.substr(0, said.find("  The file ")));
  }
  return FromSource(status, "open " + path);
}

}  // namespace

Result<std::shared_ptr<SourceStore>> SourceStore::Open(const std::string& path, const std::vector<std::string>& names,
                                                       const SourceMemory& memory) {
  auto described = DescribeStore(path);
  if (!described.ok()) {
    return described.status();
  }
  const auto wanted = [&names](const std::string& name) {
    return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const std::string& name : names) {
    const auto& all = described.value();
    if (std::none_of(all.begin(), all.end(), [&name](const auto& family) { return family.name == name; })) {
      std::string known;
      for (const auto& family : all) {
        known += (known.empty() ? "" : ", ") + Quoted(family.name);
      }
      return Status(Code::kUsage, path + " has no column family " + Quoted(name) + "; it has " + known);
    }
  }
  auto lock = StoreLock::Acquire(path);
  if (!lock.ok()) {
    return lock.status();
  }

  std::shared_ptr<SourceStore> store(new SourceStore());
  store->path_ = path;
  if (memory.max_memory > 0) {
    store->max_key_bytes_ = std::max<size_t>(memory.max_memory / kKeyShare, kLargeEntryBytes);
  }
  store->lock_ = lock.Take();
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (const auto& family : described.value()) {
    // RocksDB opens no store without its default family.
    if (wanted(family.name) || family.name == rocksdb::kDefaultColumnFamilyName) {
      if (Status status = CheckComparator(family); !status.ok()) {
        // The default family is always opened.
        const bool needed = family.name == rocksdb::kDefaultColumnFamilyName;
        return Status(status.code(),
                      status.message() + ". Nothing was written" +
                          (needed ? "" : "; name the other column families with --cf to do without this one"));
      }
      descriptors.emplace_back(family.name, OpenOptions(family));
      auto& options = descriptors.back().options;
      if (options.merge_operator == nullptr) {
        options.merge_operator = FailingMergeOperator("none");
      }
      // Its iterators are told what to read ahead, each by how many files it merges.
      options.table_factory = TableFactory(*options.table_factory, 0);
    }
    if (wanted(family.name)) {
      store->families_.push_back(family);
    }
  }

  rocksdb::DBOptions options;
  options.env = store->env_.get();
  options.info_log = SilentLogger();
  options.max_open_files = kMaxOpenFiles;
  // A quarter of those are opened now: too few for the sixteen threads that RocksDB would start.
  options.max_file_opening_threads = 1;
  options.skip_stats_update_on_db_open = true;
  // Where so many files are merged that nothing is read ahead of each, the kernel does it, in memory of its own.
  options.advise_random_on_open = false;
  // A record that was cut by a crash is no loss, nobody was told that it was written. Whatever else is wrong in the WAL
  // must not end in a copy that silently lacks what stands behind it, which RocksDB's default allows.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.wal_dir = WalDirectory(path);
  MemtableBound bound(memory.max_memory == 0                      ? std::numeric_limits<size_t>::max() / 2
                      : memory.max_memory > memory.reserved_bytes ? memory.max_memory - memory.reserved_bytes
                                                                  : 0);
  options.wal_filter = &bound;
  options.write_buffer_manager = bound.manager();
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const auto opened = rocksdb::DB::OpenForReadOnly(options, path, descriptors, &handles, &db);
  if (!opened.ok()) {
    return NotOpened(path, opened);
  }
  store->db_.reset(db);
  store->memtables_ = bound.manager();
  for (size_t i = 0; i < handles.size(); ++i) {
    store->handles_[descriptors[i].name] = handles[i];
  }
  if (bound.exceeded()) {
    constexpr uint64_t kMiB = 1 << 20;
    // Entries that are only counted take a little more or less.
    const uint64_t bytes = bound.bytes() + bound.bytes() / 32 + kMiB;
    return Status(Code::kUsage, path + ": its WAL was not flushed and is kept in memory while the job runs, about " +
                                    InMib(bytes) + "; that is more than --max-memory " + InMib(memory.max_memory) +
                                    " leaves. Nothing was written; give --max-memory " +
                                    std::to_string((bytes + memory.reserved_bytes) / kMiB + 1) +
                                    "MiB, or have the program that it belongs to flush it");
  }
  if (Status status = store->CheckKeysOfFiles(); !status.ok()) {
    return status;
  }
  for (const auto& family : store->families_) {
    if (Status status = store->CheckMergeOperands(family); !status.ok()) {
      return status;
    }
  }
  return store;
}

SourceStore::~SourceStore() {
  for (const auto& [name, handle] : handles_) {
    db_->DestroyColumnFamilyHandle(handle);
  }
}

Result<rocksdb::ColumnFamilyHandle*> SourceStore::Family(const std::string& name) const {
  const auto found = handles_.find(name);
  if (found == handles_.end()) {
    return Status(Code::kUsage, path_ + " has no column family " + Quoted(name));
  }
  return found->second;
}

rocksdb::Options SourceStore::TableOptions(rocksdb::ColumnFamilyHandle* family, size_t readahead) const {
  rocksdb::Options options = db_->GetOptions(family);
  options.table_factory = TableFactory(*options.table_factory, readahead);
  // What is read ahead here the kernel need not read ahead once more, beside a server that waits for the same disk.
  options.advise_random_on_open = readahead > 0;
  return options;
}

Result<std::string> SourceStore::Identity() const {
  std::string identity;
  if (Status status = FromSource(db_->GetDbIdentity(identity), "read the identity of " + path_); !status.ok()) {
    return status;
  }
  return identity;
}

Status SourceStore::CheckMergeOperands(const ColumnFamilyDescription& family) const {
  if (HasUsableMergeOperator(family)) {
    return Status::Ok();
  }
  auto figures = Figures(family.name);
  if (!figures.ok()) {
    return figures.status();
  }
  bool found = figures.value().merge_operands > 0;
  if (!found && figures.value().memtable_entries > 0) {
    // What stands only in the WAL has no table properties. Iteration stops at the first operand.
    rocksdb::ReadOptions options;
    options.read_tier = rocksdb::kMemtableTier;
    options.total_order_seek = true;
    const std::unique_ptr<rocksdb::Iterator> iterator(db_->NewIterator(options, handles_.at(family.name)));
    for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
    }
    found = iterator->status().IsInvalidArgument() || iterator->status().IsCorruption();
  }
  if (!found) {
    return Status::Ok();
  }
  const std::string operand_owner = family.merge_operator.empty()
                                        ? "the store names no merge operator"
                                        : "its merge operator " + family.merge_operator + " is not known to this build";
  return Status(Code::kRefused, "column family " + Quoted(family.name) + " holds merge operands and " + operand_owner +
                                    "; compact it with the program it belongs to, then try again");
}

Status SourceStore::CheckKey(std::string_view key) const {
  if (key.size() <= max_key_bytes_) {
    return Status::Ok();
  }
  return Status(Code::kRefused, path_ + ": a key of " + InMib(key.size()) + "; --max-memory allows keys of " +
                                    InMib(max_key_bytes_) + ", since they are in memory many times. Nothing is lost; " +
                                    "raise it to " + std::to_string((key.size() * kKeyShare >> 20) + 1) +
                                    "MiB and run the same command again");
}

Status SourceStore::CheckKeysOfFiles() const {
  if (max_key_bytes_ == std::numeric_limits<size_t>::max()) {
    return Status::Ok();
  }
  for (const auto& family : families_) {
    rocksdb::ColumnFamilyMetaData metadata;
    db_->GetColumnFamilyMetaData(handles_.at(family.name), &metadata);
    for (const auto& level : metadata.levels) {
      for (const auto& file : level.files) {
        for (const std::string* key : {&file.smallestkey, &file.largestkey}) {
          if (Status status = CheckKey(*key); !status.ok()) {
            return status;
          }
        }
      }
    }
  }
  return Status::Ok();
}

Result<SourceStore::FileMemory> SourceStore::MemoryForFiles() const {
  // What is in any case: of a stream's own part what it reads ahead and half as much, of the process some indexes.
  constexpr uint64_t kReaderAllowance = kReadaheadBytes + kReadaheadBytes / 2;
  constexpr uint64_t kSharedAllowance = 16 << 20;
  // Of a file that is merged, besides its block and what is read ahead.
  constexpr uint64_t kIteratorBytes = 2 << 10;
  FileMemory memory;
  uint64_t index_bytes = 0;
  for (const auto& family : families_) {
    auto tables = TablesOf(family.name);
    if (!tables.ok()) {
      return tables.status();
    }
    const TableLayout& layout = *tables.value();
    index_bytes += layout.index_bytes;
    if (layout.files.empty() || DisjointTables(layout, handles_.at(family.name)->GetComparator(), {}).empty()) {
      const uint64_t each = family.block_size + kIteratorBytes + ReadaheadOfEach(layout.merged);
      const uint64_t bytes = layout.merged * each;
      memory.reader_bytes = std::max(memory.reader_bytes, bytes - std::min(bytes, kReaderAllowance));
      memory.merged = std::max<uint64_t>(memory.merged, layout.merged);
    }
  }
  memory.shared_bytes = index_bytes - std::min(index_bytes, kSharedAllowance);
  return memory;
}

Result<ColumnFamilyFigures> SourceStore::Figures(const std::string& name) const {
  auto handle = Family(name);
  if (!handle.ok()) {
    return handle.status();
  }
  rocksdb::TablePropertiesCollection tables;
  if (Status status = FromSource(db_->GetPropertiesOfAllTables(handle.value(), &tables), "read table properties");
      !status.ok()) {
    return status;
  }
  ColumnFamilyFigures figures;
  for (const auto& [file, properties] : tables) {
    const uint64_t dropped = std::min(properties->num_entries, 2 * properties->num_deletions);
    figures.entries += properties->num_entries - dropped;
    figures.raw_bytes += properties->raw_key_size + properties->raw_value_size;
    figures.merge_operands += properties->num_merge_operands;
    ++figures.files;
  }
  uint64_t number = 0;
  if (db_->GetIntProperty(handle.value(), rocksdb::DB::Properties::kTotalSstFilesSize, &number)) {
    figures.file_bytes += number;
  }
  if (db_->GetIntProperty(handle.value(), rocksdb::DB::Properties::kTotalBlobFileSize, &number)) {
    figures.file_bytes += number;
    figures.raw_bytes += number;
  }
  for (const auto& property :
       {rocksdb::DB::Properties::kNumEntriesActiveMemTable, rocksdb::DB::Properties::kNumEntriesImmMemTables}) {
    if (db_->GetIntProperty(handle.value(), property, &number)) {
      figures.memtable_entries += number;
    }
  }
  figures.entries += figures.memtable_entries;
  if (figures.memtable_entries > 0 &&
      db_->GetIntProperty(handle.value(), rocksdb::DB::Properties::kSizeAllMemTables, &number)) {
    figures.raw_bytes += number;
  }
  return figures;
}

Result<std::optional<std::pair<std::string, std::string>>> SourceStore::FirstAndLastKey(const std::string& name) const {
  auto handle = Family(name);
  if (!handle.ok()) {
    return handle.status();
  }
  BlockMemory blocks;
  try {
    const BlockMemory::Scope scope(&blocks, 0);
    const auto iterator = NewKeyIterator(handle.value());
    std::optional<std::pair<std::string, std::string>> keys;
    iterator->SeekToFirst();
    if (iterator->Valid()) {
      std::string first = iterator->key().ToString();
      iterator->SeekToLast();
      if (iterator->Valid()) {
        keys.emplace(std::move(first), iterator->key().ToString());
      }
    }
    if (Status status = FromSource(iterator->status(), "read the store"); !status.ok()) {
      return status;
    }
    return keys;
  } catch (const NoRoomForBlock&) {
    return EndsOfTables(handle.value());
  }
}

Result<std::optional<std::pair<std::string, std::string>>> SourceStore::EndsOfTables(
    rocksdb::ColumnFamilyHandle* family) const {
  rocksdb::ColumnFamilyMetaData metadata;
  db_->GetColumnFamilyMetaData(family, &metadata);
  const auto* comparator = family->GetComparator();
  std::optional<std::pair<std::string, std::string>> ends;
  for (const auto& level : metadata.levels) {
    for (const auto& file : level.files) {
      if (!ends) {
        ends.emplace(file.smallestkey, file.largestkey);
        continue;
      }
      if (comparator->Compare(file.smallestkey, ends->first) < 0) {
        ends->first = file.smallestkey;
      }
      if (comparator->Compare(file.largestkey, ends->second) > 0) {
        ends->second = file.largestkey;
      }
    }
  }
  return ends;
}

std::unique_ptr<rocksdb::Iterator> SourceStore::NewKeyIterator(rocksdb::ColumnFamilyHandle* family) const {
  rocksdb::ReadOptions options;
  options.total_order_seek = true;
  options.fill_cache = false;
  return std::unique_ptr<rocksdb::Iterator>(db_->NewIterator(options, family));
}

Result<std::optional<std::string>> SourceStore::Seek(const std::string& name, const std::string& key) const {
  auto handle = Family(name);
  if (!handle.ok()) {
    return handle.status();
  }
  BlockMemory blocks;
  try {
    const BlockMemory::Scope scope(&blocks, 0);
    const auto iterator = NewKeyIterator(handle.value());
    iterator->Seek(key);
    std::optional<std::string> found;
    if (iterator->Valid()) {
      found = iterator->key().ToString();
    }
    if (Status status = FromSource(iterator->status(), "read the store"); !status.ok()) {
      return status;
    }
    return found;
  } catch (const NoRoomForBlock&) {
    return std::optional(key);
  }
}

Result<const TableLayout*> SourceStore::Tables(rocksdb::ColumnFamilyHandle* family) const {
  const std::lock_guard lock(mutex_);
  auto found = layouts_.find(family);
  if (found == layouts_.end()) {
    auto described = DescribeTables(db_.get(), family);
    if (!described.ok()) {
      return described.status();
    }
    found = layouts_.emplace(family, described.Take()).first;
  }
  return &found->second;
}

Result<const WalDeletions*> SourceStore::DeletedInWal(rocksdb::ColumnFamilyHandle* family) const {
  static const WalDeletions none;
  const std::lock_guard lock(mutex_);
  if (!wal_) {
    std::map<uint32_t, const rocksdb::Comparator*> families;
    for (const auto& [name, handle] : handles_) {
      families[handle->GetID()] = handle->GetComparator();
    }
    wal_ = ReadWalDeletions(db_.get(), families);
  }
  if (!wal_->ok()) {
    return wal_->status();
  }
  const auto found = wal_->value().find(family->GetID());
  return found == wal_->value().end() ? &none : &found->second;
}

Result<const TableLayout*> SourceStore::TablesOf(const std::string& name) const {
  auto handle = Family(name);
  return handle.ok() ? Tables(handle.value()) : handle.status();
}

Result<bool> SourceStore::MemtablesArePlain(const std::string& name) const {
  auto layout = TablesOf(name);
  if (!layout.ok()) {
    return layout.status();
  }
  if (!layout.value()->memtables) {
    return true;
  }
  // A WAL that cannot be read by itself, for RocksDB has replayed it all the same, is a reason not to rely on it.
  const auto deletions = DeletedInWal(handles_.at(name));
  return deletions.ok() && deletions.value()->plain;
}

Result<TableFile> SourceStore::Table(const std::string& name, const std::string& file) const {
  auto layout = TablesOf(name);
  if (!layout.ok()) {
    return layout.status();
  }
  for (const TableFile& table : layout.value()->files) {
    if (table.name == file) {
      return table;
    }
  }
  return Status(Code::kUsage, path_ + " has no file " + file + " of column family " + Quoted(name));
}

Result<std::optional<uint32_t>> SourceStore::RecordedCrc32c(const std::string& file) const {
  const std::lock_guard lock(mutex_);
  if (!recorded_) {
    recorded_ = AlignsBlocks(path_) ? Result(RecordedChecksums()) : ReadRecordedChecksums(db_.get());
  }
  if (!recorded_->ok()) {
    return recorded_->status();
  }
  const auto number = TableFileNumber(file);
  const auto found = number ? recorded_->value().find(*number) : recorded_->value().end();
  return found == recorded_->value().end() ? std::nullopt : std::optional(found->second);
}

Result<std::vector<uint64_t>> SourceStore::ApproximateSizes(const std::string& name, const std::string& start,
                                                            const std::vector<std::string>& keys) const {
  auto handle = Family(name);
  if (!handle.ok()) {
    return handle.status();
  }
  std::vector<rocksdb::Range> ranges;
  ranges.reserve(keys.size());
  const auto* comparator = handle.value()->GetComparator();
  for (const std::string& key : keys) {
    // RocksDB takes no range whose end lies before its start.
    ranges.emplace_back(start, comparator->Compare(key, start) < 0 ? start : key);
  }
  std::vector<uint64_t> sizes(keys.size());
  rocksdb::SizeApproximationOptions options;
  options.include_files = true;
  options.include_memtables = true;
  const auto status =
      db_->GetApproximateSizes(options, handle.value(), ranges.data(), static_cast<int>(ranges.size()), sizes.data());
  if (!status.ok()) {
    return FromSource(status, "estimate sizes");
  }
  return sizes;
}

}  // namespace kvbatch
