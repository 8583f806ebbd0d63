// Checksums and digests. crc32c guards bytes on the wire; xxh3-128 says that two streams of entries are the same.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace kvbatch {

// CRC-32C (Castagnoli, RFC 3720 section B.4), computed by ISA-L with the widest instructions the CPU has. `before` is
// that of the bytes that stand before `data`: Crc32c(b, Crc32c(a)) is Crc32c(a + b).
uint32_t Crc32c(std::string_view data, uint32_t before = 0);

// CRC-32C of a + b from that of a (`first`) and that of b, which is `second_length` bytes long; no byte is read again.
// b moves a's remainder 8 * second_length powers of x further, to which its own is added: the formula of zlib's
// crc32_combine (Mark Adler).
uint32_t CombineCrc32c(uint32_t first, uint32_t second, uint64_t second_length);

// XXH3, 128 bits, canonical (big-endian) byte order when printed or stored.
struct Digest {
  uint64_t low = 0;
  uint64_t high = 0;

  bool operator==(const Digest&) const = default;

  // Sum modulo 2^128: the digest of a set of entries is the sum of theirs, whatever the order or the grouping.
  Digest& operator+=(const Digest& other);

  std::array<char, 16> Bytes() const;
  static Digest FromBytes(const char* bytes);
  std::string Hex() const;
};

Digest Xxh3(std::string_view data);

// XXH3, 64 bits.
uint64_t Xxh3Short(std::string_view data);

// The digest of one entry: xxh3-128 of the value seeded with xxh3-64 of the key, so that the boundary between the two
// counts. `kind` sets plain values (0) apart from wide-column entities (1).
Digest EntryDigest(std::string_view key, std::string_view value, uint64_t kind);

// The running digest of a stream of batches: digest' = xxh3-128(digest || xxh3-128(batch)).
Digest ChainDigest(const Digest& digest, std::string_view batch);

// The running digest behind a piece of a file: ChainDigest of 20 bytes, offset and length as fixed64 and the piece's
// crc32c as fixed32, so that no byte of it needs to be read again.
Digest ChainFilePiece(const Digest& digest, uint64_t offset, uint64_t length, uint32_t crc32c);

}  // namespace kvbatch
