#include "frame/frame_format.h"

#include <algorithm>
#include <vector>

#include "base/checksum.h"
#include "base/coding.h"
#include "testing.h"

namespace kvbatch::testing {
namespace {

struct Golden {
  FrameHeader header;
  const char* hex;
};

// Computed from the page of the format, not by this code. Frozen: what is here stays, new vectors are added.
// type, codec, job, stream, range, sequence, entries, payload crc32c, raw length, payload length
const std::vector<Golden> kGoldenVersion1 = {
    {{FrameType::kHello, Codec::kNone, 0x0, 0, 0, 0, 0, 0x297bd0aa, 2, 2},
     "4b564231010100000000000000000000"
     "00000000000000000000000000000000"
     "00000000aad07b290200000000000000"
     "02000000000000000000000019fdf0ab"},
    {{FrameType::kWelcome, Codec::kNone, 0x123456789abcdef, 0, 0, 0, 0, 0x0, 0, 0},
     "4b56423101020000efcdab8967452301"
     "00000000000000000000000000000000"
     "00000000000000000000000000000000"
     "0000000000000000000000005617f80c"},
    {{FrameType::kRequest, Codec::kNone, 0x123456789abcdef, 0, 0, 1, 0, 0xcbfabf88, 300, 300},
     "4b56423101030000efcdab8967452301"
     "00000000000000000100000000000000"
     "0000000088bffacb2c01000000000000"
     "2c01000000000000000000003b8fac9e"},
    {{FrameType::kReply, Codec::kZstd, 0x123456789abcdef, 0, 0, 1, 0, 0xdeadbeef, 1000000, 4321},
     "4b56423101040200efcdab8967452301"
     "00000000000000000100000000000000"
     "00000000efbeadde40420f0000000000"
     "e11000000000000000000000a50ddd1d"},
    {{FrameType::kError, Codec::kNone, 0xffffffffffffffff, 0xffffffff, 0xffffffff, 0xffffffffffffffff, 0xffffffff,
      0xffffffff, 67108864, 67108864},
     "4b56423101050000ffffffffffffffff"
     "ffffffffffffffffffffffffffffffff"
     "ffffffffffffffff0000000400000000"
     "00000004000000000000000023251013"},
    {{FrameType::kRangeBegin, Codec::kNone, 0x1, 2, 3, 4, 5, 0x6, 7, 7},
     "4b564231010600000100000000000000"
     "02000000030000000400000000000000"
     "05000000060000000700000000000000"
     "0700000000000000000000003fbc80c4"},
    {{FrameType::kData, Codec::kNone, 0x1122334455667788, 0x99aabbcc, 0xddeeff00, 0x102030405060708, 0x11121314,
      0x15161718, 1073741824, 1073741824},
     "4b564231010700008877665544332211"
     "ccbbaa9900ffeedd0807060504030201"
     "14131211181716150000004000000000"
     "000000400000000000000000217d63d5"},
    {{FrameType::kData, Codec::kLz4, 0x1122334455667788, 3, 0x11, 0x2a, 0x2710, 0xc0ffee, 1048576, 524288},
     "4b564231010701008877665544332211"
     "03000000110000002a00000000000000"
     "10270000eeffc0000000100000000000"
     "0000080000000000000000003b37d7d7"},
    {{FrameType::kData, Codec::kZstd, 0x1122334455667788, 3, 0x11, 0x2b, 0x270f, 0xcafe0000, 1048570, 400000},
     "4b564231010702008877665544332211"
     "03000000110000002b00000000000000"
     "0f2700000000fecafaff0f0000000000"
     "801a060000000000000000004cb72a4a"},
    {{FrameType::kRangeEnd, Codec::kNone, 0x1122334455667788, 3, 0x11, 0x2c, 0, 0x12345678, 120, 120},
     "4b564231010800008877665544332211"
     "03000000110000002c00000000000000"
     "00000000785634127800000000000000"
     "7800000000000000000000005ee4f737"},
    {{FrameType::kAck, Codec::kNone, 0x1122334455667788, 3, 0x11, 0x100000000, 0, 0x9abcdef0, 88, 88},
     "4b564231010900008877665544332211"
     "03000000110000000000000001000000"
     "00000000f0debc9a5800000000000000"
     "5800000000000000000000007cdcc8cd"},
    {{FrameType::kDrain, Codec::kNone, 0x1122334455667788, 0, 0, 0x2d, 0, 0x0, 0, 0},
     "4b564231010a00008877665544332211"
     "00000000000000002d00000000000000"
     "00000000000000000000000000000000"
     "0000000000000000000000008cdbb3c6"},
};

std::string Encoded(const FrameHeader& header) {
  std::string bytes(kFrameHeaderSize, '\xee');
  EncodeFrameHeader(header, bytes.data());
  return bytes;
}

Result<FrameHeader> Decoded(const std::string& bytes, const FrameLimits& limits = {}) {
  return DecodeFrameHeader(bytes, limits);
}

// The header with its own checksum made right again after a change.
std::string Resealed(std::string bytes) {
  EncodeFixed(bytes.data() + 60, Crc32c({bytes.data(), 60}));
  return bytes;
}

TEST(FrameFormat, GoldenVectorsEncode) {
  for (const Golden& golden : kGoldenVersion1) {
    EXPECT_EQ(ToHex(Encoded(golden.header)), golden.hex);
  }
}

TEST(FrameFormat, GoldenVectorsDecode) {
  for (const Golden& golden : kGoldenVersion1) {
    const auto decoded = Decoded(FromHex(golden.hex));
    ASSERT_THAT(decoded, IsOk()) << golden.hex;
    EXPECT_EQ(decoded.value(), golden.header) << golden.hex;
  }
}

TEST(FrameFormat, GoldenVectorsHaveEveryType) {
  for (int type = 1; type <= 10; ++type) {
    EXPECT_TRUE(std::any_of(kGoldenVersion1.begin(), kGoldenVersion1.end(), [type](const Golden& golden) {
      return static_cast<int>(golden.header.type) == type;
    })) << type;
  }
}

TEST(FrameFormat, EveryFlippedBitIsRefused) {
  for (const Golden& golden : kGoldenVersion1) {
    const std::string bytes = FromHex(golden.hex);
    for (size_t offset = 0; offset < bytes.size(); ++offset) {
      for (int bit = 0; bit < 8; ++bit) {
        std::string flipped = bytes;
        flipped[offset] = static_cast<char>(flipped[offset] ^ (1 << bit));
        EXPECT_THAT(Decoded(flipped), Fails(offset < 5 ? Code::kProtocol : Code::kCorruption))
            << "offset " << offset << ", bit " << bit;
      }
    }
  }
}

TEST(FrameFormat, AnotherLengthOfHeaderIsRefused) {
  const std::string bytes = Encoded(FrameHeader());
  EXPECT_THAT(Decoded(""), Fails(Code::kProtocol));
  EXPECT_THAT(Decoded(bytes.substr(1)), Fails(Code::kProtocol));
  EXPECT_THAT(Decoded(bytes + "x"), Fails(Code::kProtocol));
}

TEST(FrameFormat, AnotherProtocolIsShownAsItStarts) {
  std::string bytes = "HTTP/1.1 400 Bad Request\r\n";
  bytes.resize(kFrameHeaderSize);
  EXPECT_THAT(Decoded(bytes), Fails(Code::kProtocol, "\"HTTP/1.1 400 Bad\""));
  EXPECT_THAT(Decoded(std::string(kFrameHeaderSize, '\x01')), Fails(Code::kProtocol, "\"................\""));
}

TEST(FrameFormat, AnotherVersionIsNamed) {
  std::string bytes = Encoded(FrameHeader());
  for (const int version : {0, 2, 255}) {
    bytes[4] = static_cast<char>(version);
    const std::string text = "protocol version: theirs " + std::to_string(version) + ", ours 1";
    // A later version may check its header in another way.
    EXPECT_THAT(Decoded(bytes), Fails(Code::kProtocol, text));
    EXPECT_THAT(Decoded(Resealed(bytes)), Fails(Code::kProtocol, text));
  }
}

TEST(FrameFormat, UnknownTypesAndCodecsAreRefused) {
  for (int value = 0; value < 256; ++value) {
    std::string bytes = Encoded(FrameHeader());
    bytes[5] = static_cast<char>(value);
    const auto by_type = Decoded(Resealed(bytes));
    if ((value >= 1 && value <= 10) || value == 12 || value == 13) {
      ASSERT_THAT(by_type, IsOk());
      EXPECT_EQ(static_cast<int>(by_type.value().type), value);
    } else if (value == 11) {
      EXPECT_THAT(by_type, Fails(Code::kProtocol, "impossible piece of a file"));
    } else {
      EXPECT_THAT(by_type, Fails(Code::kProtocol, "unknown frame type " + std::to_string(value)));
    }
    bytes = Encoded(FrameHeader());
    bytes[6] = static_cast<char>(value);
    if (value <= 2) {
      EXPECT_THAT(Decoded(Resealed(bytes)), IsOk());
    } else {
      EXPECT_THAT(Decoded(Resealed(bytes)), Fails(Code::kProtocol, "unknown codec " + std::to_string(value)));
    }
  }
}

TEST(FrameFormat, ReservedBytesMustBeZero) {
  for (const size_t offset : {7, 56, 57, 58, 59}) {
    for (const char value : {'\x01', '\x80'}) {
      std::string bytes = Encoded(FrameHeader());
      bytes[offset] = value;
      EXPECT_THAT(Decoded(Resealed(bytes)), Fails(Code::kProtocol, "flags")) << offset;
    }
  }
}

TEST(FrameFormat, LengthsAreHeldAgainstTheLimits) {
  FrameLimits limits;
  limits.max_data_bytes = 1000;
  limits.max_control_bytes = 100;
  FrameHeader header;
  header.codec = Codec::kLz4;
  for (const auto& [type, limit] :
       {std::pair(FrameType::kData, uint64_t{1000}), std::pair(FrameType::kAck, uint64_t{100})}) {
    header.type = type;
    header.raw_length = limit;
    header.payload_length = limit;
    EXPECT_THAT(Decoded(Encoded(header), limits), IsOk());
    for (const uint64_t length : {limit + 1, uint64_t{1} << 31, uint64_t{1} << 32, uint64_t{1} << 63, ~uint64_t{0}}) {
      header.raw_length = limit;
      header.payload_length = length;
      EXPECT_THAT(Decoded(Encoded(header), limits), Fails(Code::kProtocol, "payload of " + std::to_string(length)));
      header.raw_length = length;
      header.payload_length = limit;
      EXPECT_THAT(Decoded(Encoded(header), limits), Fails(Code::kProtocol, "raw length of " + std::to_string(length)));
    }
  }
}

TEST(FrameFormat, AnUncompressedFrameHasOneLength) {
  FrameHeader header;
  header.raw_length = 10;
  header.payload_length = 9;
  EXPECT_THAT(Decoded(Encoded(header)), Fails(Code::kProtocol, "two different lengths"));
  header.codec = Codec::kZstd;
  EXPECT_THAT(Decoded(Encoded(header)), IsOk());
}

TEST(FrameFormat, GarbageBehindARightChecksumIsNoWorseThanAnError) {
  Random random(6);
  const FrameLimits limits;
  for (int round = 0; round < 100'000; ++round) {
    std::string bytes = Encoded(FrameHeader());
    for (size_t offset = 5; offset < 60; ++offset) {
      if (Below(random, 3) == 0) {
        bytes[offset] = static_cast<char>(Below(random, Below(random, 2) == 0 ? 256 : 4));
      }
    }
    const auto decoded = Decoded(Resealed(bytes), limits);
    if (decoded.ok()) {
      ASSERT_EQ(Encoded(decoded.value()), Resealed(bytes));
      ASSERT_LE(decoded.value().payload_length, limits.max_data_bytes);
      ASSERT_LE(decoded.value().raw_length, limits.max_data_bytes);
    } else {
      ASSERT_EQ(decoded.status().code(), Code::kProtocol);
    }
  }
}

}  // namespace
}  // namespace kvbatch::testing
