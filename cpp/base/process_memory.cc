#include "base/process_memory.h"

#include <malloc.h>

#include <algorithm>
#include <limits>

namespace kvbatch {

void ReturnLargeMemory(size_t bytes) {
#ifdef __GLIBC__
  constexpr size_t kMost = std::numeric_limits<int>::max();
  (void)::mallopt(M_MMAP_THRESHOLD, static_cast<int>(std::min(bytes, kMost)));
#else
  (void)bytes;
#endif
}

}  // namespace kvbatch
