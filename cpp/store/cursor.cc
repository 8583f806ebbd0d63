#include "store/cursor.h"

#include <bit>

#include "base/coding.h"

namespace kvbatch {

namespace {

constexpr char kVersion = 1;
constexpr size_t kDigestSize = 16;

// Big-endian, so that the records sort by range.
uint32_t SwapBytes(uint32_t value) { return __builtin_bswap32(value); }

}  // namespace

std::string EncodeCursorKey(uint32_t range, std::string_view prefix) {
  std::string key(prefix);
  AppendFixed(&key, SwapBytes(range));
  return key;
}

std::string EncodeCursor(const Cursor& cursor) {
  std::string value;
  value += kVersion;
  value += static_cast<char>(cursor.complete ? 1 : 0);
  AppendFixed(&value, cursor.entries);
  AppendFixed(&value, cursor.raw_bytes);
  const auto digest = cursor.digest.Bytes();
  value.append(digest.data(), digest.size());
  value += cursor.last_key;
  return value;
}

Result<Cursor> DecodeCursor(std::string_view key, std::string_view value, std::string_view prefix) {
  Cursor cursor;
  const Status malformed(Code::kCorruption, "the target holds a malformed cursor");
  if (!key.starts_with(prefix)) {
    return malformed;
  }
  key.remove_prefix(prefix.size());
  if (!ConsumeFixed(&key, &cursor.range) || !key.empty() || value.size() < 2 || value[0] != kVersion ||
      static_cast<unsigned char>(value[1]) > 1) {
    return malformed;
  }
  cursor.range = SwapBytes(cursor.range);
  cursor.complete = value[1] != 0;
  value.remove_prefix(2);
  if (!ConsumeFixed(&value, &cursor.entries) || !ConsumeFixed(&value, &cursor.raw_bytes) ||
      value.size() < kDigestSize) {
    return malformed;
  }
  cursor.digest = Digest::FromBytes(value.data());
  cursor.last_key = value.substr(kDigestSize);
  return cursor;
}

}  // namespace kvbatch
