#include "store/sst_writing.h"

#include <rocksdb/version.h>

#include "store/rocksdb_status.h"

namespace kvbatch {

rocksdb::Options SstOptions(const ColumnFamilyDescription& family) {
  rocksdb::Options options(rocksdb::DBOptions(), OpenOptions(family));
  options.info_log = SilentLogger();
  return options;
}

rocksdb::Status AddRecord(rocksdb::SstFileWriter* writer, const Record& record, std::vector<WideColumn>* scratch) {
  if (record.kind == RecordKind::kPut) {
    return writer->Put(ToSlice(record.key), ToSlice(record.value));
  }
  if (record.kind == RecordKind::kDelete) {
    return writer->Delete(ToSlice(record.key));
  }
#if ROCKSDB_MAJOR >= 9
  DecodeEntity(record.value, scratch);
  rocksdb::WideColumns columns;
  for (const auto& [name, value] : *scratch) {
    columns.emplace_back(ToSlice(name), ToSlice(value));
  }
  return writer->PutEntity(ToSlice(record.key), columns);
#else
  (void)scratch;
  return rocksdb::Status::NotSupported("wide-column entities need RocksDB 9; this build has an older one");
#endif
}

}  // namespace kvbatch
