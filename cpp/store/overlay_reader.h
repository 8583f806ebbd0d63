// OverlayReader: packs what stands over a grafted file into frames, and counts what the two are together.
#pragma once

#include <rocksdb/sst_file_reader.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/checksum.h"
#include "base/status.h"
#include "batch/batch_builder.h"
#include "frame/frame.h"
#include "store/block_memory.h"
#include "store/overlay_iterator.h"
#include "store/range_reader.h"
#include "store/source_store.h"

namespace kvbatch {

// Not thread-safe. Holds the store.
class OverlayReader {
 public:
  // `base` is the file that was moved for the range `bounds`; `digest` is the running digest behind it.
  OverlayReader(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, const TableFile& base,
                const RangeBounds& bounds, uint32_t target_family, const Digest& digest);

  // As RangeReader::Fill and FillLarge. Deletions of keys that the file does not hold are left out.
  Result<FillResult> Fill(Frame* frame, size_t batch_bytes, Codec codec);
  Result<FillResult> FillLarge(Frame* frame, size_t needed_bytes, Codec codec);

  const std::string& last_key() const { return last_key_; }
  const Digest& digest() const { return digest_; }
  // Of the range, file and overlay together, as far as it was packed.
  uint64_t entries() const { return entries_; }
  uint64_t raw_bytes() const { return raw_bytes_; }

 private:
  // What is read: the operations, and the file that they stand over.
  struct Opened {
    Opened(const SourceStore& store, rocksdb::ColumnFamilyHandle* family, const TableFile& base,
           const RangeBounds& bounds);
    OverlayIterator operations;
    rocksdb::SstFileReader base_reader;
    std::unique_ptr<rocksdb::Iterator> base;
    Status status;
  };

  // `room`: for a large entry.
  Result<FillResult> Pack(Frame* frame, size_t batch_bytes, size_t room, Codec codec);
  Status PackOperations(BatchBuilder* builder, size_t room, FillResult* result);
  // Whether the file holds the key; the size of its value then.
  Result<bool> InBase(std::string_view key, uint64_t* value_bytes);

  std::shared_ptr<SourceStore> store_;
  rocksdb::ColumnFamilyHandle* const family_;
  const TableFile base_;
  RangeBounds bounds_;  // from the key on that was looked at last
  bool looked_ = false;
  BlockMemory blocks_;
  std::unique_ptr<Opened> opened_;
  // The large entry that comes takes so many bytes; 0 when none is known to come.
  size_t needed_bytes_ = 0;
  const uint32_t target_family_;
  Digest digest_;
  std::string last_key_;
  uint64_t entries_;
  uint64_t raw_bytes_;
};

}  // namespace kvbatch
