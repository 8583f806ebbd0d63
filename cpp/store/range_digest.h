// Digests of the entries of a range: what `kvbatch verify` compares, and how it finds the keys that differ.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/checksum.h"
#include "base/status.h"
#include "frame/frame.h"
#include "store/entry_iterator.h"
#include "store/source_store.h"

namespace kvbatch {

// A run of entries: how many, how large, and the sum of their EntryDigests modulo 2^128, which does not depend on how
// a range is cut into runs.
struct EntryRun {
  uint64_t entries = 0;
  uint64_t raw_bytes = 0;
  Digest digest;
  std::string last_key;
};

// Reads [start, end) once and returns one run for each `run_entries` entries (0: one run for all). An empty range
// gives no run.
Result<std::vector<EntryRun>> DigestRange(const SourceStore& store, rocksdb::ColumnFamilyHandle* family,
                                          RangeBounds bounds, uint64_t run_entries);

struct EntryListing {
  std::vector<std::pair<std::string, Digest>> entries;
  bool complete = false;  // the end of the range was reached
};

// Keys and entry digests from the start of the range until `max_key_bytes` of keys are listed.
Result<EntryListing> ListEntries(const SourceStore& store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                                 size_t max_key_bytes);

// Packs into `frame` the batch that makes a target equal for `keys`, from keys[first] on: a put of what the source has
// now, a delete where it has nothing. Returns how many keys were packed, at least one; the frame grows for a large one.
Result<size_t> PackRepair(const SourceStore& store, rocksdb::ColumnFamilyHandle* family,
                          const std::vector<std::string>& keys, size_t first, uint32_t target_family, Frame* frame,
                          size_t batch_bytes, Codec codec);

}  // namespace kvbatch
