// BatchBuilder packs records straight into a caller's buffer; no allocation, no copy besides the entry's own bytes.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/coding.h"
#include "batch/batch_format.h"

namespace kvbatch {

// Not thread-safe. The buffer must outlive the builder. Every Add* returns false and writes nothing when the record
// does not fit into what is left of the buffer.
class BatchBuilder {
 public:
  // Requires capacity >= kBatchHeaderSize.
  BatchBuilder(char* buffer, size_t capacity)
      : begin_(buffer), cursor_(buffer + kBatchHeaderSize), end_(buffer + capacity) {}

  bool Put(uint32_t column_family, std::string_view key, std::string_view value) {
    return AddPair(Tag::kValue, Tag::kCfValue, column_family, key, value);
  }
  bool Merge(uint32_t column_family, std::string_view key, std::string_view operand) {
    return AddPair(Tag::kMerge, Tag::kCfMerge, column_family, key, operand);
  }
  bool DeleteRange(uint32_t column_family, std::string_view begin, std::string_view end) {
    return AddPair(Tag::kRangeDeletion, Tag::kCfRangeDeletion, column_family, begin, end);
  }
  // `columns` is the serialized form of batch_format.h.
  bool PutEntity(uint32_t column_family, std::string_view key, std::string_view columns) {
    return AddPair(Tag::kEntity, Tag::kCfEntity, column_family, key, columns);
  }
  bool Delete(uint32_t column_family, std::string_view key) {
    return AddKey(Tag::kDeletion, Tag::kCfDeletion, column_family, key);
  }
  bool SingleDelete(uint32_t column_family, std::string_view key) {
    return AddKey(Tag::kSingleDeletion, Tag::kCfSingleDeletion, column_family, key);
  }
  bool PutLogData(std::string_view blob);

  // The bytes of a batch with one Put (Merge, PutEntity, DeleteRange) alone, its header included.
  static size_t SpaceFor(uint32_t column_family, std::string_view key, std::string_view value) {
    return kBatchHeaderSize + PairSize(column_family, key, value);
  }

  uint32_t count() const { return count_; }
  size_t size() const { return static_cast<size_t>(cursor_ - begin_); }
  // Behind the last record.
  const char* end() const { return cursor_; }

  // Writes the header and returns the whole batch. The builder may go on adding records afterwards.
  std::string_view Finish();

 private:
  static size_t KeySize(uint32_t column_family, std::string_view key) {
    return 1 + (column_family == 0 ? 0 : Varint32Length(column_family)) +
           Varint32Length(static_cast<uint32_t>(key.size())) + key.size();
  }
  static size_t PairSize(uint32_t column_family, std::string_view first, std::string_view second) {
    return KeySize(column_family, first) + Varint32Length(static_cast<uint32_t>(second.size())) + second.size();
  }

  size_t left() const { return static_cast<size_t>(end_ - cursor_); }

  char* WriteTag(char* out, Tag plain, Tag with_family, uint32_t column_family) {
    if (column_family == 0) {
      *out++ = static_cast<char>(plain);
      return out;
    }
    *out++ = static_cast<char>(with_family);
    return EncodeVarint32(out, column_family);
  }

  static char* WriteBytes(char* out, std::string_view bytes) {
    out = EncodeVarint32(out, static_cast<uint32_t>(bytes.size()));
    if (!bytes.empty()) {  // an empty view may point nowhere, which memcpy does not allow
      std::memcpy(out, bytes.data(), bytes.size());
    }
    return out + bytes.size();
  }

  bool AddPair(Tag plain, Tag with_family, uint32_t column_family, std::string_view first, std::string_view second) {
    if (PairSize(column_family, first, second) > left()) {
      return false;
    }
    char* out = WriteTag(cursor_, plain, with_family, column_family);
    out = WriteBytes(out, first);
    cursor_ = WriteBytes(out, second);
    ++count_;
    return true;
  }

  bool AddKey(Tag plain, Tag with_family, uint32_t column_family, std::string_view key);

  char* begin_;
  char* cursor_;
  char* end_;
  uint32_t count_ = 0;
};

}  // namespace kvbatch
