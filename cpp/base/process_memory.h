// What this process does with memory that is free.
#pragma once

#include <cstddef>

namespace kvbatch {

// Has the C library give what is as large, or larger, back to the system when it is freed. Left to itself, glibc keeps
// up to 32 MiB pieces of what a program frees for what it may want next, and does so for each thread: 8 streams with
// values of 8 MiB and a budget of 48 MiB had 240 MiB resident, and 75 with this. For the whole process, so not for a
// library to decide.
void ReturnLargeMemory(size_t bytes);

}  // namespace kvbatch
