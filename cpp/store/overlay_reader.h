// OverlayReader: packs what stands over a grafted file into frames, and counts what the two are together.
#pragma once

#include <rocksdb/sst_file_reader.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "store/frame_filler.h"
#include "store/overlay_iterator.h"

namespace kvbatch {

// Deletions of keys that the file does not hold are left out.
class OverlayReader final : public FrameFiller {
 public:
  // `base` is the file that was moved for the range `bounds`; `digest` is the running digest behind it, or behind the
  // key `bounds.after`, up to which operations are counted and not packed.
  OverlayReader(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, const TableFile& base,
                const RangeBounds& bounds, uint32_t target_family, const Digest& digest);

  // Of the range, file and overlay together, as far as it was packed.
  uint64_t entries() const { return entries_; }
  uint64_t raw_bytes() const { return raw_bytes_; }
  // Of the operations that were not packed: keys and values.
  uint64_t skipped_bytes() const { return skipped_bytes_; }

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

  Status PackInto(BatchBuilder* builder, size_t room, FillResult* result) override;
  void Close() override { opened_.reset(); }
  // Whether the file holds the key; the size of its value then.
  Result<bool> InBase(std::string_view key, uint64_t* value_bytes);

  bool IsSkipped(std::string_view key) const;

  const TableFile base_;
  RangeBounds bounds_;  // from the key on that was looked at last
  const std::optional<std::string> after_;
  bool looked_ = false;
  std::unique_ptr<Opened> opened_;
  uint64_t entries_;
  uint64_t raw_bytes_;
  uint64_t skipped_bytes_ = 0;
};

}  // namespace kvbatch
