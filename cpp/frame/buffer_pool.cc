#include "frame/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <new>
#include <string>
#include <utility>

namespace kvbatch {

namespace {

constexpr size_t kGranule = 64 << 10;
// A larger buffer served one large value; the system gets its memory back at once.
constexpr size_t kLargestKept = 8 << 20;
constexpr size_t kTriedShare = 8;

MappedMemory Map(size_t bytes) {
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw std::bad_alloc();
  }
  return MappedMemory(static_cast<char*>(memory), Unmap{bytes});
}

size_t Sum(size_t a, size_t b) {
  return a > std::numeric_limits<size_t>::max() - b ? std::numeric_limits<size_t>::max() : a + b;
}

}  // namespace

void Unmap::operator()(char* memory) const { ::munmap(memory, bytes); }

Buffer::Buffer(Buffer&& other) noexcept
    : pool_(std::move(other.pool_)),
      memory_(std::move(other.memory_)),
      capacity_(std::exchange(other.capacity_, 0)),
      beside_(std::exchange(other.beside_, 0)),
      tried_(other.tried_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    Release();
    pool_ = std::move(other.pool_);
    memory_ = std::move(other.memory_);
    capacity_ = std::exchange(other.capacity_, 0);
    beside_ = std::exchange(other.beside_, 0);
    tried_ = other.tried_;
  }
  return *this;
}

void Buffer::DropMemory() {
  memory_.reset();
  beside_ += std::exchange(capacity_, 0);
}

void Buffer::Release() {
  if (pool_) {
    pool_->Return(this);
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

MappedMemory BufferPool::TakeOutgrown(size_t capacity) {
  auto found = idle_.end();
  for (auto each = idle_.begin(); each != idle_.end(); ++each) {
    if (each->capacity < capacity && (found == idle_.end() || each->capacity > found->capacity)) {
      found = each;
    }
  }
  if (found == idle_.end()) {
    return nullptr;
  }
  auto memory = std::move(found->memory);
  idle_bytes_ -= found->capacity;
  idle_.erase(found);
  return memory;
}

void BufferPool::MakeRoom(size_t bytes) {
  while (!idle_.empty() && Sum(leased_ + idle_bytes_, bytes) > max_bytes_) {
    idle_bytes_ -= idle_.back().capacity;
    idle_.pop_back();
  }
}

Status BufferPool::Check(size_t bytes) const {
  if (closed_) {
    return Status(Code::kClosed, "the buffer pool is closed");
  }
  if (bytes > max_bytes_) {
    return Status(Code::kUsage, "a buffer of " + std::to_string(bytes) + " bytes does not fit the memory budget of " +
                                    std::to_string(max_bytes_) + " bytes");
  }
  return Status::Ok();
}

Status BufferPool::WaitForTurn(std::unique_lock<std::mutex>* lock, size_t bytes) {
  if (Status status = Check(bytes); !status.ok()) {
    return status;
  }
  if (queue_.empty() && Sum(leased_, bytes) <= max_bytes_) {
    return Status::Ok();
  }
  const uint64_t ticket = next_ticket_++;
  queue_.push_back(ticket);
  const auto began = Clock::now();
  waiting_since_ += began.time_since_epoch();
  Status status;
  while (true) {
    status = Check(bytes);
    if (!status.ok() || (queue_.front() == ticket && Sum(leased_, bytes) <= max_bytes_)) {
      break;
    }
    changed_.wait(*lock);
  }
  waiting_since_ -= began.time_since_epoch();
  waited_ += Clock::now() - began;
  queue_.erase(std::find(queue_.begin(), queue_.end(), ticket));
  // The next in turn may fit beside this one.
  changed_.notify_all();
  return status;
}

Result<Buffer> BufferPool::Acquire(size_t capacity, size_t beside) {
  std::unique_lock lock(mutex_);
  if (const size_t rounded = Sum(capacity, kGranule - 1) / kGranule * kGranule; Sum(rounded, beside) <= max_bytes_) {
    capacity = std::max(capacity, rounded);
  }
  if (Status status = WaitForTurn(&lock, Sum(capacity, beside)); !status.ok()) {
    return status;
  }
  Idle taken;
  if (capacity > 0 && TakeIdle(capacity, &taken) && Sum(leased_ + beside, taken.capacity) <= max_bytes_) {
    leased_ += taken.capacity + beside;
    MakeRoom(0);
    return Buffer(shared_from_this(), std::move(taken.memory), taken.capacity, beside, false);
  }
  leased_ += capacity + beside;
  // Batches that grow would otherwise leave one buffer of each size behind.
  auto outgrown = TakeOutgrown(capacity);
  MakeRoom(0);
  lock.unlock();
  outgrown.reset();
  auto memory = capacity > 0 ? Map(capacity) : nullptr;
  return Buffer(shared_from_this(), std::move(memory), capacity, beside, false);
}

Buffer BufferPool::TryLease(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (closed_ || Sum(tried_, bytes) > max_bytes_ / kTriedShare || Sum(leased_, bytes) > max_bytes_) {
    return Buffer();
  }
  leased_ += bytes;
  tried_ += bytes;
  MakeRoom(0);
  return Buffer(shared_from_this(), nullptr, 0, bytes, true);
}

void BufferPool::Return(Buffer* buffer) {
  MappedMemory freed = std::move(buffer->memory_);
  const size_t capacity = std::exchange(buffer->capacity_, 0);
  const size_t beside = std::exchange(buffer->beside_, 0);
  if (capacity > kLargestKept) {
    freed.reset();
  }
  {
    const std::lock_guard lock(mutex_);
    leased_ -= capacity + beside;
    if (buffer->tried_) {
      tried_ -= capacity + beside;
    }
    if (freed && !closed_ && Sum(leased_ + idle_bytes_, capacity) <= max_bytes_) {
      idle_.push_back({std::move(freed), capacity});
      idle_bytes_ += capacity;
    }
  }
  changed_.notify_all();
}

void BufferPool::SetMaxBytes(size_t max_bytes) {
  {
    const std::lock_guard lock(mutex_);
    max_bytes_ = max_bytes;
    MakeRoom(0);
  }
  changed_.notify_all();
}

void BufferPool::Close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    idle_.clear();
    idle_bytes_ = 0;
  }
  changed_.notify_all();
}

size_t BufferPool::max_bytes() const {
  const std::lock_guard lock(mutex_);
  return max_bytes_;
}

size_t BufferPool::leased_bytes() const {
  const std::lock_guard lock(mutex_);
  return leased_;
}

size_t BufferPool::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return idle_bytes_;
}

size_t BufferPool::waiting() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

std::chrono::nanoseconds BufferPool::waited() const {
  const std::lock_guard lock(mutex_);
  return waited_ + static_cast<int64_t>(queue_.size()) * Clock::now().time_since_epoch() - waiting_since_;
}

}  // namespace kvbatch
