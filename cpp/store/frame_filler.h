// FrameFiller: from what a reader of entries finds to batches in frames, one a call. Knows of sizes, memory and
// digests.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/checksum.h"
#include "base/status.h"
#include "batch/batch_builder.h"
#include "frame/frame.h"
#include "store/block_memory.h"
#include "store/source_store.h"

namespace kvbatch {

enum class StopReason {
  kFull,       // the batch reached its size, or a large entry comes; there may be more
  kEnd,        // the range is exhausted; the frame may be empty
  kLargeEntry  // nothing was packed: the next entry alone needs `needed_bytes`, see FillLarge
};

struct FillResult {
  StopReason stop = StopReason::kEnd;
  uint32_t entries = 0;
  uint64_t raw_bytes = 0;  // keys and values, without the batch's own bytes
  // With kLargeEntry: the batch size that takes the entry, as far as it is known: reading it may show that it takes
  // more.
  uint64_t needed_bytes = 0;
};

// Not thread-safe. Holds the store.
class FrameFiller {
 public:
  FrameFiller(const FrameFiller&) = delete;
  FrameFiller& operator=(const FrameFiller&) = delete;

  // Packs entries straight into the frame's buffer until the batch has `batch_bytes`, then compresses it. An entry
  // larger than the batch, or a large one, is reported (kLargeEntry) before memory is taken for it, so that the caller
  // can ask again with room for it. kSource names the damaged file when the source cannot be read.
  Result<FillResult> Fill(Frame* frame, size_t batch_bytes, Codec codec);

  // The answer to kLargeEntry: a batch of `needed_bytes`. The frame's lease covers all that such an entry takes, and
  // the reader has given its memory back when this returns.
  Result<FillResult> FillLarge(Frame* frame, size_t needed_bytes, Codec codec);

  const std::string& last_key() const { return last_key_; }
  const Digest& digest() const { return digest_; }

  // In all calls of Fill so far: reading and packing, and compressing.
  std::chrono::nanoseconds read_time() const { return read_time_; }
  std::chrono::nanoseconds compress_time() const { return compress_time_; }

 protected:
  FrameFiller(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, uint32_t target_family,
              const Digest& digest);
  virtual ~FrameFiller() = default;

  const SourceStore& store() const { return *store_; }
  rocksdb::ColumnFamilyHandle* family() const { return family_; }
  uint32_t target_family() const { return target_family_; }
  // Packed last, or looked at.
  std::string last_key_;

  // PackInto met an entry that the batch cannot take now, of so many bytes in a batch of its own.
  void StopBefore(size_t needed_bytes, FillResult* result);

 private:
  // Packs from behind the last entry on, opening what it reads where that is closed. Sets `stop` and `raw_bytes`.
  // `room`: for a large entry, which is then the first and the last; 0 where none may be taken. Throws NoRoomForBlock.
  virtual Status PackInto(BatchBuilder* builder, size_t room, FillResult* result) = 0;
  // A batch with entries is packed, and still stands in the frame.
  virtual void NotePacked() {}
  // Gives back the memory of what it reads.
  virtual void Close() = 0;

  Result<FillResult> Pack(Frame* frame, size_t batch_bytes, size_t room, Codec codec);

  const std::shared_ptr<SourceStore> store_;
  rocksdb::ColumnFamilyHandle* const family_;
  const uint32_t target_family_;
  BlockMemory blocks_;
  // The large entry that comes takes so many bytes; 0 when none is known to come.
  size_t needed_bytes_ = 0;
  Digest digest_;
  std::chrono::nanoseconds read_time_{0};
  std::chrono::nanoseconds compress_time_{0};
};

}  // namespace kvbatch
