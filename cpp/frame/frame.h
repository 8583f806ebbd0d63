// Frame: a header and a payload in one pooled buffer.
//
// Sending:    Reserve → write a batch into raw() → SetRaw → Compress → Connection::Send
// Receiving:  Connection::Receive → OpenRaw → the batch
#pragma once

#include <memory>
#include <string_view>

#include "base/status.h"
#include "frame/buffer_pool.h"
#include "frame/frame_format.h"

namespace kvbatch {

// Not thread-safe; one thread has it at a time. Reusable: Reserve starts it over and keeps the buffer if it is enough.
class Frame {
 public:
  explicit Frame(std::shared_ptr<BufferPool> pool) : pool_(std::move(pool)) {}
  Frame(Frame&&) = default;
  Frame& operator=(Frame&&) = default;

  FrameHeader& header() { return header_; }
  const FrameHeader& header() const { return header_; }

  // Makes room for `raw_capacity` bytes of raw payload and, with a codec, for their compressed form beside them.
  // Waits for the pool; the buffer that is held is given back first.
  Status Reserve(size_t raw_capacity, Codec codec);

  // As Reserve, for a batch with one entry that may be as large: the lease covers everything that such an entry takes
  // on this side, see large_entry.h.
  Status ReserveLarge(size_t raw_capacity, Codec codec);

  char* raw() { return buffer_.data(); }
  size_t raw_capacity() const { return raw_capacity_; }

  // Says that `size` bytes of raw() with `entries` entries are the payload.
  void SetRaw(size_t size, uint32_t entries);

  // Compresses the payload where that makes it smaller; otherwise it stays as it is, with codec kNone.
  void Compress(Codec codec);

  // What goes over the wire.
  std::string_view payload() const { return {buffer_.data() + payload_offset_, header_.payload_length}; }

  // Receiver: room for the payload that `header` announces and, when compressed, for its raw form; one lease for both,
  // so that no two frames can wait for each other, and for all that a large entry takes.
  Status ReserveFor(const FrameHeader& header);
  char* payload_buffer() { return buffer_.data() + payload_offset_; }

  // The raw payload, decompressed on the first call. kCorruption when it is not what the header says.
  Result<std::string_view> OpenRaw();

  // Receiver: takes note of a FILE frame, whose payload goes into a file and never comes here.
  void SetFileHeader(const FrameHeader& header);

  // The payload is not needed any more, but what was made of it takes its place: frees it and keeps the lease.
  void DropPayload();

  // Gives the memory back to the pool.
  void Release();

  BufferPool& pool() { return *pool_; }

 private:
  // Gives back the buffer that is held when it is too small, or stands for more than itself.
  Status EnsureCapacity(size_t needed, size_t beside);
  void Begin(size_t raw_capacity);
  void Clear();

  std::shared_ptr<BufferPool> pool_;
  Buffer buffer_;
  FrameHeader header_;
  size_t raw_capacity_ = 0;
  size_t payload_offset_ = 0;
  bool raw_ready_ = false;
};

}  // namespace kvbatch
