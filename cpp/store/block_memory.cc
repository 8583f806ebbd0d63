#include "store/block_memory.h"

#include <malloc.h>
#include <rocksdb/memory_allocator.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "frame/large_entry.h"

namespace kvbatch {

namespace {

thread_local BlockMemory* current = nullptr;

}  // namespace

BlockMemory::Scope::Scope(BlockMemory* memory, size_t entry_bytes) : outer_(std::exchange(current, memory)) {
  memory->entry_bytes_ = entry_bytes;
}

BlockMemory::Scope::~Scope() { current = outer_; }

BlockMemory::Unbound::Unbound() : outer_(std::exchange(current, nullptr)) {}

BlockMemory::Unbound::~Unbound() { current = outer_; }

void BlockMemory::Check(size_t bytes) const {
  const size_t live = live_->load();
  if (live + bytes > 2 * entry_bytes_) {
    // A block alone is an entry; several of them, of files that overlap, count as the two that an entry may have.
    throw NoRoomForBlock(std::max(bytes, (live + bytes + 1) / 2));
  }
}

void BlockMemory::CheckRead(size_t bytes) {
  if (current != nullptr && bytes >= kLargeEntryBytes + kReadBeside) {
    current->Check(bytes - kReadBeside);
  }
}

// Thread-safe. Of the blocks that count it remembers whose they are: some outlive the call that made them.
class BlockAllocator final : public rocksdb::MemoryAllocator {
 public:
  const char* Name() const override { return "kvbatch.BlockAllocator"; }

  void* Allocate(size_t size) override {
    const bool counts = size >= kLargeEntryBytes && current != nullptr;
    if (counts) {
      current->Check(size);
    }
    void* const block = std::malloc(size);
    if (block == nullptr) {
      throw std::bad_alloc();
    }
    if (counts) {
      current->live_->fetch_add(size);
      const std::lock_guard lock(mutex_);
      large_.emplace(block, std::pair(current->live_, size));
    }
    return block;
  }

  void Deallocate(void* block) override {
    if (block != nullptr && ::malloc_usable_size(block) >= kLargeEntryBytes) {
      const std::lock_guard lock(mutex_);
      if (const auto found = large_.find(block); found != large_.end()) {
        found->second.first->fetch_sub(found->second.second);
        large_.erase(found);
      }
    }
    std::free(block);
  }

  size_t UsableSize(void* block, size_t /*allocation_size*/) const override { return ::malloc_usable_size(block); }

 private:
  std::mutex mutex_;
  std::unordered_map<void*, std::pair<std::shared_ptr<std::atomic<size_t>>, size_t>> large_;
};

std::shared_ptr<rocksdb::Cache> BlockMemoryCache() {
  // Never destroyed: threads of RocksDB may still use it when the process ends.
  static const auto* const cache = [] {
    rocksdb::LRUCacheOptions options;
    options.capacity = 0;
    options.num_shard_bits = 6;
    options.memory_allocator = std::make_shared<BlockAllocator>();
    return new std::shared_ptr<rocksdb::Cache>(rocksdb::NewLRUCache(options));
  }();
  return *cache;
}

}  // namespace kvbatch
