#include "base/checksum.h"

#include <isa-l/crc.h>
// On x86-64 the library picks the widest vectors the CPU has; its plain entry points are compiled for SSE2 and were
// measured 19 times slower on 1 MiB (4.6 against 88 GB/s).
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstring>

#include "base/coding.h"

namespace kvbatch {

namespace {

#if defined(__x86_64__)
__attribute__((target("avx"))) void ZeroUpper() { _mm256_zeroupper(); }
#endif

// ISA-L and xxHash return with the upper halves of the vector registers in use, and every SSE instruction after that is
// slowed down on this thread: RocksDB's block checksums were measured four times slower (4.7 against 19.6 GB/s).
class CleanVectorState {
 public:
  CleanVectorState() = default;
  CleanVectorState(const CleanVectorState&) = delete;
  CleanVectorState& operator=(const CleanVectorState&) = delete;
  ~CleanVectorState() {
#if defined(__x86_64__)
    static const bool has_avx = __builtin_cpu_supports("avx");
    if (has_avx) {
      ZeroUpper();
    }
#endif
  }
};

// Polynomials over GF(2) as crc32c writes them: bit 31 - i is the coefficient of x^i; x^32 is left out of the modulus.
constexpr uint32_t kCastagnoli = 0x82f63b78;

uint32_t MultiplyModulo(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = uint32_t{1} << 31; bit != 0; bit >>= 1) {
    product ^= (a & bit) != 0 ? b : 0;
    b = (b >> 1) ^ ((b & 1) != 0 ? kCastagnoli : 0);
  }
  return product;
}

Digest FromHash(XXH128_hash_t hash) { return Digest{hash.low64, hash.high64}; }

}  // namespace

uint32_t Crc32c(std::string_view data, uint32_t before) {
  // ISA-L takes an int length and a pointer to non-const that it does not write to.
  const CleanVectorState clean;
  constexpr size_t kStep = size_t{1} << 30;
  uint32_t state = ~before;
  while (!data.empty()) {
    const size_t length = data.size() < kStep ? data.size() : kStep;
    auto* bytes = reinterpret_cast<unsigned char*>(const_cast<char*>(data.data()));
    state = crc32_iscsi(bytes, static_cast<int>(length), state);
    data.remove_prefix(length);
  }
  return ~state;
}

uint32_t CombineCrc32c(uint32_t first, uint32_t second, uint64_t second_length) {
  uint32_t power = uint32_t{1} << (31 - 8);  // x^8, squared for each binary digit of the length
  for (; second_length != 0; second_length >>= 1) {
    if ((second_length & 1) != 0) {
      first = MultiplyModulo(first, power);
    }
    power = MultiplyModulo(power, power);
  }
  return first ^ second;
}

Digest& Digest::operator+=(const Digest& other) {
  low += other.low;
  high += other.high + (low < other.low ? 1 : 0);
  return *this;
}

std::array<char, 16> Digest::Bytes() const {
  XXH128_canonical_t canonical;
  XXH128_hash_t hash;
  hash.low64 = low;
  hash.high64 = high;
  XXH128_canonicalFromHash(&canonical, hash);
  std::array<char, 16> bytes;
  std::memcpy(bytes.data(), canonical.digest, bytes.size());
  return bytes;
}

Digest Digest::FromBytes(const char* bytes) {
  XXH128_canonical_t canonical;
  std::memcpy(canonical.digest, bytes, sizeof(canonical.digest));
  return FromHash(XXH128_hashFromCanonical(&canonical));
}

std::string Digest::Hex() const {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : Bytes()) {
    text += kDigits[(byte >> 4) & 15];
    text += kDigits[byte & 15];
  }
  return text;
}

Digest Xxh3(std::string_view data) {
  const CleanVectorState clean;
  return FromHash(XXH3_128bits(data.data(), data.size()));
}

uint64_t Xxh3Short(std::string_view data) { return XXH3_64bits(data.data(), data.size()); }

Digest EntryDigest(std::string_view key, std::string_view value, uint64_t kind) {
  const CleanVectorState clean;
  const uint64_t seed = XXH3_64bits_withSeed(key.data(), key.size(), kind);
  return FromHash(XXH3_128bits_withSeed(value.data(), value.size(), seed));
}

Digest ChainDigest(const Digest& digest, std::string_view batch) {
  std::array<char, 32> both;
  const auto before = digest.Bytes();
  const auto next = Xxh3(batch).Bytes();
  std::memcpy(both.data(), before.data(), before.size());
  std::memcpy(both.data() + before.size(), next.data(), next.size());
  return Xxh3({both.data(), both.size()});
}

Digest ChainFilePiece(const Digest& digest, uint64_t offset, uint64_t length, uint32_t crc32c) {
  char piece[20];
  EncodeFixed(piece, offset);
  EncodeFixed(piece + 8, length);
  EncodeFixed(piece + 16, crc32c);
  return ChainDigest(digest, {piece, sizeof(piece)});
}

}  // namespace kvbatch
