// Connection: frames over a connected stream socket, whole or not at all.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "base/rate_limiter.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "frame/frame.h"

namespace kvbatch {

// Adds the time that it lives to a total.
class SendTimer {
 public:
  explicit SendTimer(std::atomic<int64_t>* total) : total_(total), start_(std::chrono::steady_clock::now()) {}
  ~SendTimer();
  SendTimer(const SendTimer&) = delete;
  SendTimer& operator=(const SendTimer&) = delete;

 private:
  std::atomic<int64_t>* const total_;
  const std::chrono::steady_clock::time_point start_;
};

// Threads may send at once, frame by frame, while another receives; two receivers at once are not allowed. Shutdown()
// may be called from any thread and makes the blocked calls return. After the first error the connection is unusable.
class Connection {
 public:
  // Takes ownership of `fd`, a connected blocking stream socket. `peer` is for messages.
  Connection(UniqueFd fd, std::string peer, const FrameLimits& limits);

  // What the data frames sent from now on belong to: job (xxh3-64 of its id), stream and range.
  void SetRoute(uint64_t job, uint32_t stream, uint32_t range);

  // What is sent from now on waits for `limiter`, piece by piece. Called by the thread that sends, before it does.
  void SetRateLimiter(std::shared_ptr<RateLimiter> limiter) { limiter_ = std::move(limiter); }

  // Sends header and payload with one vectored call where the socket takes it. Fills in route, sequence and crc32c.
  // kTransport when the connection breaks or no byte moves for the time-out.
  Status Send(Frame* frame);

  // Sends `payload` as a control frame.
  Status SendControl(FrameType type, uint32_t stream, uint32_t range, std::string_view payload);

  // As SendControl, an empty payload, but only where it need not wait: whether it was sent. For who must not be held up
  // by one peer of many.
  Result<bool> TrySendControl(FrameType type, uint32_t stream);

  // Sends what is no frame, for a peer that speaks another protocol: the three behind each other, as Send does.
  Status SendPlain(std::string_view head, std::string_view payload, std::string_view tail);

  // Receives the next frame into `frame`: header checked, lengths held against the limits before memory is taken,
  // payload against its crc32c. Of a FILE frame it takes the header only; ReceiveFile takes the rest before anything
  // else can be received. kClosed when the peer closed between frames; kTransport when it broke inside one or fell
  // silent; kProtocol and kCorruption as DecodeFrameHeader says, and for a frame out of order.
  Status Receive(Frame* frame);

  // Sends `length` bytes of the file `fd` from `offset` on as one FILE frame, by sendfile: they never reach user space,
  // but for their crc32c, which is computed over the page cache. Returns it. kSource, naming `file`, when they cannot
  // be read, also because the file was cut. SIGPIPE must be ignored, as Python has it.
  Result<uint32_t> SendFile(int fd, uint64_t offset, uint64_t length, std::string_view file);

  // As SendFile, for a piece that stands in memory and belongs at `offset` of its file.
  Result<uint32_t> SendPiece(std::string_view piece, uint64_t offset);

  // Takes the payload of the FILE frame that Receive has just told of into the file `fd`, at the offset that the frame
  // says, which must be `offset`. Returns its crc32c, which was checked. kTarget and kNoSpace when the file cannot be
  // written; kCorruption when bytes changed on the way, which then stand in the file.
  Result<uint32_t> ReceiveFile(int fd, uint64_t offset, std::string_view file);

  // Of the FILE frame that Receive has just told of; 0 when there is none.
  uint64_t pending_file_bytes() const { return pending_file_.payload_length; }

  // Whether a Receive would find bytes, or the end, within `timeout_ms`.
  Result<bool> WaitReadable(int timeout_ms);

  // What Receive accepts from now on. Called by the thread that receives.
  void SetLimits(const FrameLimits& limits) { limits_ = limits; }

  // No progress for this long is a broken connection; 0 waits forever.
  Status SetTimeout(int64_t milliseconds);

  void Shutdown();

  // For who has said its last word: sends no more, and drops what the peer has under way until it closes, or for
  // `milliseconds` at most. A socket that is closed over unread bytes resets the connection, which takes along what was
  // said last.
  void Linger(int64_t milliseconds);

  // How long the peer's system has acknowledged nothing and sent nothing, by the kernel's TCP_INFO (tcp(7)). Who is
  // written to and alive is heard within a round trip, however little its program reads; 0 where the kernel does not
  // say, as for sockets of other kinds.
  int64_t UnheardMilliseconds() const;

  const std::string& peer() const { return peer_; }
  uint64_t bytes_sent() const { return bytes_sent_.load(std::memory_order_relaxed); }
  uint64_t bytes_received() const { return bytes_received_.load(std::memory_order_relaxed); }
  uint64_t frames_sent() const { return next_send_sequence_; }
  // Inside the calls that send, which is waiting for the link once the socket's buffer is full; not for the limiter.
  std::chrono::nanoseconds send_time() const {
    return std::chrono::nanoseconds(send_nanoseconds_.load(std::memory_order_relaxed));
  }
  // What has arrived and was not received yet.
  uint64_t UnreadBytes() const;

 private:
  // How many of `wanted` bytes may be sent at once.
  uint64_t Allowed(uint64_t wanted) { return limiter_ ? limiter_->Acquire(wanted) : wanted; }
  // Requires send_mutex_, as all below that send.
  Status SendControlLocked(FrameType type, uint32_t stream, uint32_t range, std::string_view payload);
  Status SendAll(std::array<std::string_view, 3> parts, int flags = 0);
  Status SendFileAll(int fd, uint64_t offset, uint64_t length, std::string_view file);
  // Of the next FILE frame, encoded into `out`.
  std::string_view FileHeader(uint64_t offset, uint64_t length, uint32_t crc32c, char* out) const;
  // A peer that has shown that it speaks the protocol and then sends a header that makes no sense: bytes changed on the
  // way.
  Status Damaged(const Status& status) const;
  Status ReceiveAll(char* out, size_t size, bool at_frame_start);

  UniqueFd fd_;
  std::string peer_;
  FrameLimits limits_;
  uint64_t job_ = 0;
  uint32_t stream_ = 0;
  uint32_t range_ = 0;
  std::mutex send_mutex_;  // held for a whole frame
  uint64_t next_send_sequence_ = 0;
  uint64_t next_receive_sequence_ = 0;
  FrameHeader pending_file_;  // a piece of a file whose bytes ReceiveFile has still to take; payload_length > 0
  std::unique_ptr<char[]> file_buffer_;  // made when the first piece comes
  std::atomic<uint64_t> bytes_sent_{0};
  std::atomic<uint64_t> bytes_received_{0};
  std::atomic<int64_t> send_nanoseconds_{0};
  std::shared_ptr<RateLimiter> limiter_;  // null: none
};

}  // namespace kvbatch
