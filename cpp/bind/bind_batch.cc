#include <pybind11/native_enum.h>

#include <set>

#include "batch/batch_builder.h"
#include "batch/batch_reader.h"
#include "bind/convert.h"

namespace kvbatch::bind {

namespace {

using RecordTuple = std::tuple<RecordKind, uint32_t, Bytes, Bytes>;

std::vector<RecordTuple> DecodeBatch(const Bytes& batch) {
  std::vector<RecordTuple> records;
  BatchReader reader(batch.value);
  Record record;
  while (reader.Next(&record)) {
    records.emplace_back(record.kind, record.column_family, Bytes{std::string(record.key)},
                         Bytes{std::string(record.value)});
  }
  RaiseIfError(reader.status());
  return records;
}

bool Add(BatchBuilder* builder, const RecordTuple& record) {
  const auto& [kind, family, key, value] = record;
  switch (kind) {
    case RecordKind::kPut:
      return builder->Put(family, key.value, value.value);
    case RecordKind::kDelete:
      return builder->Delete(family, key.value);
    case RecordKind::kSingleDelete:
      return builder->SingleDelete(family, key.value);
    case RecordKind::kDeleteRange:
      return builder->DeleteRange(family, key.value, value.value);
    case RecordKind::kMerge:
      return builder->Merge(family, key.value, value.value);
    case RecordKind::kEntity:
      return builder->PutEntity(family, key.value, value.value);
    case RecordKind::kLogData:
      return builder->PutLogData(key.value);
  }
  return false;
}

Bytes EncodeBatch(const std::vector<RecordTuple>& records) {
  size_t capacity = kBatchHeaderSize;
  for (const auto& [kind, family, key, value] : records) {
    capacity += BatchBuilder::SpaceFor(family, key.value, value.value);
  }
  std::string buffer(capacity, '\0');
  BatchBuilder builder(buffer.data(), buffer.size());
  for (const RecordTuple& record : records) {
    Add(&builder, record);
  }
  return {std::string(builder.Finish())};
}

}  // namespace

void RegisterBatch(py::module_& module) {
  py::native_enum<RecordKind>(module, "RecordKind", "enum.IntEnum", "What a record of a batch does.")
      .value("PUT", RecordKind::kPut)
      .value("DELETE", RecordKind::kDelete)
      .value("SINGLE_DELETE", RecordKind::kSingleDelete)
      .value("DELETE_RANGE", RecordKind::kDeleteRange)
      .value("MERGE", RecordKind::kMerge)
      .value("ENTITY", RecordKind::kEntity)
      .value("LOG_DATA", RecordKind::kLogData)
      .finalize();
  module.def(
      "encode_batch", &EncodeBatch, py::arg("records"),
      "Packs (kind, column family id, key, value) records into a batch; for tests and tools, not for moving data.");
  module.def("decode_batch", &DecodeBatch, py::arg("batch"),
             "The records of a batch as (kind, column family id, key, value). Raises CorruptionError.");
  module.def(
      "validate_batch",
      [](const Bytes& batch, const std::optional<std::set<uint32_t>>& column_families, bool only_puts) {
        BatchRules rules;
        rules.column_families = column_families ? &*column_families : nullptr;
        rules.only_puts = only_puts;
        return Get([&] { return ValidateBatch(batch.value, rules); }).records;
      },
      py::arg("batch"), py::arg("column_families") = std::nullopt, py::arg("only_puts") = false,
      "Checks tags, lengths, column families and count; returns the number of records. Raises CorruptionError.");
}

}  // namespace kvbatch::bind
