// What the WAL of a store at rest says of deletions, which no iterator over memtables shows.
#pragma once

#include <rocksdb/db.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"

namespace kvbatch {

struct WalDeletions {
  std::vector<std::string> keys;  // in the order of the family's comparator, each once
  // Whether the family's records were puts and deletions of single keys, nothing else.
  bool plain = true;
};

// By column family id; a family that the WAL does not mention is not there. All of the WAL is read, also what was
// flushed into files since: a key may have been put again behind its deletion. kSource when it cannot be read as a
// whole.
Result<std::map<uint32_t, WalDeletions>> ReadWalDeletions(
    rocksdb::DB* db, const std::map<uint32_t, const rocksdb::Comparator*>& families);

}  // namespace kvbatch
