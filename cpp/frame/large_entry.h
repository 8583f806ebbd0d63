// What an entry takes of --max-memory that is too large to be one of many.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvbatch {

// From this size on an entry travels by itself, and its memory is acquired before it is read. What a smaller one takes
// beside its frame (its block, where it is read and where it is built) is part of what a stream has in any case.
inline constexpr size_t kLargeEntryBytes = size_t{2} << 20;

// So many times its size an entry takes at most, on each side and in each lane:
//   reading    its block, compressed and not; then its block and the batch, or the SST block, that it is packed into
//   sending    the batch and its compressed form; or the SST block, its compressed form and the file's bytes
//   receiving  the frame and its raw form, or that and the SST block (in write mode, the WriteBatch) it is put into
//   writing    the SST block, its compressed form, and with RocksDB's memtable in write mode that
inline constexpr size_t kLargeEntryCopies = 3;

// A block is about as large as the one entry that fills it; a batch with that entry may take a little more.
inline constexpr size_t kBlockSlack = size_t{4} << 10;

// One large entry may take six sevenths of the budget; the rest is left for what streams hold beside.
inline constexpr size_t LargestEntry(size_t max_memory) { return max_memory / 7 * 2; }

// The least budget that takes an entry of `bytes`: three and a half times as much.
inline constexpr uint64_t MemoryForEntry(uint64_t bytes) { return (bytes + 1) / 2 * 7; }

}  // namespace kvbatch
