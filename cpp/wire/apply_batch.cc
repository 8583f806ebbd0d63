#include "wire/apply_batch.h"

#include <vector>

#include "base/coding.h"
#include "batch/batch_builder.h"
#include "batch/batch_reader.h"

namespace kvbatch {

namespace {

// A log record, and where in a batch it is to stand.
struct LogMark {
  size_t offset;
  std::string_view blob;
};

Status CheckPlain(const Record& record) {
  return record.kind == RecordKind::kPut
             ? Status::Ok()
             : Status(Code::kCorruption, "batch: wide columns, which a Kvrocks server does not know");
}

std::string LogRecord(std::string_view blob) {
  std::string bytes(BatchBuilder::SpaceFor(0, blob, {}), '\0');
  BatchBuilder builder(bytes.data(), bytes.size());
  builder.PutLogData(blob);
  return bytes.substr(kBatchHeaderSize, builder.size() - kBatchHeaderSize);
}

// The records of `batch` with log records among them.
std::string WithLogs(std::string_view batch, const std::vector<LogMark>& marks) {
  std::string records;
  records.reserve(batch.size() + marks.size() * 8);
  size_t done = kBatchHeaderSize;
  for (const LogMark& mark : marks) {
    records.append(batch, done, mark.offset - done);
    records.append(LogRecord(mark.blob));
    done = mark.offset;
  }
  return records.append(batch, done);
}

}  // namespace

Result<SentBatch> SendApplyBatch(Connection* connection, Frame* frame, std::string_view log_data,
                                 const std::set<uint32_t>& column_families, ElementTypes* types) {
  auto raw = frame->OpenRaw();
  if (!raw.ok()) {
    return raw.status();
  }
  const std::string_view batch = raw.value();
  std::vector<LogMark> marks;
  if (!log_data.empty()) {
    marks.push_back({kBatchHeaderSize, log_data});
  }
  size_t record_at = kBatchHeaderSize;
  const auto check = [&](const Record& record) {
    if (Status status = CheckPlain(record); !status.ok() || types == nullptr) {
      return status;
    }
    auto log = types->LogOf(record.key);
    if (!log.ok()) {
      return log.status();
    }
    if (marks.empty() || marks.back().blob != log.value()) {
      marks.push_back({record_at, log.value()});
    }
    record_at = static_cast<size_t>(record.value.data() + record.value.size() - batch.data());
    return Status::Ok();
  };
  const BatchRules rules{.column_families = &column_families, .only_puts = true, .check = check};
  auto summary = ValidateBatch(batch, rules);
  if (!summary.ok()) {
    return summary.status();
  }
  // The header counts no log record, so that it serves the longer batch as it is.
  std::string head(batch.substr(0, kBatchHeaderSize));
  std::string_view records = batch.substr(kBatchHeaderSize);
  std::string copied;
  if (marks.size() > 1) {
    copied = WithLogs(batch, marks);
    records = copied;
  } else if (!marks.empty()) {
    head += LogRecord(marks.front().blob);
  }
  SentBatch sent{.length = head.size() + records.size(),
                 .entries = summary.value().records,
                 .raw_bytes = summary.value().key_bytes + summary.value().value_bytes,
                 .last_key = std::string(summary.value().last_key)};
  const std::string command = "*2\r\n$10\r\nAPPLYBATCH\r\n$" + std::to_string(sent.length) + "\r\n" + head;
  if (Status status = connection->SendPlain(command, records, "\r\n"); !status.ok()) {
    return status;
  }
  return sent;
}

}  // namespace kvbatch
