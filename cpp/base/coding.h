// Little-endian fixed-width integers and varint32 (LEB128), as RocksDB's WriteBatch and our frames use them.
// Decoders check bounds before every read and report failure by their return value.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace kvbatch {

static_assert(std::endian::native == std::endian::little, "the fixed-width codings are copied as they stand in memory");

inline constexpr size_t kMaxVarint32Length = 5;

template <typename Integer>
inline void EncodeFixed(char* destination, Integer value) {
  std::memcpy(destination, &value, sizeof(value));
}

template <typename Integer>
inline Integer DecodeFixed(const char* source) {
  Integer value;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

template <typename Integer>
inline void AppendFixed(std::string* destination, Integer value) {
  destination->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

inline size_t Varint32Length(uint32_t value) { return (static_cast<size_t>(std::bit_width(value | 1)) + 6) / 7; }

// Writes `value` and returns the first byte after it. Needs room for kMaxVarint32Length bytes.
inline char* EncodeVarint32(char* destination, uint32_t value) {
  while (value >= 0x80) {
    *destination++ = static_cast<char>(value | 0x80);
    value >>= 7;
  }
  *destination++ = static_cast<char>(value);
  return destination;
}

// Reads a varint32 from the front of `input` and removes it. False when it is cut short or does not fit 32 bits.
inline bool ConsumeVarint32(std::string_view* input, uint32_t* value) {
  // Nearly every length and id that stands before a record's bytes is this short.
  if (!input->empty() && static_cast<uint8_t>(input->front()) < 0x80) {
    *value = static_cast<uint8_t>(input->front());
    input->remove_prefix(1);
    return true;
  }
  uint32_t result = 0;
  for (size_t i = 0; i < kMaxVarint32Length && i < input->size(); ++i) {
    const auto byte = static_cast<uint8_t>((*input)[i]);
    if (i == kMaxVarint32Length - 1 && byte > 0x0f) {
      return false;
    }
    result |= static_cast<uint32_t>(byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      input->remove_prefix(i + 1);
      *value = result;
      return true;
    }
  }
  return false;
}

// Reads a varint32 length and that many bytes from the front of `input`; the result points into `input`.
inline bool ConsumeLengthPrefixed(std::string_view* input, std::string_view* result) {
  uint32_t length;
  std::string_view rest = *input;
  if (!ConsumeVarint32(&rest, &length) || rest.size() < length) {
    return false;
  }
  *result = rest.substr(0, length);
  rest.remove_prefix(length);
  *input = rest;
  return true;
}

template <typename Integer>
inline bool ConsumeFixed(std::string_view* input, Integer* value) {
  if (input->size() < sizeof(Integer)) {
    return false;
  }
  *value = DecodeFixed<Integer>(input->data());
  input->remove_prefix(sizeof(Integer));
  return true;
}

}  // namespace kvbatch
