// What the tests of stores share: a RocksDB written the way an application writes it, and what stands in one.
#pragma once

#include <rocksdb/comparator.h>
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/merge_operator.h>
#include <rocksdb/options.h>
#include <rocksdb/wide_columns.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "batch/batch_builder.h"
#include "store/source_store.h"
#include "store/target_store.h"
#include "testing.h"

namespace kvbatch::testing {

inline void Check(const rocksdb::Status& status) {
  if (!status.ok()) {
    throw std::runtime_error(status.ToString());
  }
}

using Families = std::vector<rocksdb::ColumnFamilyDescriptor>;

inline rocksdb::ColumnFamilyDescriptor FamilyNamed(const std::string& name,
                                                   const rocksdb::ColumnFamilyOptions& options = {}) {
  return {name, options};
}

// A store opened for writing with what an owner would use, closed without a flush.
class OwnedStore {
 public:
  // Makes the families that are missing. Without `families`: the default one.
  explicit OwnedStore(const std::string& path, Families families = {}, rocksdb::DBOptions options = {}) {
    options.create_if_missing = true;
    options.create_missing_column_families = true;
    // The tests look at what was written where; nothing may move meanwhile.
    options.avoid_flush_during_shutdown = true;
    const auto is_default = [](const auto& family) { return family.name == rocksdb::kDefaultColumnFamilyName; };
    if (std::none_of(families.begin(), families.end(), is_default)) {
      families.insert(families.begin(), FamilyNamed(rocksdb::kDefaultColumnFamilyName));
    }
    rocksdb::DB* db = nullptr;
    Check(rocksdb::DB::Open(options, path, families, &handles_, &db));
    db_.reset(db);
  }
  ~OwnedStore() {
    for (auto* handle : handles_) {
      db_->DestroyColumnFamilyHandle(handle);
    }
  }
  OwnedStore(const OwnedStore&) = delete;
  OwnedStore& operator=(const OwnedStore&) = delete;

  rocksdb::DB* operator->() const { return db_.get(); }
  rocksdb::DB* db() const { return db_.get(); }

  rocksdb::ColumnFamilyHandle* family(const std::string& name = rocksdb::kDefaultColumnFamilyName) const {
    for (auto* handle : handles_) {
      if (handle->GetName() == name) {
        return handle;
      }
    }
    throw std::runtime_error("no family " + name);
  }

  void Put(const std::string& key, const std::string& value,
           const std::string& name = rocksdb::kDefaultColumnFamilyName) {
    Check(db_->Put(rocksdb::WriteOptions(), family(name), key, value));
  }
  // A put with a write time that is older than all that RocksDB knows of. Its files keep the record as it is only where
  // `preserve_internal_time_seconds` is set.
  void TimedPut(const std::string& key, const std::string& value) {
#if KVBATCH_TABLE_ITERATORS
    rocksdb::WriteBatch batch;
    Check(batch.TimedPut(family(), key, value, 1));
    Check(db_->Write(rocksdb::WriteOptions(), &batch));
#else
    Put(key, value);
#endif
  }
  void PutEntity(const std::string& key, const rocksdb::WideColumns& columns) {
    Check(db_->PutEntity(rocksdb::WriteOptions(), family(), key, columns));
  }
  void Flush(const std::string& name = rocksdb::kDefaultColumnFamilyName) {
    Check(db_->Flush(rocksdb::FlushOptions(), family(name)));
  }

 private:
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;
};

using Entries = std::vector<std::pair<std::string, std::string>>;

inline std::string Numbered(const std::string& prefix, size_t number) {
  const std::string digits = std::to_string(number);
  return prefix + std::string(digits.size() < 6 ? 6 - digits.size() : 0, '0') + digits;
}

// `count` entries "key000000".. with values of `value_size` bytes.
inline Entries SomeEntries(size_t count, size_t value_size = 20, size_t first = 0) {
  Random random(count + first);
  Entries entries;
  for (size_t i = first; i < first + count; ++i) {
    entries.emplace_back(Numbered("key", i), RandomBytes(random, value_size));
  }
  return entries;
}

inline Entries AllEntries(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family) {
  Entries entries;
  rocksdb::ReadOptions options;
  options.total_order_seek = true;
  const std::unique_ptr<rocksdb::Iterator> iterator(db->NewIterator(options, family));
  for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
    entries.emplace_back(iterator->key().ToString(), iterator->value().ToString());
  }
  Check(iterator->status());
  return entries;
}

// Opens the store as its owner, with RocksDB's default options and all of its families, and reads one.
inline Entries EntriesAsOwner(const std::string& path, const std::string& name = rocksdb::kDefaultColumnFamilyName,
                              const rocksdb::ColumnFamilyOptions& options = {}) {
  std::vector<std::string> names;
  Check(rocksdb::DB::ListColumnFamilies(rocksdb::DBOptions(), path, &names));
  Families families;
  for (const auto& each : names) {
    families.push_back(FamilyNamed(each, each == name ? options : rocksdb::ColumnFamilyOptions()));
  }
  const OwnedStore store(path, families);
  return AllEntries(store.db(), store.family(name));
}

inline std::vector<std::string> FamilyNamesOf(const std::string& path) {
  std::vector<std::string> names;
  Check(rocksdb::DB::ListColumnFamilies(rocksdb::DBOptions(), path, &names));
  return names;
}

struct FileTrace {
  uintmax_t size;
  std::filesystem::file_time_type modified;
  bool operator==(const FileTrace&) const = default;
};

// Every file below `path` with what opening it must not change; the directory itself is ".".
inline std::map<std::string, FileTrace> TraceOf(const std::string& path) {
  namespace fs = std::filesystem;
  std::map<std::string, FileTrace> trace;
  trace["."] = {0, fs::last_write_time(path)};
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    trace[entry.path().lexically_relative(path).string()] = {entry.is_regular_file() ? entry.file_size() : 0,
                                                             entry.last_write_time()};
  }
  return trace;
}

inline std::vector<std::string> FilesEndingWith(const std::string& path, const std::string& suffix) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.path().string().ends_with(suffix)) {
      files.push_back(entry.path().string());
    }
  }
  return files;
}

// The batch of puts of `entries` for one family.
inline std::string BatchOf(const Entries& entries, uint32_t family = 0) {
  size_t room = kBatchHeaderSize;
  for (const auto& [key, value] : entries) {
    room += BatchBuilder::SpaceFor(family, key, value);
  }
  std::string buffer(room, '\0');
  BatchBuilder builder(buffer.data(), buffer.size());
  for (const auto& [key, value] : entries) {
    builder.Put(family, key, value);
  }
  return std::string(builder.Finish());
}

inline std::shared_ptr<TargetStore> OpenTarget(const std::string& path, uint64_t sst_file_bytes = 64 << 20) {
  TargetOptions options;
  options.sst_file_bytes = sst_file_bytes;
  return Must(TargetStore::Open(path, options));
}

inline std::shared_ptr<SourceStore> OpenSource(const std::string& path, const std::vector<std::string>& names = {}) {
  return Must(SourceStore::Open(path, names));
}

inline std::shared_ptr<rocksdb::MergeOperator> AddingOperator() {
  std::shared_ptr<rocksdb::MergeOperator> merge_operator;
  Check(rocksdb::MergeOperator::CreateFromString(rocksdb::ConfigOptions(), "uint64add", &merge_operator));
  return merge_operator;
}

inline std::string LittleEndian(uint64_t number) {
  std::string bytes;
  AppendFixed(&bytes, number);
  return bytes;
}

}  // namespace kvbatch::testing
