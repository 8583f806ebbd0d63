// What RocksDB's TimedPut leaves in SST files until a compaction makes a plain put of it: a record of its own type.
//
//   packed := value, preferred sequence number: fixed64
//
// Source: RocksDB 9.10, db/seqno_to_time_mapping.cc, db/builder.cc (facts, not text).
#pragma once

#include <cstdint>
#include <string_view>

namespace kvbatch {

// `packed` becomes the value, which is what an iterator shows. False when it is too short.
inline bool UnpackTimedPut(std::string_view* packed) {
  if (packed->size() < sizeof(uint64_t)) {
    return false;
  }
  packed->remove_suffix(sizeof(uint64_t));
  return true;
}

}  // namespace kvbatch
