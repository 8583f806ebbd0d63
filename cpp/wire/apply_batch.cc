#include "wire/apply_batch.h"

#include "base/coding.h"
#include "batch/batch_builder.h"
#include "batch/batch_reader.h"

namespace kvbatch {

namespace {

Status CheckPlain(const Record& record) {
  return record.kind == RecordKind::kPut
             ? Status::Ok()
             : Status(Code::kCorruption, "batch: wide columns, which a Kvrocks server does not know");
}

}  // namespace

Result<SentBatch> SendApplyBatch(Connection* connection, Frame* frame, std::string_view log_data,
                                 const std::set<uint32_t>& column_families) {
  auto raw = frame->OpenRaw();
  if (!raw.ok()) {
    return raw.status();
  }
  const std::string_view batch = raw.value();
  const BatchRules rules{.column_families = &column_families, .only_puts = true, .check = &CheckPlain};
  auto summary = ValidateBatch(batch, rules);
  if (!summary.ok()) {
    return summary.status();
  }
  // The header counts no log record, so that it serves the longer batch as it is.
  std::string head(batch.substr(0, kBatchHeaderSize));
  if (!log_data.empty()) {
    std::string record(BatchBuilder::SpaceFor(0, log_data, {}), '\0');
    BatchBuilder builder(record.data(), record.size());
    builder.PutLogData(log_data);
    head.append(record, kBatchHeaderSize, builder.size() - kBatchHeaderSize);
  }
  const std::string_view records = batch.substr(kBatchHeaderSize);
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
