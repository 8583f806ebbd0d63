// What the tests of targets share: copies of a store as a crash would leave it, frames, a description in one line.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>

#include "base/coding.h"
#include "store/range_applier.h"
#include "store_testing.h"

namespace kvbatch {

inline void PrintTo(ApplyMode mode, std::ostream* out) { *out << (mode == ApplyMode::kIngest ? "ingest" : "write"); }

}  // namespace kvbatch

namespace kvbatch::testing {

// The bytes of the directory now, which is what another process finds when this one is killed now.
inline void CopyDirectory(const std::string& from, const std::string& to) {
  std::filesystem::remove_all(to);
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline ColumnFamilyDescription Traits(const std::string& name) {
  ColumnFamilyDescription family;
  family.name = name;
  return family;
}

inline ColumnFamilyDescription ReverseTraits(const std::string& name) {
  ColumnFamilyDescription family = Traits(name);
  family.comparator = rocksdb::ReverseBytewiseComparator()->Name();
  return family;
}

// The format version in the footer of an SST file: 4 bytes before the magic number that ends the file.
inline uint32_t FormatVersionOf(const std::string& file) {
  const std::string bytes = ReadFile(file);
  return bytes.size() < 12 ? 0 : DecodeFixed<uint32_t>(bytes.data() + bytes.size() - 12);
}

inline std::shared_ptr<BufferPool> SharedPool() {
  static const auto pool = BufferPool::Create(256 << 20);
  return pool;
}

// A frame that counts what its batch counts.
inline Frame FrameOfBatch(std::string_view batch) {
  const uint32_t count = batch.size() < kBatchHeaderSize ? 0 : DecodeFixed<uint32_t>(batch.data() + kBatchCountOffset);
  return FrameOf(SharedPool(), batch, count);
}

inline Status ApplyEntries(RangeApplier* applier, const Entries& entries, uint32_t family = 0) {
  Frame frame = FrameOfBatch(BatchOf(entries, family));
  return applier->Apply(&frame);
}

inline Status ApplyInBatches(RangeApplier* applier, const Entries& entries, size_t batch, uint32_t family = 0) {
  for (size_t first = 0; first < entries.size(); first += batch) {
    const auto begin = entries.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = entries.begin() + static_cast<std::ptrdiff_t>(std::min(entries.size(), first + batch));
    if (Status status = ApplyEntries(applier, Entries(begin, end), family); !status.ok()) {
      return status;
    }
  }
  return Status::Ok();
}

inline Entries Prefix(const Entries& entries, size_t count) {
  return {entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(count)};
}

inline Entries Suffix(const Entries& entries, size_t first) {
  return {entries.begin() + static_cast<std::ptrdiff_t>(first), entries.end()};
}

// Ends the range with what the applier counted itself and waits until that is durable.
inline Status FinishAsApplied(RangeApplier* applier) {
  const Cursor cursor = applier->applied();
  if (Status status = applier->Finish(cursor.entries, cursor.raw_bytes, cursor.digest); !status.ok()) {
    return status;
  }
  return applier->Drain();
}

inline ApplyRange RangeOf(uint32_t range, uint32_t family = 0, std::optional<std::string> start = std::nullopt,
                          std::optional<std::string> end = std::nullopt) {
  return {range, family, std::move(start), std::move(end)};
}

inline std::unique_ptr<RangeApplier> ApplierFor(const std::shared_ptr<TargetStore>& store, ApplyMode mode,
                                                ApplyRange range = {}, const Cursor& cursor = {}) {
  return Must(RangeApplier::Create(store, std::move(range), mode, cursor));
}

// What an owner finds when the job is over.
inline Entries FinishedEntries(const std::shared_ptr<TargetStore>& store, const std::string& name = "default",
                               const rocksdb::ColumnFamilyOptions& options = {}) {
  EXPECT_THAT(store->DropRecords(), IsOk());
  EXPECT_THAT(store->Close(), IsOk());
  return EntriesAsOwner(store->path(), name, options);
}

}  // namespace kvbatch::testing
