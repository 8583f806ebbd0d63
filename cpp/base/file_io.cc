#include "base/file_io.h"

#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace kvbatch {

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

}  // namespace kvbatch
