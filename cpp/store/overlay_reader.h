// OverlayReader: packs what stands over a grafted file into frames, and counts what the two are together.
#pragma once

#include <rocksdb/sst_file_reader.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/checksum.h"
#include "base/status.h"
#include "frame/frame.h"
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

  // As RangeReader::Fill. Deletions of keys that the file does not hold are left out.
  Result<FillResult> Fill(Frame* frame, size_t batch_bytes, Codec codec);

  const std::string& last_key() const { return last_key_; }
  const Digest& digest() const { return digest_; }
  // Of the range, file and overlay together, as far as it was packed.
  uint64_t entries() const { return entries_; }
  uint64_t raw_bytes() const { return raw_bytes_; }

 private:
  // Whether the file holds the key; the size of its value then.
  Result<bool> InBase(std::string_view key, uint64_t* value_bytes);

  std::shared_ptr<SourceStore> store_;
  const rocksdb::Comparator* comparator_;
  OverlayIterator operations_;
  rocksdb::SstFileReader base_reader_;
  std::unique_ptr<rocksdb::Iterator> base_;
  Status opened_;
  const uint32_t target_family_;
  Digest digest_;
  std::string last_key_;
  uint64_t entries_;
  uint64_t raw_bytes_;
};

}  // namespace kvbatch
