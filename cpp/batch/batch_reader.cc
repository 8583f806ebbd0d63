#include "batch/batch_reader.h"

#include <array>
#include <optional>

#include "base/coding.h"
#include "batch/wide_columns.h"

namespace kvbatch {

namespace {

struct TagShape {
  RecordKind kind;
  bool has_family;
  bool has_value;
  bool known = true;
};

constexpr auto kShapes = [] {
  std::array<TagShape, 256> shapes{};
  shapes.fill({RecordKind::kPut, false, false, false});
  const auto set = [&shapes](Tag plain, Tag with_family, RecordKind kind, bool has_value) {
    shapes[static_cast<uint8_t>(plain)] = {kind, false, has_value};
    shapes[static_cast<uint8_t>(with_family)] = {kind, true, has_value};
  };
  set(Tag::kValue, Tag::kCfValue, RecordKind::kPut, true);
  set(Tag::kDeletion, Tag::kCfDeletion, RecordKind::kDelete, false);
  set(Tag::kSingleDeletion, Tag::kCfSingleDeletion, RecordKind::kSingleDelete, false);
  set(Tag::kRangeDeletion, Tag::kCfRangeDeletion, RecordKind::kDeleteRange, true);
  set(Tag::kMerge, Tag::kCfMerge, RecordKind::kMerge, true);
  set(Tag::kEntity, Tag::kCfEntity, RecordKind::kEntity, true);
  shapes[static_cast<uint8_t>(Tag::kLogData)] = {RecordKind::kLogData, false, false};
  return shapes;
}();

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
  const auto tag = static_cast<uint8_t>(rest_.front());
  const TagShape shape = kShapes[tag];
  if (!shape.known) {
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
  // Records of one family stand together, so the set is asked once a family.
  std::optional<uint32_t> allowed_family;
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
    if (rules.column_families != nullptr && record.column_family != allowed_family) {
      if (!rules.column_families->contains(record.column_family)) {
        return Status(Code::kCorruption, "batch: record " + std::to_string(reader.counted()) +
                                             " names column family id " + std::to_string(record.column_family) +
                                             ", which this stream may not write");
      }
      allowed_family = record.column_family;
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
