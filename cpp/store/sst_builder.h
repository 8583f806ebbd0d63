// SstBuilder: the entries of a range as SST files for a target, handed out in pieces while they are built.
//
// RocksDB writes an SST file from its first byte to its last, so nothing needs to keep a whole one. A file in memory
// (memfd), sent by sendfile once it is whole, cost the sender 70 ns of CPU an entry more: pages to allocate, fill, map
// and free, where the piece that is reused here stays in the cache.
#pragma once

#include <rocksdb/env.h>
#include <rocksdb/sst_file_writer.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "batch/batch_format.h"
#include "batch/wide_columns.h"
#include "frame/buffer_pool.h"
#include "store/block_memory.h"
#include "store/entry_iterator.h"
#include "store/source_store.h"
#include "store/store_description.h"

namespace kvbatch {

// What one call of Build came to. The bytes themselves are SstBuilder::piece().
struct BuiltPiece {
  uint64_t offset = 0;      // of the piece in the file
  uint64_t length = 0;      // may be 0
  uint64_t entries = 0;     // of the file so far; they may stand in pieces to come
  uint64_t raw_bytes = 0;   // keys and values of those
  bool ends_file = false;   // the file is whole: `entries` and `raw_bytes` are all of it
  bool ends_range = false;  // nothing is left behind it; without `ends_file` nothing at all since the last file
  std::string last_key;     // with `ends_file`
  // Not 0: the next entry is a large one, of about so many bytes. It is not read before MakeRoom.
  uint64_t needed_bytes = 0;
};

// Not thread-safe. Holds the store.
class SstBuilder {
 public:
  // Files for `target`, the family as the target describes it, of about `file_bytes` each: a file ends with the entry
  // that fills it. kUsage or kRefused when the target's traits are none that this build can write.
  static Result<std::unique_ptr<SstBuilder>> Create(std::shared_ptr<SourceStore> store,
                                                    rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                                                    const ColumnFamilyDescription& target, uint64_t file_bytes);
  ~SstBuilder();

  SstBuilder(const SstBuilder&) = delete;
  SstBuilder& operator=(const SstBuilder&) = delete;

  // The next piece: `piece_bytes`, or fewer where the file ends, or where so many entries went into it that the caller
  // should have its say; it may be empty then. kSource names the damaged file when the source cannot be read. After an
  // error there is nothing more to be had.
  Result<BuiltPiece> Build(size_t piece_bytes);

  // The answer to `needed_bytes`: acquires all that such an entry takes, and keeps it until the file that the entry
  // ends was handed out. Waits; the caller must hold no lease. As BufferPool::Acquire.
  Status MakeRoom(const std::shared_ptr<BufferPool>& pool, uint64_t needed_bytes);

  // Of the entry that was added last; empty when there was none.
  std::string last_key() const { return added_key_.value_or(std::string()); }
  // What Build has returned last, and the bytes it speaks of, until the next Build.
  const BuiltPiece& position() const { return position_; }
  std::string_view piece() const { return std::string_view(built_).substr(handed_out_, position_.length); }

 private:
  SstBuilder(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
             const ColumnFamilyDescription& target, uint64_t file_bytes);
  Status Fill(size_t piece_bytes);
  Status AddEntries(size_t piece_bytes);
  Status Add(const Record& record);
  Status Finish();
  // Gives back what reading takes; it begins anew behind what was added.
  void Close();
  void DropHandedOut();

  std::shared_ptr<SourceStore> store_;
  rocksdb::ColumnFamilyHandle* const family_;
  RangeBounds bounds_;  // of what was not added yet
  BlockMemory blocks_;
  std::unique_ptr<EntryIterator> entries_;
  bool ended_ = false;  // the range
  std::optional<std::string> added_key_;
  // What the large entry that comes needs, and what there is room for; 0 for none.
  uint64_t needed_bytes_ = 0;
  uint64_t room_ = 0;
  Buffer lease_;
  const uint64_t file_bytes_;
  std::string built_;  // of the file; what is not handed out yet begins at `handed_out_`
  size_t handed_out_ = 0;
  const std::unique_ptr<rocksdb::Env> env_;
  rocksdb::SstFileWriter writer_;
  bool open_ = false;
  bool finished_ = false;  // what is left of the file stands in built_
  BuiltPiece position_;
  std::vector<WideColumn> scratch_;
  Status failed_;
};

}  // namespace kvbatch
