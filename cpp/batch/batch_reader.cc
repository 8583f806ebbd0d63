#include "batch/batch_reader.h"

#include "base/coding.h"
#include "batch/wide_columns.h"

namespace kvbatch {

namespace {

struct TagShape {
  RecordKind kind;
  bool has_family;
  bool has_value;
};

bool ShapeOf(uint8_t tag, TagShape* shape) {
  switch (static_cast<Tag>(tag)) {
    case Tag::kDeletion:
      *shape = {RecordKind::kDelete, false, false};
      return true;
    case Tag::kValue:
      *shape = {RecordKind::kPut, false, true};
      return true;
    case Tag::kMerge:
      *shape = {RecordKind::kMerge, false, true};
      return true;
    case Tag::kLogData:
      *shape = {RecordKind::kLogData, false, false};
      return true;
    case Tag::kCfDeletion:
      *shape = {RecordKind::kDelete, true, false};
      return true;
    case Tag::kCfValue:
      *shape = {RecordKind::kPut, true, true};
      return true;
    case Tag::kCfMerge:
      *shape = {RecordKind::kMerge, true, true};
      return true;
    case Tag::kSingleDeletion:
      *shape = {RecordKind::kSingleDelete, false, false};
      return true;
    case Tag::kCfSingleDeletion:
      *shape = {RecordKind::kSingleDelete, true, false};
      return true;
    case Tag::kCfRangeDeletion:
      *shape = {RecordKind::kDeleteRange, true, true};
      return true;
    case Tag::kRangeDeletion:
      *shape = {RecordKind::kDeleteRange, false, true};
      return true;
    case Tag::kEntity:
      *shape = {RecordKind::kEntity, false, true};
      return true;
    case Tag::kCfEntity:
      *shape = {RecordKind::kEntity, true, true};
      return true;
  }
  return false;
}

}  // namespace

BatchReader::BatchReader(std::string_view batch) : batch_(batch) {
  if (batch.size() < kBatchHeaderSize) {
    status_ =
        Status(Code::kCorruption, "batch of " + std::to_string(batch.size()) + " bytes is shorter than its header");
    return;
  }
  declared_count_ = DecodeFixed<uint32_t>(batch.data() + kBatchCountOffset);
  rest_ = batch.substr(kBatchHeaderSize);
}

bool BatchReader::Fail(const char* what) {
  const size_t offset = batch_.size() - rest_.size();
  status_ = Status(Code::kCorruption, std::string("batch: ") + what + " at offset " + std::to_string(offset));
  rest_ = {};
  return false;
}

bool BatchReader::Next(Record* record) {
  if (rest_.empty()) {
    return false;
  }
  TagShape shape;
  const auto tag = static_cast<uint8_t>(rest_.front());
  if (!ShapeOf(tag, &shape)) {
    return Fail(("unknown record tag " + std::to_string(tag)).c_str());
  }
  std::string_view input = rest_.substr(1);
  record->kind = shape.kind;
  record->column_family = 0;
  record->value = {};
  if (shape.has_family && !ConsumeVarint32(&input, &record->column_family)) {
    return Fail("cut column family id of the record");
  }
  if (!ConsumeLengthPrefixed(&input, &record->key)) {
    return Fail("key runs past the end in the record");
  }
  if (shape.has_value && !ConsumeLengthPrefixed(&input, &record->value)) {
    return Fail("value runs past the end in the record");
  }
  rest_ = input;
  if (shape.kind != RecordKind::kLogData) {
    ++counted_;
  }
  return true;
}

Result<BatchSummary> ValidateBatch(std::string_view batch, const BatchRules& rules) {
  BatchReader reader(batch);
  BatchSummary summary;
  Record record;
  while (reader.Next(&record)) {
    if (record.kind == RecordKind::kLogData) {
      if (rules.only_puts) {
        return Status(Code::kCorruption, "batch: LogData in a range of plain entries");
      }
      continue;
    }
    if (rules.only_puts && record.kind != RecordKind::kPut && record.kind != RecordKind::kEntity) {
      return Status(Code::kCorruption, "batch: record " + std::to_string(reader.counted()) + " is not a put");
    }
    if (rules.column_families != nullptr && !rules.column_families->contains(record.column_family)) {
      return Status(Code::kCorruption, "batch: record " + std::to_string(reader.counted()) +
                                           " names column family id " + std::to_string(record.column_family) +
                                           ", which this stream may not write");
    }
    if (record.kind == RecordKind::kEntity && !IsWellFormedEntity(record.value)) {
      return Status(Code::kCorruption, "batch: record " + std::to_string(reader.counted()) + " has malformed columns");
    }
    if (rules.check) {
      if (Status status = rules.check(record); !status.ok()) {
        return status;
      }
    }
    summary.key_bytes += record.key.size();
    summary.value_bytes += record.value.size();
    if (reader.counted() == 1) {
      summary.first_key = record.key;
    }
    summary.last_key = record.key;
  }
  if (!reader.status().ok()) {
    return reader.status();
  }
  if (reader.counted() != reader.declared_count()) {
    return Status(Code::kCorruption, "batch: its header counts " + std::to_string(reader.declared_count()) +
                                         " records, it holds " + std::to_string(reader.counted()));
  }
  summary.records = reader.counted();
  return summary;
}

}  // namespace kvbatch
