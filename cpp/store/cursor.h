// Cursor: what a target has durably applied of one range. docs/resume.md says how it is used.
//
// Its record in the target's reserved column family, little-endian:
//   key   := "cursor/", range id: 4 bytes big-endian
//   value := version: 1 byte = 1, complete: 1 byte, entries: fixed64, raw_bytes: fixed64, digest: 16 bytes, last key
// Behind "graft/" instead, the same of a range whose file is the target's: `complete` is 1 once some of what stands
// over the file is, too, up to the last key.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/checksum.h"
#include "base/status.h"

namespace kvbatch {

inline constexpr std::string_view kCursorPrefix = "cursor/";
inline constexpr std::string_view kGraftPrefix = "graft/";

struct Cursor {
  uint32_t range = 0;
  bool complete = false;
  uint64_t entries = 0;
  uint64_t raw_bytes = 0;  // keys and values
  Digest digest;           // running digest of the batches, see ChainDigest
  std::string last_key;    // meaningful when entries > 0

  bool operator==(const Cursor&) const = default;
};

std::string EncodeCursorKey(uint32_t range, std::string_view prefix = kCursorPrefix);
std::string EncodeCursor(const Cursor& cursor);

// kCorruption when the record is not one that EncodeCursor writes.
Result<Cursor> DecodeCursor(std::string_view key, std::string_view value, std::string_view prefix = kCursorPrefix);

}  // namespace kvbatch
