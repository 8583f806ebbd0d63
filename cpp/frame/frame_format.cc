#include "frame/frame_format.h"

#include <cctype>
#include <cstring>
#include <limits>
#include <string>

#include "base/checksum.h"
#include "base/coding.h"

namespace kvbatch {

namespace {

// What a file offset can be.
constexpr auto kMaxFileBytes = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

std::string Printable(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    text += std::isprint(static_cast<unsigned char>(byte)) ? byte : '.';
  }
  return text;
}

Status BadLength(const char* what, uint64_t length, uint64_t limit) {
  return Status(Code::kProtocol, std::string("frame announces a ") + what + " of " + std::to_string(length) +
                                     " bytes, the limit is " + std::to_string(limit));
}

Result<FrameHeader> CheckFilePiece(const FrameHeader& header, const FrameLimits& limits) {
  if (header.payload_length > limits.max_file_bytes) {
    return BadLength("piece of a file", header.payload_length, limits.max_file_bytes);
  }
  if (header.codec != Codec::kNone || header.entries != 0 || header.payload_length == 0 ||
      header.raw_length > kMaxFileBytes - header.payload_length) {
    return Status(Code::kProtocol,
                  "frame that announces an impossible piece of a file: " + std::to_string(header.payload_length) +
                      " bytes at offset " + std::to_string(header.raw_length));
  }
  return header;
}

}  // namespace

void EncodeFrameHeader(const FrameHeader& header, char* out) {
  std::memcpy(out, kFrameMagic, sizeof(kFrameMagic));
  out[4] = static_cast<char>(kProtocolVersion);
  out[5] = static_cast<char>(header.type);
  out[6] = static_cast<char>(header.codec);
  out[7] = 0;
  EncodeFixed(out + 8, header.job);
  EncodeFixed(out + 16, header.stream);
  EncodeFixed(out + 20, header.range);
  EncodeFixed(out + 24, header.sequence);
  EncodeFixed(out + 32, header.entries);
  EncodeFixed(out + 36, header.payload_crc32c);
  EncodeFixed(out + 40, header.raw_length);
  EncodeFixed(out + 48, header.payload_length);
  EncodeFixed<uint32_t>(out + 56, 0);
  EncodeFixed(out + 60, Crc32c({out, 60}));
}

Result<FrameHeader> DecodeFrameHeader(std::string_view bytes, const FrameLimits& limits) {
  if (bytes.size() != kFrameHeaderSize) {
    return Status(Code::kProtocol, "frame header of " + std::to_string(bytes.size()) + " bytes");
  }
  if (std::memcmp(bytes.data(), kFrameMagic, sizeof(kFrameMagic)) != 0) {
    return Status(Code::kProtocol,
                  "the peer does not speak kvbatch: its bytes start with \"" + Printable(bytes.substr(0, 16)) + "\"");
  }
  const auto version = static_cast<uint8_t>(bytes[4]);
  if (version != kProtocolVersion) {
    return Status(Code::kProtocol,
                  "protocol version: theirs " + std::to_string(version) + ", ours " + std::to_string(kProtocolVersion));
  }
  if (DecodeFixed<uint32_t>(bytes.data() + 60) != Crc32c(bytes.substr(0, 60))) {
    return Status(Code::kCorruption, "frame header fails its crc32c");
  }
  const auto type = static_cast<uint8_t>(bytes[5]);
  if (type < static_cast<uint8_t>(FrameType::kHello) || type > static_cast<uint8_t>(FrameType::kHeartbeat)) {
    return Status(Code::kProtocol, "unknown frame type " + std::to_string(type));
  }
  const auto codec = static_cast<uint8_t>(bytes[6]);
  if (!IsKnownCodec(codec)) {
    return Status(Code::kProtocol, "unknown codec " + std::to_string(codec));
  }
  if (bytes[7] != 0 || DecodeFixed<uint32_t>(bytes.data() + 56) != 0) {
    return Status(Code::kProtocol, "frame flags that this version does not know");
  }
  FrameHeader header;
  header.type = static_cast<FrameType>(type);
  header.codec = static_cast<Codec>(codec);
  header.job = DecodeFixed<uint64_t>(bytes.data() + 8);
  header.stream = DecodeFixed<uint32_t>(bytes.data() + 16);
  header.range = DecodeFixed<uint32_t>(bytes.data() + 20);
  header.sequence = DecodeFixed<uint64_t>(bytes.data() + 24);
  header.entries = DecodeFixed<uint32_t>(bytes.data() + 32);
  header.payload_crc32c = DecodeFixed<uint32_t>(bytes.data() + 36);
  header.raw_length = DecodeFixed<uint64_t>(bytes.data() + 40);
  header.payload_length = DecodeFixed<uint64_t>(bytes.data() + 48);
  if (header.type == FrameType::kFile) {
    return CheckFilePiece(header, limits);
  }
  const uint64_t limit = header.type == FrameType::kData ? limits.max_data_bytes : limits.max_control_bytes;
  if (header.payload_length > limit) {
    return BadLength("payload", header.payload_length, limit);
  }
  if (header.raw_length > limit) {
    return BadLength("raw length", header.raw_length, limit);
  }
  if (header.codec == Codec::kNone && header.raw_length != header.payload_length) {
    return Status(Code::kProtocol, "uncompressed frame with two different lengths");
  }
  return header;
}

}  // namespace kvbatch
