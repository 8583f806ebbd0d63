// What everybody shares who writes SST files for a target, or reads those that were written for it.
#pragma once

#include <rocksdb/options.h>
#include <rocksdb/sst_file_writer.h>

#include <vector>

#include "batch/batch_format.h"
#include "batch/wide_columns.h"
#include "store/store_description.h"

namespace kvbatch {

// The options of a file for `family`: its order, table format, block size, filter and compression. Requires
// CheckComparator to have passed.
rocksdb::Options SstOptions(const ColumnFamilyDescription& family);

// Adds a put, a deletion of one key, or an entity whose columns are well-formed. InvalidArgument when the key does not
// follow the one before it. `scratch` is kept from call to call to spare its memory.
rocksdb::Status AddRecord(rocksdb::SstFileWriter* writer, const Record& record, std::vector<WideColumn>* scratch);

}  // namespace kvbatch
