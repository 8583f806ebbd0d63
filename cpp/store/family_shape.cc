#include "store/family_shape.h"

#include <rocksdb/metadata.h>

namespace kvbatch {

FamilyShape ShapeOf(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family) {
  rocksdb::ColumnFamilyMetaData metadata;
  db->GetColumnFamilyMetaData(family, &metadata);
  FamilyShape shape;
  shape.id = family->GetID();
  for (const auto& level : metadata.levels) {
    if (!level.files.empty()) {
      shape.levels.push_back({level.level, level.files.size(), level.size});
    }
  }
  shape.blob_files = metadata.blob_file_count;
  shape.blob_bytes = metadata.blob_file_size;
  return shape;
}

}  // namespace kvbatch
