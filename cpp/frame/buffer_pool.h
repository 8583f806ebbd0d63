// BufferPool: the one place that frame memory comes from, and its bound.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "base/status.h"

namespace kvbatch {

class BufferPool;

// A lease of pool memory; goes back when destroyed. Movable, empty after a move. The pool must outlive it, which the
// shared pointer sees to.
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
  size_t capacity() const { return capacity_; }
  void Release();

 private:
  friend class BufferPool;
  Buffer(std::shared_ptr<BufferPool> pool, std::unique_ptr<char[]> memory, size_t capacity)
      : pool_(std::move(pool)), memory_(std::move(memory)), capacity_(capacity) {}

  std::shared_ptr<BufferPool> pool_;
  std::unique_ptr<char[]> memory_;
  size_t capacity_ = 0;
};

// Thread-safe. Buffers are kept for reuse; kept and leased ones together never exceed max_bytes.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  static std::shared_ptr<BufferPool> Create(size_t max_bytes);

  // A buffer of at least `capacity` bytes; waits until leases come back when the budget is spent. A caller must not
  // hold a buffer while it acquires another, or two of them can wait for each other forever.
  // kUsage when `capacity` alone exceeds the budget, kClosed after Close().
  Result<Buffer> Acquire(size_t capacity);

  // Wakes every waiter with kClosed; no buffer is given out any more.
  void Close();

  size_t max_bytes() const { return max_bytes_; }
  size_t leased_bytes() const;
  size_t waiting() const;

 private:
  friend class Buffer;
  struct Idle {
    std::unique_ptr<char[]> memory;
    size_t capacity;
  };

  explicit BufferPool(size_t max_bytes) : max_bytes_(max_bytes) {}
  void Return(std::unique_ptr<char[]> memory, size_t capacity);
  bool TakeIdle(size_t capacity, Idle* taken);

  const size_t max_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<Idle> idle_;
  size_t leased_ = 0;
  size_t idle_bytes_ = 0;
  size_t waiting_ = 0;
  bool closed_ = false;
};

}  // namespace kvbatch
