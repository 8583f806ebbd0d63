#include "wire/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/checksum.h"

namespace kvbatch {

namespace {

constexpr size_t kDroppedBytes = 256 << 10;

// At most `size` bytes, from the front.
std::string_view Front(std::string_view bytes, uint64_t size) { return bytes.substr(0, size); }

}  // namespace

SendTimer::~SendTimer() {
  total_->fetch_add(std::chrono::nanoseconds(std::chrono::steady_clock::now() - start_).count(),
                    std::memory_order_relaxed);
}

Connection::Connection(UniqueFd fd, std::string peer, const FrameLimits& limits)
    : fd_(std::move(fd)), peer_(std::move(peer)), limits_(limits) {}

Status Connection::SendAll(std::array<std::string_view, 3> parts, int flags) {
  uint64_t allowed = 0;
  while (true) {
    const uint64_t left = parts[0].size() + parts[1].size() + parts[2].size();
    if (left == 0) {
      return Status::Ok();
    }
    if (allowed == 0) {
      allowed = Allowed(left);
    }
    iovec vectors[3];
    msghdr message{};
    message.msg_iov = vectors;
    for (uint64_t room = allowed; const std::string_view part : parts) {
      const std::string_view now = Front(part, room);
      room -= now.size();
      if (!now.empty()) {
        vectors[message.msg_iovlen++] = {const_cast<char*>(now.data()), now.size()};
      }
    }
    const ssize_t sent = [&] {
      const SendTimer timer(&send_nanoseconds_);
      return ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | flags);
    }();
    if (sent < 0) {
      if (errno == EINTR) {
        continue;
      }
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return Status(Code::kTransport, "send to " + peer_ + ": the peer took no byte within the time-out");
      }
      return FromErrno(Code::kTransport, "send to " + peer_, errno);
    }
    auto moved = static_cast<size_t>(sent);
    allowed -= moved;
    bytes_sent_.fetch_add(moved, std::memory_order_relaxed);
    for (std::string_view& part : parts) {
      const size_t of_part = std::min(moved, part.size());
      part.remove_prefix(of_part);
      moved -= of_part;
    }
  }
}

Status Connection::SendPlain(std::string_view head, std::string_view payload, std::string_view tail) {
  const std::lock_guard sending(send_mutex_);
  return SendAll({head, payload, tail});
}

Status Connection::ReceiveAll(char* out, size_t size, bool at_frame_start) {
  size_t have = 0;
  while (have < size) {
    const ssize_t got = ::recv(fd_.get(), out + have, size - have, MSG_WAITALL);
    if (got > 0) {
      have += static_cast<size_t>(got);
      bytes_received_.fetch_add(static_cast<uint64_t>(got), std::memory_order_relaxed);
      continue;
    }
    if (got == 0) {
      if (at_frame_start && have == 0) {
        return Status(Code::kClosed, peer_ + " closed the connection");
      }
      return Status(Code::kTransport, peer_ + " closed the connection inside a frame");
    }
    if (errno == EINTR) {
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return Status(Code::kTransport, "receive from " + peer_ + ": no byte came within the time-out");
    }
    return FromErrno(Code::kTransport, "receive from " + peer_, errno);
  }
  return Status::Ok();
}

void Connection::SetRoute(uint64_t job, uint32_t stream, uint32_t range) {
  job_ = job;
  stream_ = stream;
  range_ = range;
}

Status Connection::Send(Frame* frame) {
  const std::lock_guard sending(send_mutex_);
  FrameHeader& header = frame->header();
  const std::string_view payload = frame->payload();
  header.job = job_;
  header.stream = stream_;
  header.range = range_;
  header.sequence = next_send_sequence_;
  header.payload_crc32c = Crc32c(payload);
  char bytes[kFrameHeaderSize];
  EncodeFrameHeader(header, bytes);
  Status status = SendAll({std::string_view(bytes, sizeof(bytes)), payload});
  if (status.ok()) {
    ++next_send_sequence_;
  }
  return status;
}

Status Connection::SendControl(FrameType type, uint32_t stream, uint32_t range, std::string_view payload) {
  const std::lock_guard sending(send_mutex_);
  return SendControlLocked(type, stream, range, payload);
}

Result<bool> Connection::TrySendControl(FrameType type, uint32_t stream) {
  const std::unique_lock sending(send_mutex_, std::try_to_lock);
  if (!sending.owns_lock()) {
    return false;
  }
  // A socket that says it is writable takes a header at once.
  pollfd entry{fd_.get(), POLLOUT, 0};
  if (::poll(&entry, 1, 0) <= 0 || (entry.revents & POLLOUT) == 0) {
    return false;
  }
  const Status status = SendControlLocked(type, stream, 0, {});
  return status.ok() ? Result(true) : status;
}

Status Connection::SendControlLocked(FrameType type, uint32_t stream, uint32_t range, std::string_view payload) {
  FrameHeader header;
  header.type = type;
  header.stream = stream;
  header.range = range;
  header.sequence = next_send_sequence_;
  header.raw_length = payload.size();
  header.payload_length = payload.size();
  header.payload_crc32c = Crc32c(payload);
  char bytes[kFrameHeaderSize];
  EncodeFrameHeader(header, bytes);
  Status status = SendAll({std::string_view(bytes, sizeof(bytes)), payload});
  if (status.ok()) {
    ++next_send_sequence_;
  }
  return status;
}

Status Connection::Damaged(const Status& status) const {
  return next_receive_sequence_ > 0 ? Status(Code::kCorruption, status.message()) : status;
}

Status Connection::Receive(Frame* frame) {
  if (pending_file_.payload_length > 0) {
    return Status(Code::kUsage, "the payload of a FILE frame stands before the next frame: ReceiveFile");
  }
  char bytes[kFrameHeaderSize];
  if (Status status = ReceiveAll(bytes, sizeof(kFrameMagic), true); !status.ok()) {
    return status;
  }
  // A peer of another protocol may send less than a header and wait; its first bytes say enough.
  if (std::string_view(bytes, sizeof(kFrameMagic)) != std::string_view(kFrameMagic, sizeof(kFrameMagic))) {
    char rest[12];
    const ssize_t more = ::recv(fd_.get(), rest, sizeof(rest), MSG_DONTWAIT);
    std::string start(bytes, sizeof(kFrameMagic));
    start.append(rest, more > 0 ? static_cast<size_t>(more) : 0);
    start.resize(kFrameHeaderSize);
    return Damaged(DecodeFrameHeader(start, limits_).status());
  }
  if (Status status = ReceiveAll(bytes + sizeof(kFrameMagic), sizeof(bytes) - sizeof(kFrameMagic), false);
      !status.ok()) {
    return status;
  }
  auto header = DecodeFrameHeader({bytes, sizeof(bytes)}, limits_);
  if (!header.ok()) {
    // The version stands before the header's checksum; what else is wrong behind a right checksum was meant so.
    const bool other_version = static_cast<uint8_t>(bytes[sizeof(kFrameMagic)]) != kProtocolVersion;
    return other_version ? Damaged(header.status()) : header.status();
  }
  if (header.value().sequence != next_receive_sequence_) {
    return Status(Code::kProtocol, "frame out of order from " + peer_ + ": sequence " +
                                       std::to_string(header.value().sequence) + " where " +
                                       std::to_string(next_receive_sequence_) + " was due");
  }
  if (header.value().type == FrameType::kFile) {
    frame->SetFileHeader(header.value());
    pending_file_ = header.value();
    return Status::Ok();
  }
  if (Status status = frame->ReserveFor(header.value()); !status.ok()) {
    return status;
  }
  if (Status status = ReceiveAll(frame->payload_buffer(), header.value().payload_length, false); !status.ok()) {
    return status;
  }
  if (Crc32c(frame->payload()) != header.value().payload_crc32c) {
    return Status(Code::kCorruption, "frame " + std::to_string(header.value().sequence) + " from " + peer_ +
                                         " fails its crc32c: bytes changed on the way");
  }
  ++next_receive_sequence_;
  return Status::Ok();
}

Result<bool> Connection::WaitReadable(int timeout_ms) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  pollfd entry{fd_.get(), POLLIN, 0};
  int left_ms = timeout_ms;
  while (true) {
    const int ready = ::poll(&entry, 1, left_ms);
    if (ready >= 0) {
      return ready > 0;
    }
    if (errno != EINTR) {
      return FromErrno(Code::kTransport, "poll " + peer_, errno);
    }
    if (timeout_ms > 0) {
      const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count();
      left_ms = waited < timeout_ms ? timeout_ms - static_cast<int>(waited) : 0;
    }
  }
}

Status Connection::SetTimeout(int64_t milliseconds) {
  timeval timeout{};
  timeout.tv_sec = milliseconds / 1000;
  timeout.tv_usec = static_cast<suseconds_t>(milliseconds % 1000 * 1000);
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    if (::setsockopt(fd_.get(), SOL_SOCKET, option, &timeout, sizeof(timeout)) != 0) {
      return FromErrno(Code::kTransport, "set the time-out of " + peer_, errno);
    }
  }
  return Status::Ok();
}

uint64_t Connection::UnreadBytes() const {
  int unread = 0;
  return ::ioctl(fd_.get(), FIONREAD, &unread) == 0 && unread > 0 ? static_cast<uint64_t>(unread) : 0;
}

void Connection::Shutdown() { ::shutdown(fd_.get(), SHUT_RDWR); }

int64_t Connection::UnheardMilliseconds() const {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (::getsockopt(fd_.get(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0) {
    return 0;
  }
  return std::min(info.tcpi_last_ack_recv, info.tcpi_last_data_recv);
}

void Connection::Linger(int64_t milliseconds) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(milliseconds);
  ::shutdown(fd_.get(), SHUT_WR);
  const auto dropped = std::make_unique_for_overwrite<char[]>(kDroppedBytes);
  for (auto now = Clock::now(); now < end; now = Clock::now()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - now);
    const auto readable = WaitReadable(static_cast<int>(left.count()));
    if (!readable.ok() || !readable.value() || ::recv(fd_.get(), dropped.get(), kDroppedBytes, MSG_DONTWAIT) <= 0) {
      return;
    }
  }
}

}  // namespace kvbatch
