#include "store/sample_store.h"

#include <rocksdb/db.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "store/rocksdb_status.h"
#include "store/store_description.h"

namespace kvbatch {

namespace {

constexpr uint64_t kEntriesPerWrite = 1000;
constexpr uint32_t kNumberBytes = 16;
constexpr std::string_view kText = "the quick brown fox jumps over the lazy dog; ";

// splitmix64 (Steele, Lea, Flood 2014): a bijection of 64-bit numbers, so no two entries share a key.
uint64_t Mix(uint64_t number) {
  number += 0x9e3779b97f4a7c15;
  number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9;
  number = (number ^ (number >> 27)) * 0x94d049bb133111eb;
  return number ^ (number >> 31);
}

void FillValue(uint64_t number, std::string* value) {
  const size_t noise = value->size() / 2;
  uint64_t state = number;
  for (size_t i = 0; i < noise; i += sizeof(state)) {
    state = Mix(state);
    std::memcpy(value->data() + i, &state, std::min(sizeof(state), noise - i));
  }
  for (size_t i = noise; i < value->size(); ++i) {
    (*value)[i] = kText[i % kText.size()];
  }
}

}  // namespace

Status WriteSampleStore(const std::string& path, const SampleOptions& options) {
  if (Status status = ParseCompression(options.compression).status(); !status.ok()) {
    return status;
  }
  if (std::filesystem::exists(path)) {
    return Status(Code::kRefused, path + " exists already");
  }
  if (options.key_bytes < kNumberBytes) {
    return Status(Code::kUsage, "sample keys take at least 16 bytes");
  }
  ColumnFamilyDescription family;
  family.name = rocksdb::kDefaultColumnFamilyName;
  family.compression = options.compression;
  rocksdb::Options rocksdb_options(rocksdb::DBOptions(), OpenOptions(family));
  rocksdb_options.create_if_missing = true;
  // The default since RocksDB 8.4, which older ones need to be told to compact into the last level.
  rocksdb_options.level_compaction_dynamic_level_bytes = true;
  rocksdb_options.max_background_jobs = 2;
  if (options.file_checksums) {
    rocksdb_options.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  }
  rocksdb_options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  rocksdb::DB* opened = nullptr;
  if (Status status = FromTarget(rocksdb::DB::Open(rocksdb_options, path, &opened), "make " + path); !status.ok()) {
    return status;
  }
  const std::unique_ptr<rocksdb::DB> db(opened);
  std::string key(options.key_bytes, 'k');
  std::string value(options.value_bytes, '\0');
  for (uint64_t first = 0; first < options.entries; first += kEntriesPerWrite) {
    rocksdb::WriteBatch batch;
    const uint64_t last = std::min(options.entries, first + kEntriesPerWrite);
    for (uint64_t i = first; i < last; ++i) {
      const uint64_t number = Mix(options.seed * options.entries + i);
      char text[kNumberBytes + 1];
      std::snprintf(text, sizeof(text), "%016" PRIx64, number);
      std::memcpy(key.data(), text, kNumberBytes);
      FillValue(number, &value);
      if (Status status = FromTarget(batch.Put(key, value), "pack"); !status.ok()) {
        return status;
      }
    }
    if (Status status = FromTarget(db->Write(rocksdb::WriteOptions(), &batch), "write " + path); !status.ok()) {
      return status;
    }
  }
  if (options.compact) {
    if (Status status =
            FromTarget(db->CompactRange(rocksdb::CompactRangeOptions(), nullptr, nullptr), "compact " + path);
        !status.ok()) {
      return status;
    }
  }
  return FromTarget(db->Close(), "close " + path);
}

}  // namespace kvbatch
