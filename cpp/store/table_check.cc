#include "store/table_check.h"

#include <string>

#include "store/rocksdb_status.h"
#include "store/sst_writing.h"

namespace kvbatch {

namespace {

Status Damaged(const rocksdb::Status& status, const std::string& name) {
  if (status.IsIOError()) {
    return FromTarget(status, "read " + name + " at the target");
  }
  // RocksDB goes on with the path of the copy, which is not the one to mend.
  const std::string said = status.ToString();
  return DamagedSource("the file " + name + " of the source is damaged: " + said.substr(0, said.find(" in /")));
}

}  // namespace

Status CheckBlocks(rocksdb::SstFileReader* reader, const std::string& name) {
  rocksdb::ReadOptions options;
  options.readahead_size = kReadaheadBytes;
  const auto status = reader->VerifyChecksum(options);
  return status.ok() ? Status::Ok() : Damaged(status, name);
}

Status CheckTableFile(const std::string& path, const std::string& name) {
  rocksdb::SstFileReader reader(SstOptions(ColumnFamilyDescription()));
  const auto status = reader.Open(path);
  return status.ok() ? CheckBlocks(&reader, name) : Damaged(status, name);
}

}  // namespace kvbatch
