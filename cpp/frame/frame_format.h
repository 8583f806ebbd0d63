// The frame header: 64 bytes, little-endian, before every payload on the wire. docs/wire-format.md has the page.
//
//   offset size field
//        0    4 magic "KVB1"
//        4    1 protocol version (1)
//        5    1 type
//        6    1 codec of the payload
//        7    1 flags, 0
//        8    8 job: xxh3-64 of the job id
//       16    4 stream
//       20    4 range
//       24    8 sequence: number of this frame in its direction of the connection, from 0
//       32    4 entries in the payload
//       36    4 crc32c of the payload as it is sent
//       40    8 raw length: of the payload before compression; in FILE frames the offset of the payload in its file
//       48    8 payload length
//       56    4 reserved, 0
//       60    4 crc32c of bytes 0 to 59
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/status.h"
#include "codec/codec.h"

namespace kvbatch {

inline constexpr size_t kFrameHeaderSize = 64;
inline constexpr uint8_t kProtocolVersion = 1;
inline constexpr char kFrameMagic[4] = {'K', 'V', 'B', '1'};

enum class FrameType : uint8_t {
  kHello = 1,
  kWelcome = 2,
  kRequest = 3,
  kReply = 4,
  kError = 5,
  kRangeBegin = 6,
  kData = 7,
  kRangeEnd = 8,
  kAck = 9,
  kDrain = 10,
  kFile = 11,
  kFileEnd = 12,
  kHeartbeat = 13,
};

struct FrameHeader {
  FrameType type = FrameType::kData;
  Codec codec = Codec::kNone;
  uint64_t job = 0;
  uint32_t stream = 0;
  uint32_t range = 0;
  uint64_t sequence = 0;
  uint32_t entries = 0;
  uint32_t payload_crc32c = 0;
  uint64_t raw_length = 0;
  uint64_t payload_length = 0;

  bool operator==(const FrameHeader&) const = default;
};

// What a receiver accepts; every length is held against these before memory is taken.
struct FrameLimits {
  uint64_t max_data_bytes = uint64_t{1} << 30;
  uint64_t max_control_bytes = uint64_t{64} << 20;
  uint64_t max_file_bytes = 0;  // of a piece of a file; it takes no memory
};

// Writes kFrameHeaderSize bytes at `out`.
void EncodeFrameHeader(const FrameHeader& header, char* out);

// Decodes and checks a header. `bytes` must be kFrameHeaderSize long. kProtocol for a wrong magic, version, type,
// codec or a length over the limits; kCorruption when the header fails its own checksum.
Result<FrameHeader> DecodeFrameHeader(std::string_view bytes, const FrameLimits& limits);

}  // namespace kvbatch
