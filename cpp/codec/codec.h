// Compression of a whole frame payload: none, lz4 (block format), zstd.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace kvbatch {

// The values stand in the frame header.
enum class Codec : uint8_t { kNone = 0, kLz4 = 1, kZstd = 2 };

bool IsKnownCodec(uint8_t value);
const char* CodecName(Codec codec);

// Room that Compress may need for `raw_size` bytes; 0 where the codec cannot take that much in one piece.
size_t CompressBound(Codec codec, size_t raw_size);

// Compresses `raw` into `out` (capacity bytes). Returns the compressed size, or 0 when the result does not fit, which
// is how a payload that does not shrink shows. Thread-safe.
size_t Compress(Codec codec, std::string_view raw, char* out, size_t capacity);

// Decompresses into exactly `raw_size` bytes at `out`. kCorruption when the data is malformed or of another size.
Status Decompress(Codec codec, std::string_view compressed, char* out, size_t raw_size);

}  // namespace kvbatch
