#include "base/unique_fd.h"

#include <unistd.h>

namespace kvbatch {

void UniqueFd::Reset(int fd) {
  const int old = std::exchange(fd_, fd);
  if (old >= 0 && old != fd) {
    // Not retried on EINTR: on Linux the descriptor is gone either way.
    ::close(old);
  }
}

}  // namespace kvbatch
