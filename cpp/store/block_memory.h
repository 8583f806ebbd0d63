// BlockMemory: keeps RocksDB from reading blocks that nobody has made room for.
//
// The size of an entry is known when RocksDB allocates the block that it decompresses the entry into, and not before:
// a block of a megabyte can hold a value of two hundred. So the allocator says no, and the reader comes again with
// room.
#pragma once

#include <rocksdb/cache.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <new>

#include "store/store_description.h"

namespace kvbatch {

// Readahead takes what lies behind a block too: so much at most of what is read at once is not the block.
inline constexpr size_t kReadBeside = kReadaheadBytes + (size_t{64} << 10);

// Thrown out of RocksDB, as its own allocators throw std::bad_alloc. What was called must be thrown away.
class NoRoomForBlock : public std::bad_alloc {
 public:
  explicit NoRoomForBlock(size_t needed) : needed_(needed) {}
  const char* what() const noexcept override { return "no room for a block"; }
  // The size of entry that there must be room for, next time. It may turn out to take more.
  size_t needed() const { return needed_; }

 private:
  const size_t needed_;
};

// Counts the large blocks that one reader has. A thread's calls of RocksDB are bound by it inside a Scope, and not
// bound by anything outside.
class BlockMemory {
 public:
  // Requires that calls in the scope catch NoRoomForBlock. `entry_bytes`: the size of the large entry that there is
  // room for, 0 for none; its block may be there twice, compressed and not.
  class Scope {
   public:
    Scope(BlockMemory* memory, size_t entry_bytes);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    BlockMemory* const outer_;
  };

  // Inside a Scope, for a while not bound.
  class Unbound {
   public:
    Unbound();
    ~Unbound();
    Unbound(const Unbound&) = delete;
    Unbound& operator=(const Unbound&) = delete;

   private:
    BlockMemory* const outer_;
  };

  // Throws NoRoomForBlock if this thread is about to read so many bytes of a file at once without room for them.
  static void CheckRead(size_t bytes);

 private:
  friend class BlockAllocator;
  void Check(size_t bytes) const;

  const std::shared_ptr<std::atomic<size_t>> live_ = std::make_shared<std::atomic<size_t>>(0);
  size_t entry_bytes_ = 0;
};

// Keeps no block: a block cache for its allocator alone, which is how RocksDB takes one.
std::shared_ptr<rocksdb::Cache> BlockMemoryCache();

}  // namespace kvbatch
