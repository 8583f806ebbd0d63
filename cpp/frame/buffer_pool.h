// BufferPool: the one place that large memory comes from, and its bound.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/status.h"

namespace kvbatch {

class BufferPool;

// Memory that the system gives and gets back directly: of pieces this large, freed as batches grow and shrink, malloc
// keeps some in the heap of each thread.
struct Unmap {
  size_t bytes = 0;
  void operator()(char* memory) const;
};
using MappedMemory = std::unique_ptr<char[], Unmap>;

// A lease of the pool's budget, with memory or only with the room for it; goes back when destroyed. Movable, empty
// after a move. The pool must outlive it, which the shared pointer sees to.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { Release(); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  char* data() { return memory_.get(); }
  const char* data() const { return memory_.get(); }
  size_t capacity() const { return memory_ ? capacity_ : 0; }
  // What it counts in the budget: its memory and the room beside it.
  size_t leased() const { return capacity_ + beside_; }

  // Frees the memory and keeps the lease, for something else that takes its place.
  void DropMemory();
  void Release();

 private:
  friend class BufferPool;
  Buffer(std::shared_ptr<BufferPool> pool, MappedMemory memory, size_t capacity, size_t beside, bool tried)
      : pool_(std::move(pool)), memory_(std::move(memory)), capacity_(capacity), beside_(beside), tried_(tried) {}

  std::shared_ptr<BufferPool> pool_;
  MappedMemory memory_;
  size_t capacity_ = 0;
  size_t beside_ = 0;
  bool tried_ = false;
};

// Thread-safe. Small buffers are kept for reuse; kept ones and leases together never exceed max_bytes, unless that was
// lowered below what is leased. Who waits is served in turn: a large need is not starved by small ones.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  static std::shared_ptr<BufferPool> Create(size_t max_bytes);

  // A buffer of at least `capacity` bytes, and room for `beside` bytes that the caller has elsewhere; waits until
  // leases come back when the budget is spent. A caller must not hold a lease while it acquires another, or two of them
  // can wait for each other forever; whatever a large entry takes is acquired at once for that reason. kUsage when that
  // alone exceeds the budget, kClosed after Close().
  Result<Buffer> Acquire(size_t capacity, size_t beside = 0);

  // Room for `bytes` that the caller has elsewhere, if there is some at once: never waits, so that it may be asked for
  // while another lease is held. All such leases together take no more than an eighth of the budget: the rest is always
  // there for those who wait. An empty lease otherwise.
  Buffer TryLease(size_t bytes);

  // Holds from now on. Less than what is leased: nobody gets anything until enough came back. Who waits for more than
  // all of it gets kUsage.
  void SetMaxBytes(size_t max_bytes);

  // Wakes every waiter with kClosed; no buffer is given out any more.
  void Close();

  size_t max_bytes() const;
  size_t leased_bytes() const;
  // Memory that is kept for reuse.
  size_t kept_bytes() const;
  // Threads that wait now.
  size_t waiting() const;
  // What all threads together waited so far; waits that still last count.
  std::chrono::nanoseconds waited() const;

 private:
  friend class Buffer;
  using Clock = std::chrono::steady_clock;
  struct Idle {
    MappedMemory memory;
    size_t capacity;
  };

  explicit BufferPool(size_t max_bytes) : max_bytes_(max_bytes) {}
  void Return(Buffer* buffer);
  bool TakeIdle(size_t capacity, Idle* taken);
  // The largest of the kept buffers that are smaller than that; nothing without one.
  MappedMemory TakeOutgrown(size_t capacity);
  // Frees kept buffers until `bytes` more fit, as far as there are any.
  void MakeRoom(size_t bytes);
  Status WaitForTurn(std::unique_lock<std::mutex>* lock, size_t bytes);
  Status Check(size_t bytes) const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  size_t max_bytes_;
  std::vector<Idle> idle_;
  size_t leased_ = 0;
  size_t idle_bytes_ = 0;
  size_t tried_ = 0;  // of leased_: by TryLease
  bool closed_ = false;
  // Tickets of those who wait: the lowest is served first.
  uint64_t next_ticket_ = 0;
  std::vector<uint64_t> queue_;
  Clock::duration waited_{0};
  Clock::duration waiting_since_{0};  // sum of when the waits that last began
};

}  // namespace kvbatch
