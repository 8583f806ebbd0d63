// The WriteBatch representation: RocksDB's own bytes, and the only encoding of entries that kvbatch has.
//
//   batch   := sequence: fixed64, count: fixed32, record*          (little-endian; sequence is 0 on the wire)
//   record  := VALUE key value            | CF_VALUE cf key value             (counted)
//            | DELETION key               | CF_DELETION cf key                (counted)
//            | SINGLE_DELETION key        | CF_SINGLE_DELETION cf key         (counted)
//            | RANGE_DELETION begin end   | CF_RANGE_DELETION cf begin end    (counted)
//            | MERGE key operand          | CF_MERGE cf key operand           (counted)
//            | ENTITY key columns         | CF_ENTITY cf key columns          (counted)
//            | LOG_DATA blob                                                   (not counted)
//   cf      := varint32, never 0: records of column family 0 take the short tag
//   key, value, begin, end, operand, columns, blob := varint32 length, bytes
//   columns := version: varint32 = 1, n: varint32, (name: varint32 length, bytes; value length: varint32)*n, values
//
// Source: RocksDB 9.10, db/write_batch.cc, db/dbformat.h, db/wide/wide_column_serialization.h (facts, not text).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kvbatch {

inline constexpr size_t kBatchHeaderSize = 12;
inline constexpr size_t kBatchCountOffset = 8;

enum class Tag : uint8_t {
  kDeletion = 0x00,
  kValue = 0x01,
  kMerge = 0x02,
  kLogData = 0x03,
  kCfDeletion = 0x04,
  kCfValue = 0x05,
  kCfMerge = 0x06,
  kSingleDeletion = 0x07,
  kCfSingleDeletion = 0x08,
  kCfRangeDeletion = 0x0e,
  kRangeDeletion = 0x0f,
  kEntity = 0x16,
  kCfEntity = 0x17,
};

enum class RecordKind : uint8_t { kPut, kDelete, kSingleDelete, kDeleteRange, kMerge, kEntity, kLogData };

// One decoded record. The views point into the batch.
struct Record {
  RecordKind kind = RecordKind::kPut;
  uint32_t column_family = 0;
  std::string_view key;    // begin of a range deletion; the blob of LogData
  std::string_view value;  // end of a range deletion, operand of a merge, serialized columns of an entity
};

}  // namespace kvbatch
