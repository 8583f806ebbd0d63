#include "codec/codec.h"

#include <lz4.h>
#include <zstd.h>

#include <cstring>
#include <memory>
#include <string>

namespace kvbatch {

namespace {

constexpr int kZstdLevel = 1;

struct FreeCompressor {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};
struct FreeDecompressor {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

// One context a thread: creating one costs more than compressing a small frame.
ZSTD_CCtx* Compressor() {
  thread_local std::unique_ptr<ZSTD_CCtx, FreeCompressor> context(ZSTD_createCCtx());
  return context.get();
}

ZSTD_DCtx* Decompressor() {
  thread_local std::unique_ptr<ZSTD_DCtx, FreeDecompressor> context(ZSTD_createDCtx());
  return context.get();
}

}  // namespace

bool IsKnownCodec(uint8_t value) { return value <= static_cast<uint8_t>(Codec::kZstd); }

const char* CodecName(Codec codec) {
  switch (codec) {
    case Codec::kNone:
      return "none";
    case Codec::kLz4:
      return "lz4";
    case Codec::kZstd:
      return "zstd";
  }
  return "unknown";
}

size_t CompressBound(Codec codec, size_t raw_size) {
  switch (codec) {
    case Codec::kNone:
      return raw_size;
    case Codec::kLz4:
      return raw_size > LZ4_MAX_INPUT_SIZE ? 0 : static_cast<size_t>(LZ4_compressBound(static_cast<int>(raw_size)));
    case Codec::kZstd:
      return ZSTD_compressBound(raw_size);
  }
  return 0;
}

size_t Compress(Codec codec, std::string_view raw, char* out, size_t capacity) {
  if (codec == Codec::kLz4) {
    if (raw.size() > LZ4_MAX_INPUT_SIZE) {
      return 0;
    }
    const auto room = static_cast<int>(capacity < LZ4_MAX_INPUT_SIZE ? capacity : LZ4_MAX_INPUT_SIZE);
    const int size = LZ4_compress_default(raw.data(), out, static_cast<int>(raw.size()), room);
    return size > 0 ? static_cast<size_t>(size) : 0;
  }
  if (codec == Codec::kZstd) {
    const size_t size = ZSTD_compressCCtx(Compressor(), out, capacity, raw.data(), raw.size(), kZstdLevel);
    return ZSTD_isError(size) ? 0 : size;
  }
  return 0;
}

Status Decompress(Codec codec, std::string_view compressed, char* out, size_t raw_size) {
  bool right = false;
  if (codec == Codec::kNone) {
    right = compressed.size() == raw_size;
    if (right && raw_size > 0) {
      std::memcpy(out, compressed.data(), raw_size);
    }
  } else if (codec == Codec::kLz4) {
    if (compressed.size() <= LZ4_MAX_INPUT_SIZE && raw_size <= LZ4_MAX_INPUT_SIZE) {
      const int size =
          LZ4_decompress_safe(compressed.data(), out, static_cast<int>(compressed.size()), static_cast<int>(raw_size));
      right = size >= 0 && static_cast<size_t>(size) == raw_size;
    }
  } else if (codec == Codec::kZstd) {
    const size_t size = ZSTD_decompressDCtx(Decompressor(), out, raw_size, compressed.data(), compressed.size());
    right = !ZSTD_isError(size) && size == raw_size;
  }
  if (!right) {
    return Status(Code::kCorruption, std::string("payload of ") + std::to_string(compressed.size()) + " bytes is not " +
                                         std::to_string(raw_size) + " bytes compressed with " + CodecName(codec));
  }
  return Status::Ok();
}

}  // namespace kvbatch
