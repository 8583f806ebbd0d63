// The part of Connection that moves files: sendfile on one side, splice on the other.
#include <fcntl.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/file_checksum.h"
#include "wire/connection.h"

namespace kvbatch {

namespace {

// Without coalescing a splice moves what one packet brought, thousands of them for a file: 0.4 to 1.5 GB/s where
// waiting for this much gives 2.9 (measured over loopback).
constexpr uint64_t kSpliceBytes = 1 << 20;

// A peer that has sent less than was waited for is slow, not dead: then whatever is there is taken.
constexpr int kCoalesceMilliseconds = 200;

}  // namespace

Result<uint32_t> Connection::SendFile(int fd, uint64_t offset, uint64_t length, std::string_view file) {
  auto crc = FileCrc32c(fd, offset, length, Code::kSource, "read " + std::string(file));
  if (!crc.ok()) {
    return crc;
  }
  FrameHeader header;
  header.type = FrameType::kFile;
  header.job = job_;
  header.stream = stream_;
  header.range = range_;
  header.sequence = next_send_sequence_;
  header.payload_crc32c = crc.value();
  header.raw_length = offset;
  header.payload_length = length;
  char bytes[kFrameHeaderSize];
  EncodeFrameHeader(header, bytes);
  Status status = SendAll({bytes, sizeof(bytes)}, {}, MSG_MORE);
  if (status.ok()) {
    status = SendFileAll(fd, offset, length, file);
  }
  if (!status.ok()) {
    return status;
  }
  ++next_send_sequence_;
  return crc;
}

Status Connection::SendFileAll(int fd, uint64_t offset, uint64_t length, std::string_view file) {
  auto position = static_cast<off_t>(offset);
  while (length > 0) {
    const ssize_t sent = ::sendfile(fd_.get(), fd, &position, length);
    if (sent > 0) {
      length -= static_cast<uint64_t>(sent);
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

Status Connection::OpenPipe() {
  if (pipe_in_.valid()) {
    return Status::Ok();
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return FromErrno(Code::kTransport, "make a pipe for " + peer_, errno);
  }
  pipe_out_.Reset(ends[0]);
  pipe_in_.Reset(ends[1]);
  // A user's pipes may be limited; a smaller one does as well, in more calls.
  int size = ::fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(kSpliceBytes));
  if (size <= 0) {
    size = ::fcntl(ends[1], F_GETPIPE_SZ);
  }
  pipe_bytes_ = size > 0 ? static_cast<uint64_t>(size) : uint64_t{1} << 16;
  return Status::Ok();
}

Status Connection::WaitForBytes(uint64_t wanted) {
  const int low_water = static_cast<int>(std::min(wanted, kSpliceBytes));
  if (low_water != low_water_bytes_) {
    // A socket without a low-water mark hands out what it has.
    (void)::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water));
    low_water_bytes_ = low_water;
  }
  const bool limited = timeout_ms_ > 0;
  int64_t left_ms = limited ? timeout_ms_ : std::numeric_limits<int64_t>::max();
  while (true) {
    const int step_ms = static_cast<int>(std::min<int64_t>(left_ms, kCoalesceMilliseconds));
    auto ready = WaitReadable(step_ms);
    if (!ready.ok()) {
      return ready.status();
    }
    if (ready.value()) {
      return Status::Ok();
    }
    left_ms -= step_ms;
    if (left_ms <= 0) {
      return Status(Code::kTransport, "receive from " + peer_ + ": no byte came within the time-out");
    }
    if (low_water_bytes_ > 1) {
      const int any = 1;
      (void)::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVLOWAT, &any, sizeof(any));
      low_water_bytes_ = any;
    }
  }
}

Result<uint64_t> Connection::SpliceIn(uint64_t wanted) {
  while (true) {
    if (Status status = WaitForBytes(wanted); !status.ok()) {
      return status;
    }
    const ssize_t got = ::splice(fd_.get(), nullptr, pipe_in_.get(), nullptr, std::min(wanted, pipe_bytes_),
                                 SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (got > 0) {
      bytes_received_.fetch_add(static_cast<uint64_t>(got), std::memory_order_relaxed);
      return static_cast<uint64_t>(got);
    }
    if (got == 0) {
      return Status(Code::kTransport, peer_ + " closed the connection inside a frame");
    }
    if (errno != EINTR && errno != EAGAIN) {
      return FromErrno(Code::kTransport, "receive from " + peer_, errno);
    }
  }
}

Status Connection::SpliceOut(int fd, uint64_t offset, uint64_t length, std::string_view file) {
  auto position = static_cast<loff_t>(offset);
  while (length > 0) {
    const ssize_t moved = ::splice(pipe_out_.get(), nullptr, fd, &position, length, SPLICE_F_MOVE);
    if (moved > 0) {
      length -= static_cast<uint64_t>(moved);
    } else if (moved == 0 || errno != EINTR) {
      return FromErrno(Code::kTarget, "write " + std::string(file), moved == 0 ? EIO : errno);
    }
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
  if (Status status = OpenPipe(); !status.ok()) {
    return status;
  }
  for (uint64_t done = 0; done < piece.payload_length;) {
    auto got = SpliceIn(piece.payload_length - done);
    if (!got.ok()) {
      return got.status();
    }
    if (Status status = SpliceOut(fd, offset + done, got.value(), file); !status.ok()) {
      return status;
    }
    done += got.value();
  }
  if (low_water_bytes_ > 1) {
    low_water_bytes_ = 1;
    (void)::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVLOWAT, &low_water_bytes_, sizeof(low_water_bytes_));
  }
  auto crc = FileCrc32c(fd, offset, piece.payload_length, Code::kTarget, "read back " + std::string(file));
  if (!crc.ok()) {
    return crc;
  }
  if (crc.value() != piece.payload_crc32c) {
    return Status(Code::kCorruption, "frame " + std::to_string(piece.sequence) + " from " + peer_ +
                                         " fails its crc32c: bytes changed on the way into " + std::string(file));
  }
  pending_file_ = FrameHeader{};
  ++next_receive_sequence_;
  return crc;
}

}  // namespace kvbatch
