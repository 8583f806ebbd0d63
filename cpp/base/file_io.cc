#include "base/file_io.h"

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace kvbatch {

namespace {

constexpr uint64_t kUnwrittenBytes = 4 << 20;

}  // namespace

Status WriteAll(int fd, std::string_view bytes, uint64_t offset, std::string_view file) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written > 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
      offset += static_cast<uint64_t>(written);
    } else if (written == 0 || errno != EINTR) {
      return FromErrno(Code::kTarget, "write " + std::string(file), written == 0 ? EIO : errno);
    }
  }
  return Status::Ok();
}

void WriteBack(int fd, uint64_t offset, uint64_t length) {
  (void)::sync_file_range(fd, static_cast<off_t>(offset), static_cast<off_t>(length), SYNC_FILE_RANGE_WRITE);
  const uint64_t end = offset + length;
  if (end > kUnwrittenBytes) {
    const uint64_t from = offset > kUnwrittenBytes ? offset - kUnwrittenBytes : 0;
    (void)::sync_file_range(fd, static_cast<off_t>(from), static_cast<off_t>(end - kUnwrittenBytes - from),
                            SYNC_FILE_RANGE_WAIT_BEFORE);
  }
}

void ReadAhead(int fd, uint64_t offset, uint64_t length, RateLimiter* limiter) {
  if (limiter->rate() == 0) {
    return;
  }
  // All of this is advice: what the kernel does not heed is read when it is wanted. The kernel's own readahead would
  // ask for far more at once.
  (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  while (length > 0) {
    const uint64_t part = std::min(length, limiter->read_bytes());
    limiter->Charge(part);
    (void)::posix_fadvise(fd, static_cast<off_t>(offset), static_cast<off_t>(part), POSIX_FADV_WILLNEED);
    offset += part;
    length -= part;
  }
}

}  // namespace kvbatch
