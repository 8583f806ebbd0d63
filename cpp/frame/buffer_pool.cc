#include "frame/buffer_pool.h"

#include <string>
#include <utility>

namespace kvbatch {

namespace {

constexpr size_t kGranule = 64 << 10;

}  // namespace

Buffer::Buffer(Buffer&& other) noexcept
    : pool_(std::move(other.pool_)), memory_(std::move(other.memory_)), capacity_(std::exchange(other.capacity_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    Release();
    pool_ = std::move(other.pool_);
    memory_ = std::move(other.memory_);
    capacity_ = std::exchange(other.capacity_, 0);
  }
  return *this;
}

void Buffer::Release() {
  if (memory_) {
    pool_->Return(std::move(memory_), std::exchange(capacity_, 0));
    pool_.reset();
  }
}

std::shared_ptr<BufferPool> BufferPool::Create(size_t max_bytes) {
  return std::shared_ptr<BufferPool>(new BufferPool(max_bytes));
}

bool BufferPool::TakeIdle(size_t capacity, Idle* taken) {
  for (size_t i = 0; i < idle_.size(); ++i) {
    // A much larger one would count against the budget for nothing.
    if (idle_[i].capacity >= capacity && idle_[i].capacity <= 2 * capacity) {
      *taken = std::move(idle_[i]);
      idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
      idle_bytes_ -= taken->capacity;
      return true;
    }
  }
  return false;
}

Result<Buffer> BufferPool::Acquire(size_t capacity) {
  if (capacity > max_bytes_) {
    return Status(Code::kUsage, "a buffer of " + std::to_string(capacity) +
                                    " bytes does not fit the memory budget of " + std::to_string(max_bytes_) +
                                    " bytes");
  }
  if (const size_t rounded = (capacity + kGranule - 1) / kGranule * kGranule; rounded <= max_bytes_) {
    capacity = rounded;
  }
  std::unique_lock lock(mutex_);
  while (true) {
    if (closed_) {
      return Status(Code::kClosed, "the buffer pool is closed");
    }
    Idle taken;
    if (TakeIdle(capacity, &taken)) {
      leased_ += taken.capacity;
      return Buffer(shared_from_this(), std::move(taken.memory), taken.capacity);
    }
    if (leased_ + capacity <= max_bytes_) {
      while (!idle_.empty() && leased_ + idle_bytes_ + capacity > max_bytes_) {
        idle_bytes_ -= idle_.back().capacity;
        idle_.pop_back();
      }
      leased_ += capacity;
      lock.unlock();
      return Buffer(shared_from_this(), std::make_unique_for_overwrite<char[]>(capacity), capacity);
    }
    ++waiting_;
    returned_.wait(lock);
    --waiting_;
  }
}

void BufferPool::Return(std::unique_ptr<char[]> memory, size_t capacity) {
  {
    const std::lock_guard lock(mutex_);
    leased_ -= capacity;
    if (!closed_) {
      idle_.push_back({std::move(memory), capacity});
      idle_bytes_ += capacity;
    }
  }
  returned_.notify_all();
}

void BufferPool::Close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    idle_.clear();
    idle_bytes_ = 0;
  }
  returned_.notify_all();
}

size_t BufferPool::leased_bytes() const {
  const std::lock_guard lock(mutex_);
  return leased_;
}

size_t BufferPool::waiting() const {
  const std::lock_guard lock(mutex_);
  return waiting_;
}

}  // namespace kvbatch
