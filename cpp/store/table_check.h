// What a file that another database wrote is held against before it becomes part of a target.
#pragma once

#include <rocksdb/sst_file_reader.h>

#include <string>

#include "base/status.h"

namespace kvbatch {

// Reads every block of the open file and holds it against the block's own checksum. kSource, with `name`, when one does
// not fit: the bytes are those that the sender read, so the source's file is damaged. kTarget when they cannot be read.
Status CheckBlocks(rocksdb::SstFileReader* reader, const std::string& name);

// The same for the SST file at `path`. It must open too.
Status CheckTableFile(const std::string& path, const std::string& name);

}  // namespace kvbatch
