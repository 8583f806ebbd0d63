// A store to try things on: demos, tests and benchmarks fill it.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace kvbatch {

struct SampleOptions {
  uint64_t entries = 1'000'000;
  uint32_t key_bytes = 16;     // at least 16; a decimal number scattered over the whole key space comes first
  uint32_t value_bytes = 100;  // half noise, half text, so that it compresses about twofold
  uint64_t seed = 1;
  bool compact = true;  // leave it as a store at rest: sorted into its last level
  std::string compression = "none";
  bool file_checksums = false;  // have RocksDB record the crc32c of each file
};

// Writes `options.entries` entries into a new store at `path` the way an application does: through the WAL and
// memtables. kRefused when `path` exists.
Status WriteSampleStore(const std::string& path, const SampleOptions& options);

}  // namespace kvbatch
