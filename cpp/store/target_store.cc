#include "store/target_store.h"

#include <fcntl.h>
#include <rocksdb/cache.h>
#include <rocksdb/comparator.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/options.h>
#include <rocksdb/write_buffer_manager.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "base/file_checksum.h"
#include "base/unique_fd.h"
#include "batch/batch_reader.h"
#include "store/rocksdb_status.h"
#include "store/store_lock.h"

namespace kvbatch {

namespace {

namespace fs = std::filesystem;

constexpr char kSpoolDirectory[] = ".kvbatch";
// Behind the number of the range.
constexpr std::string_view kPartialEnding = ".partial";
// The index of each is in memory, and none is read twice soon. RocksDB takes no smaller number.
constexpr int kMaxOpenFiles = 20;
// So many files are made durable at once; those that wait for another's ingestion go in together.
constexpr size_t kFinisherThreads = 4;

// What RocksDB has of a file's first and last key: what it knows of the file, and the lists that it searches in of the
// newest version of all files and of the one before.
constexpr uint64_t kKeyCopies = 3;
// Smaller ones are what every store has.
constexpr uint64_t kLeastHeldKeys = 64 << 10;
// They may take so much beside the budget, and an eighth of it.
constexpr uint64_t kHeldKeysBeside = 40 << 20;
constexpr uint64_t kHeldKeysShare = 8;
// Of all stores of this process.
std::atomic<uint64_t> held_key_bytes{0};

// All families' memtables together; RocksDB's default is as much for each.
constexpr uint64_t kMaxMemtableBytes = 64 << 20;
constexpr uint64_t kMinMemtableBytes = 8 << 20;
constexpr uint64_t kMemtableShare = 4;
// Of the job's records: a cursor may have a large key, and is written again and again.
constexpr uint64_t kRecordMemtableBytes = 4 << 20;

// Table properties, the index of such blocks and the footer take 2 KiB and the column family's name.
constexpr uint64_t kDoubtfulTail = 16 << 10;

// RocksDB has 8 of 64 bits for an entry's type.
constexpr uint64_t kMaxSequence = (uint64_t{1} << 56) - 1;

// RocksDB reads the first and the last block of every new file, and nobody asks for them again.
constexpr size_t kCacheBytes = 1 << 20;

// Whose first pieces the file of that name in the spool holds; none where it is another file.
std::optional<uint32_t> PartialRange(std::string_view name) {
  uint32_t range = 0;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), range);
  const bool partial = parsed.ec == std::errc() && name.substr(parsed.ptr - name.data()) == kPartialEnding;
  return partial ? std::optional(range) : std::nullopt;
}

// RocksDB takes as much room for its WAL as the memtables have, 64 MiB of the disk, and 4 MiB for its MANIFEST, though
// a job writes next to nothing to either: a copy would fail on a disk that holds it. Not by an option, which the
// OPTIONS file would hand down to the owner.
class NothingPreallocated final : public rocksdb::FileSystemWrapper {
 public:
  NothingPreallocated() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}

  const char* Name() const override { return "kvbatch.NothingPreallocated"; }

  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* context) override {
    rocksdb::FileOptions without = options;
    without.allow_fallocate = false;
    return FileSystemWrapper::NewWritableFile(name, without, file, context);
  }
};

rocksdb::Env* TargetEnv() {
  static rocksdb::Env* const env = rocksdb::NewCompositeEnv(std::make_shared<NothingPreallocated>()).release();
  return env;
}

Status CheckTraits(const ColumnFamilyDescription& family) {
  if (Status status = CheckComparator(family); !status.ok()) {
    return status;
  }
  return ParseCompression(family.compression).status();
}

}  // namespace

rocksdb::ColumnFamilyOptions TargetStore::WriteOptionsFor(const ColumnFamilyDescription& family) {
  // The store's OPTIONS file says what it was opened with, and there are owners who do as it says: it must not tell
  // them to go without a cache.
  static const auto* const cache = new std::shared_ptr<rocksdb::Cache>(rocksdb::NewLRUCache(kCacheBytes));
  rocksdb::ColumnFamilyOptions options = OpenOptions(family, *cache);
  options.disable_auto_compactions = true;
  if (family.name == kReservedColumnFamily) {
    options.write_buffer_size = kRecordMemtableBytes;
  }
  return options;
}

Result<std::shared_ptr<TargetStore>> TargetStore::Open(const std::string& path, const TargetOptions& options) {
  std::shared_ptr<TargetStore> store(new TargetStore());
  store->path_ = path;
  store->options_ = options;

  std::vector<ColumnFamilyDescription> families;
  std::error_code error;
  if (fs::exists(fs::path(path) / "CURRENT", error)) {
    auto described = DescribeStore(path);
    if (!described.ok()) {
      const Status& status = described.status();
      return status.code() == Code::kSource ? Status(Code::kTarget, status.message()) : status;
    }
    families = described.Take();
  } else if (options.create) {
    families.push_back(options.default_family);
    families.back().name = rocksdb::kDefaultColumnFamilyName;
    if (Status status = CheckTraits(families.back()); !status.ok()) {
      return status;
    }
  } else {
    return Status(Code::kUsage, path + " holds no RocksDB store");
  }

  if (Status status = StoreLock::CheckFree(path); !status.ok()) {
    return status;
  }
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (const auto& family : families) {
    if (Status status = CheckComparator(family); !status.ok()) {
      return status;
    }
    descriptors.emplace_back(family.name, WriteOptionsFor(family));
  }
  rocksdb::DBOptions db_options;
  db_options.env = TargetEnv();
  db_options.create_if_missing = options.create;
  db_options.max_open_files = kMaxOpenFiles;
  db_options.skip_stats_update_on_db_open = true;
  db_options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  db_options.wal_dir = WalDirectory(path);
  // Not by an option, which the OPTIONS file would hand down to the owner.
  db_options.write_buffer_manager = std::make_shared<rocksdb::WriteBufferManager>(
      options.max_memory == 0 ? kMaxMemtableBytes
                              : std::clamp(options.max_memory / kMemtableShare, kMinMemtableBytes, kMaxMemtableBytes));
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const auto opened = rocksdb::DB::Open(db_options, path, descriptors, &handles, &db);
  if (!opened.ok()) {
    if (opened.IsInvalidArgument()) {
      return Status(Code::kRefused, "open " + path + ": " + opened.ToString());
    }
    return FromTarget(opened, "open " + path);
  }
  store->db_.reset(db);
  for (size_t i = 0; i < handles.size(); ++i) {
    if (families[i].name == kReservedColumnFamily) {
      store->reserved_ = handles[i];
      continue;
    }
    store->handles_[handles[i]->GetID()] = handles[i];
    store->families_[handles[i]->GetID()] = families[i];
    if (HasUsableMergeOperator(families[i])) {
      store->mergeable_.insert(handles[i]->GetID());
    }
  }
  if (Status status = store->HoldKeysOfFiles(); !status.ok()) {
    return status;
  }
  store->CleanSpool();
  const fs::path spool = fs::path(path) / kSpoolDirectory;
  fs::create_directory(spool, error);
  if (error) {
    return FromErrno(Code::kTarget, "make " + spool.string(), error.value());
  }
  store->ingester_ = std::make_unique<Ingester>(db, path);
  store->finisher_ = std::make_unique<Finisher>(kFinisherThreads);
  return store;
}

TargetStore::~TargetStore() { (void)Close(); }

Status TargetStore::Close() {
  if (!db_) {
    return Status::Ok();
  }
  finisher_.reset();
  ingester_.reset();
  Status restored;
  if (reserved_ == nullptr) {
    restored = RestoreOwnersOptions();
  }
  CleanSpool();
  for (const auto& [id, handle] : handles_) {
    db_->DestroyColumnFamilyHandle(handle);
  }
  handles_.clear();
  families_.clear();
  if (reserved_ != nullptr) {
    db_->DestroyColumnFamilyHandle(std::exchange(reserved_, nullptr));
  }
  const Status closed = FromTarget(db_->Close(), "close " + path_);
  db_.reset();
  held_key_bytes -= std::exchange(held_key_bytes_, 0);
  return restored.ok() ? closed : restored;
}

Status TargetStore::RestoreOwnersOptions() {
  // Nothing may start to compact because it is allowed again.
  if (Status status = FromTarget(db_->PauseBackgroundWork(), "pause " + path_); !status.ok()) {
    return status;
  }
  for (const auto& [id, handle] : handles_) {
    const auto status = db_->SetOptions(handle, {{"disable_auto_compactions", "false"}});
    if (!status.ok()) {
      return FromTarget(status, "write the options of " + path_);
    }
  }
  return FromTarget(db_->SetDBOptions({{"max_open_files", "-1"}}), "write the options of " + path_);
}

Status TargetStore::CheckOpen() const {
  return db_ ? Status::Ok() : Status(Code::kTarget, path_ + " is closed already");
}

std::vector<ColumnFamilyDescription> TargetStore::Families() const {
  const std::lock_guard lock(mutex_);
  std::vector<ColumnFamilyDescription> families;
  for (const auto& [id, family] : families_) {
    families.push_back(family);
  }
  return families;
}

Result<TargetHealth> TargetStore::Health() const {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  std::vector<rocksdb::ColumnFamilyHandle*> families;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, handle] : handles_) {
      families.push_back(handle);
    }
  }
  return MeasureHealth(db_.get(), families);
}

Result<std::string> TargetStore::Identity() const {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  std::string identity;
  if (Status status = FromTarget(db_->GetDbIdentity(identity), "read the identity of " + path_); !status.ok()) {
    return status;
  }
  return identity;
}

Result<uint32_t> TargetStore::FamilyId(const std::string& name) const {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  const std::lock_guard lock(mutex_);
  for (const auto& [id, family] : families_) {
    if (family.name == name) {
      return id;
    }
  }
  return Status(Code::kUsage, path_ + " has no column family \"" + name + "\"");
}

rocksdb::ColumnFamilyHandle* TargetStore::Handle(uint32_t id) const {
  const std::lock_guard lock(mutex_);
  const auto found = handles_.find(id);
  return found == handles_.end() ? nullptr : found->second;
}

Result<uint32_t> TargetStore::EnsureFamily(const ColumnFamilyDescription& family) {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  if (Status status = CheckTraits(family); !status.ok()) {
    return status;
  }
  if (family.name == kReservedColumnFamily) {
    return Status(Code::kRefused, std::string("the column family ") + kReservedColumnFamily +
                                      " belongs to kvbatch: it marks a store that is an unfinished target");
  }
  const std::lock_guard lock(mutex_);
  for (auto& [id, existing] : families_) {
    if (existing.name == family.name) {
      if (existing.comparator != family.comparator) {
        return Status(Code::kRefused, "column family \"" + family.name + "\": comparator: theirs " +
                                          existing.comparator + ", ours " + family.comparator);
      }
      // The traits of files to come; those of the store that exists are its owner's.
      existing = family;
      return id;
    }
  }
  rocksdb::ColumnFamilyHandle* handle = nullptr;
  const auto status = db_->CreateColumnFamily(WriteOptionsFor(family), family.name, &handle);
  if (!status.ok()) {
    return FromTarget(status, "make column family \"" + family.name + "\"");
  }
  return Adopt(handle, family);
}

uint32_t TargetStore::Adopt(rocksdb::ColumnFamilyHandle* handle, const ColumnFamilyDescription& family) {
  const uint32_t id = handle->GetID();
  handles_[id] = handle;
  families_[id] = family;
  if (HasUsableMergeOperator(family)) {
    mergeable_.insert(id);
  }
  return id;
}

#if KVBATCH_TABLE_ITERATORS

Status TargetStore::ImportFamily(const ColumnFamilyDescription& family, const std::string& directory,
                                 const std::vector<ImportedFile>& files, bool move) {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  if (family.name == kReservedColumnFamily) {
    return EnsureFamily(family).status();
  }
  if (family.name == rocksdb::kDefaultColumnFamilyName) {
    return Status(Code::kRefused, "no file can be imported into the column family \"default\", which every store has");
  }
  if (files.empty()) {
    return EnsureFamily(family).status();
  }
  if (Status status = CheckTraits(family); !status.ok()) {
    return status;
  }
  const rocksdb::ColumnFamilyOptions options = WriteOptionsFor(family);
  rocksdb::ExportImportFilesMetaData metadata;
  metadata.db_comparator_name = family.comparator;
  for (const ImportedFile& file : files) {
    const TablePlace& place = file.place;
    if (place.smallest_sequence > place.largest_sequence || place.largest_sequence > kMaxSequence) {
      return Status(Code::kCorruption, file.name + ": sequence numbers " + std::to_string(place.smallest_sequence) +
                                           " to " + std::to_string(place.largest_sequence));
    }
    if (place.level < 0 || place.level >= options.num_levels) {
      return Status(Code::kCorruption, file.name + ": level " + std::to_string(place.level) + " of a family that has " +
                                           std::to_string(options.num_levels));
    }
    if (Status status = HoldKeys(place.smallest.size() + place.largest.size()); !status.ok()) {
      return status;
    }
    rocksdb::LiveFileMetaData described;
    described.column_family_name = family.name;
    described.db_path = directory;
    described.name = file.name;
    described.size = file.file_bytes;
    described.level = place.level;
    described.smallest_seqno = place.smallest_sequence;
    described.largest_seqno = place.largest_sequence;
    described.epoch_number = place.epoch;
    described.smallest = place.smallest;
    described.largest = place.largest;
    metadata.files.push_back(std::move(described));
  }
  rocksdb::ImportColumnFamilyOptions import;
  import.move_files = move;
  rocksdb::ColumnFamilyHandle* handle = nullptr;
  const auto status = db_->CreateColumnFamilyWithImport(options, family.name, import, metadata, &handle);
  const std::string what = "import the files of column family \"" + family.name + "\"";
  if (status.IsCorruption() || status.IsInvalidArgument()) {
    return Status(Code::kCorruption, what + ": " + status.ToString());
  }
  if (!status.ok()) {
    return FromTarget(status, what);
  }
  const std::lock_guard lock(mutex_);
  Adopt(handle, family);
  return Status::Ok();
}

#else

Status TargetStore::ImportFamily(const ColumnFamilyDescription& family, const std::string& /*directory*/,
                                 const std::vector<ImportedFile>& /*files*/, bool /*move*/) {
  return Status(Code::kRefused,
                "column family \"" + family.name + "\": this build's RocksDB cannot tell files their place; 9.10 can");
}

#endif

Result<bool> TargetStore::HasData(const std::string& name, const std::optional<std::string>& start,
                                  const std::optional<std::string>& end) const {
  auto id = FamilyId(name);
  if (!id.ok()) {
    return id.status();
  }
  rocksdb::ReadOptions options;
  options.total_order_seek = true;
  options.fill_cache = false;
  rocksdb::Slice upper;
  if (end) {
    upper = ToSlice(*end);
    options.iterate_upper_bound = &upper;
  }
  const std::unique_ptr<rocksdb::Iterator> iterator(db_->NewIterator(options, Handle(id.value())));
  if (start) {
    iterator->Seek(*start);
  } else {
    iterator->SeekToFirst();
  }
  const bool found = iterator->Valid();
  // A merge operand that cannot be resolved is data too.
  return found || !iterator->status().ok();
}

Status TargetStore::CheckRecord(const Record& record) const {
  // RocksDB looks at these two only after it has logged the batch, and takes no other write from then on.
  if (record.kind == RecordKind::kDeleteRange &&
      handles_.at(record.column_family)->GetComparator()->Compare(ToSlice(record.key), ToSlice(record.value)) > 0) {
    return Status(Code::kCorruption, "batch: a range deletion whose end lies before its begin");
  }
  if (record.kind == RecordKind::kMerge && !mergeable_.contains(record.column_family)) {
    return Status(Code::kCorruption, "batch: a merge into a column family without a merge operator");
  }
  return Status::Ok();
}

Status TargetStore::Write(Frame* frame) {
  auto raw = frame->OpenRaw();
  return raw.ok() ? WriteBatch(raw.value()) : raw.status();
}

Status TargetStore::WriteBatch(std::string_view batch) {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  {
    const std::lock_guard lock(mutex_);
    std::set<uint32_t> ids;
    for (const auto& [id, handle] : handles_) {
      ids.insert(id);
    }
    BatchRules rules;
    rules.column_families = &ids;
    rules.check = [this](const Record& record) { return CheckRecord(record); };
    if (auto summary = ValidateBatch(batch, rules); !summary.ok()) {
      return summary.status();
    }
  }
  return WriteValidated(rocksdb::WriteBatch(std::string(batch)), nullptr);
}

Status TargetStore::WriteValidated(rocksdb::WriteBatch batch, const Cursor* cursor) {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  if (cursor != nullptr) {
    if (Status status = EnsureReserved(); !status.ok()) {
      return status;
    }
    const auto added = batch.Put(reserved_, EncodeCursorKey(cursor->range), EncodeCursor(*cursor));
    if (!added.ok()) {
      return FromTarget(added, "add the cursor");
    }
  }
  return FromTarget(db_->Write(rocksdb::WriteOptions(), &batch), "write to " + path_);
}

Status TargetStore::SyncWal() {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  return FromTarget(db_->SyncWAL(), "sync the WAL of " + path_);
}

Status TargetStore::Flush() {
  if (Status status = CheckOpen(); !status.ok()) {
    return status;
  }
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, handle] : handles_) {
      handles.push_back(handle);
    }
  }
  return FromTarget(db_->Flush(rocksdb::FlushOptions(), handles), "flush " + path_);
}

void TargetStore::CleanSpool() {
  const fs::path spool = fs::path(path_) / kSpoolDirectory;
  std::error_code error;
  if (reserved_ == nullptr) {
    fs::remove_all(spool, error);
    return;
  }
  std::vector<fs::path> others;
  for (const auto& entry : fs::directory_iterator(spool, error)) {
    if (!PartialRange(entry.path().filename().string())) {
      others.push_back(entry.path());
    }
  }
  for (const fs::path& other : others) {
    fs::remove_all(other, error);
  }
  fs::remove(spool, error);  // fails where something is left
}

std::vector<PartialFile> TargetStore::PartialFiles(const std::set<uint32_t>& built) const {
  std::vector<PartialFile> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fs::path(path_) / kSpoolDirectory, error)) {
    const auto range = PartialRange(entry.path().filename().string());
    const UniqueFd fd(range ? ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC) : -1);
    struct stat status{};
    const uint64_t doubtful = range && built.contains(*range) ? kDoubtfulTail : 0;
    if (!fd.valid() || ::fstat(fd.get(), &status) != 0 || static_cast<uint64_t>(status.st_size) <= doubtful) {
      continue;
    }
    const uint64_t length = static_cast<uint64_t>(status.st_size) - doubtful;
    if (const auto crc = FileCrc32c(fd.get(), 0, length, Code::kTarget, "read " + entry.path().string()); crc.ok()) {
      files.push_back({*range, length, crc.value()});
    }
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.range < b.range; });
  return files;
}

std::string TargetStore::PartialPath(uint32_t range) const {
  return path_ + "/" + kSpoolDirectory + "/" + std::to_string(range) + std::string(kPartialEnding);
}

std::string TargetStore::NextSpoolFile() {
  const std::lock_guard lock(mutex_);
  return path_ + "/" + kSpoolDirectory + "/" + std::to_string(next_spool_file_++) + ".sst";
}

Status TargetStore::Ingest(uint32_t family, const std::string& file, IngestKind kind) {
  return ingester_->Ingest(Handle(family), file, kind);
}

Status TargetStore::HoldKeys(uint64_t bytes) {
  if (bytes < kLeastHeldKeys) {
    return Status::Ok();
  }
  constexpr uint64_t kMiB = 1 << 20;
  const uint64_t added = kKeyCopies * bytes;
  const uint64_t held = held_key_bytes += added;
  {
    const std::lock_guard lock(mutex_);
    held_key_bytes_ += added;
  }
  const uint64_t allowed = kHeldKeysBeside + options_.max_memory / kHeldKeysShare;
  if (options_.max_memory == 0 || held <= allowed) {
    return Status::Ok();
  }
  // How many such keys are still to come is not known.
  const uint64_t enough = (2 * held - kHeldKeysBeside) * kHeldKeysShare;
  return Status(Code::kRefused, "a file with keys of " + std::to_string(bytes / 2 / 1024) +
                                    " KiB: RocksDB has the first and last key of every file in memory, so far " +
                                    std::to_string(held / kMiB) + " MiB at the target, more than the " +
                                    std::to_string(allowed / kMiB) + " MiB that its side's --max-memory allows. " +
                                    "Nothing is lost; raise --max-memory to " + std::to_string(enough / kMiB + 1) +
                                    "MiB there and run the same command again");
}

Status TargetStore::HoldKeysOfFiles() {
  for (const auto& [id, handle] : handles_) {
    rocksdb::ColumnFamilyMetaData metadata;
    db_->GetColumnFamilyMetaData(handle, &metadata);
    for (const auto& level : metadata.levels) {
      for (const auto& file : level.files) {
        if (Status status = HoldKeys(file.smallestkey.size() + file.largestkey.size()); !status.ok()) {
          return status;
        }
      }
    }
  }
  return Status::Ok();
}

Result<bool> TargetStore::Holds(uint32_t family, const rocksdb::TableProperties& file, const std::string& first,
                                const std::string& last) const {
  const rocksdb::Range range(first, last);
  rocksdb::TablePropertiesCollection held;
  const auto status = db_->GetPropertiesOfTablesInRange(Handle(family), &range, 1, &held);
  if (!status.ok()) {
    return FromTarget(status, "read table properties of " + path_);
  }
  for (const auto& [path, properties] : held) {
    // Where it was born, and what it holds: files of releases that did not write the first are told by the second.
    if (properties->db_id == file.db_id && properties->db_session_id == file.db_session_id &&
        properties->orig_file_number == file.orig_file_number && properties->num_entries == file.num_entries &&
        properties->raw_key_size == file.raw_key_size && properties->raw_value_size == file.raw_value_size &&
        properties->data_size == file.data_size && properties->creation_time == file.creation_time) {
      return true;
    }
  }
  return false;
}

}  // namespace kvbatch
