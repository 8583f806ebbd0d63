#include "batch/batch_builder.h"

namespace kvbatch {

bool BatchBuilder::AddKey(Tag plain, Tag with_family, uint32_t column_family, std::string_view key) {
  if (KeySize(column_family, key) > left()) {
    return false;
  }
  cursor_ = WriteBytes(WriteTag(cursor_, plain, with_family, column_family), key);
  ++count_;
  return true;
}

bool BatchBuilder::PutLogData(std::string_view blob) {
  if (1 + Varint32Length(static_cast<uint32_t>(blob.size())) + blob.size() > left()) {
    return false;
  }
  *cursor_++ = static_cast<char>(Tag::kLogData);
  cursor_ = WriteBytes(cursor_, blob);
  return true;
}

std::string_view BatchBuilder::Finish() {
  EncodeFixed<uint64_t>(begin_, 0);
  EncodeFixed<uint32_t>(begin_ + kBatchCountOffset, count_);
  return {begin_, size()};
}

}  // namespace kvbatch
