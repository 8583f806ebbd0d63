// Writing to files, and reading ahead of who sends them.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/rate_limiter.h"
#include "base/status.h"

namespace kvbatch {

// Writes `bytes` into the file `fd` at `offset`. kTarget and kNoSpace, naming `file`, when it cannot.
Status WriteAll(int fd, std::string_view bytes, uint64_t offset, std::string_view file);

// Charges `length` bytes of the file `fd` from `offset` on to `limiter`. Under a limit they are asked for as they may
// pass, so that the disk brings them into the page cache evenly; who reads them then waits for no more than is missing.
// Without one the kernel's own readahead serves better, and nothing is done.
void ReadAhead(int fd, uint64_t offset, uint64_t length, RateLimiter* limiter);

}  // namespace kvbatch
