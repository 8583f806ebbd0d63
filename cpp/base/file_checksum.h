// Checksums of bytes that stand in files.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace kvbatch {

// crc32c of `length` bytes of the file `fd` from `offset` on, over the page cache: nothing is copied to user space.
// `code` with `what` in its message when they cannot be read, also when the file ends before that, or is cut while
// this reads it.
Result<uint32_t> FileCrc32c(int fd, uint64_t offset, uint64_t length, Code code, std::string_view what);

}  // namespace kvbatch
