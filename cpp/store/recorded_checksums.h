// Checksums of whole files that RocksDB recorded in the MANIFEST when it wrote them, as it does where its owner set
// DBOptions::file_checksum_gen_factory.
#pragma once

#include <rocksdb/db.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/status.h"

namespace kvbatch {

// The crc32c of files, SST and blob files alike, by their numbers.
using RecordedChecksums = std::map<uint64_t, uint32_t>;

// Those of the live files of the opened families. A file of which nothing was recorded, or something else than
// GetFileChecksumGenCrc32cFactory's crc32c, is not among them.
Result<RecordedChecksums> ReadRecordedChecksums(rocksdb::DB* db);

// The number in the name of an SST or blob file, such as 000017.sst; nothing for every other name.
std::optional<uint64_t> TableFileNumber(const std::string& name);

}  // namespace kvbatch
