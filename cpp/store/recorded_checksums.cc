#include "store/recorded_checksums.h"

#include <rocksdb/file_checksum.h>

#include <charconv>
#include <memory>
#include <vector>

#include "store/rocksdb_status.h"

namespace kvbatch {

namespace {

// RocksDB's kStandardDbFileChecksumFuncName, which older versions do not have in their headers.
constexpr char kCrc32cFunction[] = "FileChecksumCrc32c";

// Four bytes, the most significant one first (FileChecksumGenCrc32c::Finalize).
std::optional<uint32_t> DecodeCrc32c(const std::string& bytes) {
  if (bytes.size() != sizeof(uint32_t)) {
    return std::nullopt;
  }
  uint32_t crc = 0;
  for (const char byte : bytes) {
    crc = crc << 8 | static_cast<uint8_t>(byte);
  }
  return crc;
}

}  // namespace

Result<RecordedChecksums> ReadRecordedChecksums(rocksdb::DB* db) {
  const std::unique_ptr<rocksdb::FileChecksumList> list(rocksdb::NewFileChecksumList());
  std::vector<uint64_t> numbers;
  std::vector<std::string> values;
  std::vector<std::string> functions;
  auto status = db->GetLiveFilesChecksumInfo(list.get());
  if (status.ok()) {
    status = list->GetAllFileChecksums(&numbers, &values, &functions);
  }
  if (!status.ok()) {
    return FromSource(status, "read the recorded checksums of " + db->GetName());
  }
  RecordedChecksums recorded;
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (const auto crc = DecodeCrc32c(values[i]); crc && functions[i] == kCrc32cFunction) {
      recorded.emplace(numbers[i], *crc);
    }
  }
  return recorded;
}

std::optional<uint64_t> TableFileNumber(const std::string& name) {
  uint64_t number = 0;
  const char* const end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data(), end, number);
  const std::string_view extension(parsed.ptr, end);
  if (parsed.ec != std::errc() || (extension != ".sst" && extension != ".ldb" && extension != ".blob")) {
    return std::nullopt;
  }
  return number;
}

}  // namespace kvbatch
