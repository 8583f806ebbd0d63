#include "frame/frame.h"

#include <algorithm>
#include <limits>

#include "frame/large_entry.h"

namespace kvbatch {

namespace {

size_t Times(size_t factor, size_t bytes) {
  constexpr size_t kMost = std::numeric_limits<size_t>::max();
  return bytes > kMost / factor ? kMost : factor * bytes;
}

// The compressed form is kept only when it is smaller than the raw one, so that much room is enough.
size_t Room(size_t raw_capacity, Codec codec) { return codec == Codec::kNone ? raw_capacity : Times(2, raw_capacity); }

// What an entry takes besides `room`.
size_t Beside(size_t entry_bytes, size_t room) {
  const size_t all = Times(kLargeEntryCopies, entry_bytes);
  return all > room ? all - room : 0;
}

}  // namespace

Status Frame::EnsureCapacity(size_t needed, size_t beside) {
  if (buffer_.capacity() >= needed && beside == 0 && buffer_.leased() == buffer_.capacity()) {
    return Status::Ok();
  }
  Release();
  auto buffer = pool_->Acquire(needed, beside);
  if (!buffer.ok()) {
    return buffer.status();
  }
  buffer_ = buffer.Take();
  return Status::Ok();
}

Status Frame::Reserve(size_t raw_capacity, Codec codec) {
  if (Status status = EnsureCapacity(Room(raw_capacity, codec), 0); !status.ok()) {
    return status;
  }
  Begin(raw_capacity);
  return Status::Ok();
}

Status Frame::ReserveLarge(size_t raw_capacity, Codec codec) {
  const size_t room = Room(raw_capacity, codec);
  if (Status status = EnsureCapacity(room, Beside(raw_capacity, room)); !status.ok()) {
    return status;
  }
  Begin(raw_capacity);
  return Status::Ok();
}

void Frame::Begin(size_t raw_capacity) {
  header_ = FrameHeader{};
  raw_capacity_ = raw_capacity;
  payload_offset_ = 0;
  raw_ready_ = true;
}

void Frame::SetRaw(size_t size, uint32_t entries) {
  header_.raw_length = size;
  header_.payload_length = size;
  header_.entries = entries;
  header_.codec = Codec::kNone;
  payload_offset_ = 0;
  raw_ready_ = true;
}

void Frame::Compress(Codec codec) {
  if (codec == Codec::kNone || header_.raw_length == 0) {
    return;
  }
  const size_t room = buffer_.capacity() - raw_capacity_;
  const size_t limit = header_.raw_length - 1 < room ? header_.raw_length - 1 : room;
  const size_t size =
      kvbatch::Compress(codec, {buffer_.data(), header_.raw_length}, buffer_.data() + raw_capacity_, limit);
  if (size != 0) {
    header_.codec = codec;
    header_.payload_length = size;
    payload_offset_ = raw_capacity_;
  }
}

Status Frame::ReserveFor(const FrameHeader& header) {
  const size_t raw_room = header.codec == Codec::kNone ? 0 : header.raw_length;
  const size_t room = header.payload_length + raw_room;
  const bool large = header.type == FrameType::kData && header.entries == 1 && header.raw_length >= kLargeEntryBytes;
  if (Status status = EnsureCapacity(room, large ? Beside(header.raw_length, room) : 0); !status.ok()) {
    return status;
  }
  header_ = header;
  raw_capacity_ = raw_room;
  payload_offset_ = raw_room;
  raw_ready_ = header.codec == Codec::kNone;
  return Status::Ok();
}

void Frame::SetFileHeader(const FrameHeader& header) {
  header_ = header;
  header_.raw_length = header_.payload_length = 0;
  raw_capacity_ = 0;
  payload_offset_ = 0;
  raw_ready_ = true;
}

Result<std::string_view> Frame::OpenRaw() {
  if (!raw_ready_) {
    if (Status status = Decompress(header_.codec, payload(), buffer_.data(), header_.raw_length); !status.ok()) {
      return status;
    }
    raw_ready_ = true;
  }
  return std::string_view(buffer_.data(), header_.raw_length);
}

void Frame::DropPayload() {
  buffer_.DropMemory();
  Clear();
}

void Frame::Release() {
  buffer_.Release();
  Clear();
}

void Frame::Clear() {
  header_ = FrameHeader{};
  raw_capacity_ = 0;
  payload_offset_ = 0;
  raw_ready_ = false;
}

}  // namespace kvbatch
