// Writing to files, with the disk in mind, and reading ahead of who sends them.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/rate_limiter.h"
#include "base/status.h"

namespace kvbatch {

// Writes `bytes` into the file `fd` at `offset`. kTarget and kNoSpace, naming `file`, when it cannot.
Status WriteAll(int fd, std::string_view bytes, uint64_t offset, std::string_view file);

// Has the disk begin with what was written to the file `fd` in `length` bytes from `offset` on, so that the sync at its
// end finds little left to do, and waits until no more than 4 MiB of the file are on their way: behind a queue of
// gigabytes, on a disk that is slower than their source, every sync of its other users waits for seconds. For who
// writes a file from its beginning to its end, best with about 1 MiB at a time. A hint: where the file system does not
// take it, writing goes on without.
void WriteBack(int fd, uint64_t offset, uint64_t length);

// Charges `length` bytes of the file `fd` from `offset` on to `limiter`. Under a limit they are asked for as they may
// pass, so that the disk brings them into the page cache evenly; who reads them then waits for no more than is missing.
// Without one the kernel's own readahead serves better, and nothing is done.
void ReadAhead(int fd, uint64_t offset, uint64_t length, RateLimiter* limiter);

}  // namespace kvbatch
