// The part of Connection that moves files: sendfile on one side, recv and write on the other.
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/checksum.h"
#include "base/file_checksum.h"
#include "base/file_io.h"
#include "wire/connection.h"

namespace kvbatch {

namespace {

// What is received at once, and still in the cache when it is written. Splicing from the socket through a pipe into the
// file, coalesced by SO_RCVLOWAT, copies nothing to user space and was no faster: docs/lanes.md has the figures.
constexpr size_t kPartBytes = 256 << 10;
constexpr uint64_t kWriteBackBytes = 1 << 20;

}  // namespace

Result<uint32_t> Connection::SendFile(int fd, uint64_t offset, uint64_t length, std::string_view file) {
  auto crc = FileCrc32c(fd, offset, length, Code::kSource, "read " + std::string(file));
  if (!crc.ok()) {
    return crc;
  }
  const std::lock_guard sending(send_mutex_);
  char bytes[kFrameHeaderSize];
  Status status = SendAll({FileHeader(offset, length, crc.value(), bytes)}, MSG_MORE);
  if (status.ok()) {
    status = SendFileAll(fd, offset, length, file);
  }
  if (!status.ok()) {
    return status;
  }
  ++next_send_sequence_;
  return crc;
}

Result<uint32_t> Connection::SendPiece(std::string_view piece, uint64_t offset) {
  const uint32_t crc = Crc32c(piece);
  const std::lock_guard sending(send_mutex_);
  char bytes[kFrameHeaderSize];
  if (Status status = SendAll({FileHeader(offset, piece.size(), crc, bytes), piece}); !status.ok()) {
    return status;
  }
  ++next_send_sequence_;
  return crc;
}

std::string_view Connection::FileHeader(uint64_t offset, uint64_t length, uint32_t crc32c, char* out) const {
  FrameHeader header;
  header.type = FrameType::kFile;
  header.job = job_;
  header.stream = stream_;
  header.range = range_;
  header.sequence = next_send_sequence_;
  header.payload_crc32c = crc32c;
  header.raw_length = offset;
  header.payload_length = length;
  EncodeFrameHeader(header, out);
  return {out, kFrameHeaderSize};
}

Status Connection::SendFileAll(int fd, uint64_t offset, uint64_t length, std::string_view file) {
  auto position = static_cast<off_t>(offset);
  uint64_t allowed = 0;
  while (length > 0) {
    if (allowed == 0) {
      allowed = Allowed(length);
    }
    const ssize_t sent = [&] {
      const SendTimer timer(&send_nanoseconds_);
      return ::sendfile(fd_.get(), fd, &position, allowed);
    }();
    if (sent > 0) {
      length -= static_cast<uint64_t>(sent);
      allowed -= static_cast<uint64_t>(sent);
      bytes_sent_.fetch_add(static_cast<uint64_t>(sent), std::memory_order_relaxed);
      continue;
    }
    if (sent == 0) {
      return Status(Code::kSource, "read " + std::string(file) + ": the file was cut at byte " +
                                       std::to_string(position) + " while it was sent");
    }
    if (errno == EINTR) {
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return Status(Code::kTransport, "send to " + peer_ + ": the peer took no byte within the time-out");
    }
    const bool disk = errno == EIO || errno == EBADF || errno == EINVAL;
    return disk ? FromErrno(Code::kSource, "read " + std::string(file), errno)
                : FromErrno(Code::kTransport, "send to " + peer_, errno);
  }
  return Status::Ok();
}

Result<uint32_t> Connection::ReceiveFile(int fd, uint64_t offset, std::string_view file) {
  const FrameHeader piece = pending_file_;
  if (piece.payload_length == 0) {
    return Status(Code::kUsage, "no FILE frame was received");
  }
  if (piece.raw_length != offset) {
    return Status(Code::kProtocol, peer_ + " sent byte " + std::to_string(piece.raw_length) + " of " +
                                       std::string(file) + " where byte " + std::to_string(offset) + " was due");
  }
  if (!file_buffer_) {
    file_buffer_ = std::make_unique_for_overwrite<char[]>(kPartBytes);
  }
  // Blocks that are given out together cost the file system a quarter less CPU than one at a time with each page that
  // is written. A hint too: where it cannot be had, or the disk is full, writing tells. The file's length stays as it
  // is.
  (void)::fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(piece.payload_length));
  uint32_t crc = 0;
  uint64_t begun = 0;  // of what was written the disk was told so far
  for (uint64_t done = 0; done < piece.payload_length;) {
    const uint64_t size = std::min<uint64_t>(piece.payload_length - done, kPartBytes);
    if (Status status = ReceiveAll(file_buffer_.get(), size, false); !status.ok()) {
      return status;
    }
    const std::string_view part(file_buffer_.get(), size);
    crc = Crc32c(part, crc);
    if (Status status = WriteAll(fd, part, offset + done, file); !status.ok()) {
      return status;
    }
    done += size;
    if (done - begun >= kWriteBackBytes || done == piece.payload_length) {
      WriteBack(fd, offset + begun, done - begun);
      begun = done;
    }
  }
  if (crc != piece.payload_crc32c) {
    return Status(Code::kCorruption, "frame " + std::to_string(piece.sequence) + " from " + peer_ +
                                         " fails its crc32c: bytes changed on the way into " + std::string(file));
  }
  pending_file_ = FrameHeader{};
  ++next_receive_sequence_;
  return crc;
}

}  // namespace kvbatch
