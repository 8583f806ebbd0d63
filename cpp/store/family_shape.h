// What a column family is stored in: its files, level by level.
#pragma once

#include <rocksdb/db.h>

#include <cstdint>
#include <vector>

namespace kvbatch {

struct LevelShape {
  int level = 0;
  uint64_t files = 0;
  uint64_t bytes = 0;
};

struct FamilyShape {
  uint32_t id = 0;
  std::vector<LevelShape> levels;  // those with files
  uint64_t blob_files = 0;
  uint64_t blob_bytes = 0;
};

FamilyShape ShapeOf(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family);

}  // namespace kvbatch
