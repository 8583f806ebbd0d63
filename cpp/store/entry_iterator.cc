#include "store/entry_iterator.h"

#include <utility>
#include <vector>

#include "batch/wide_columns.h"
#include "store/rocksdb_status.h"

namespace kvbatch {

namespace {

constexpr size_t kReadahead = 1 << 20;

}  // namespace

EntryIterator::EntryIterator(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds)
    : bounds_(std::move(bounds)) {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  options.fill_cache = false;
  options.total_order_seek = true;
  options.readahead_size = kReadahead;
  if (bounds_.end) {
    upper_ = ToSlice(*bounds_.end);
    options.iterate_upper_bound = &upper_;
  }
  iterator_.reset(db->NewIterator(options, family));
  if (bounds_.after) {
    iterator_->Seek(ToSlice(*bounds_.after));
    if (iterator_->Valid() && View(iterator_->key()) == *bounds_.after) {
      iterator_->Next();
    }
  } else if (bounds_.start) {
    iterator_->Seek(ToSlice(*bounds_.start));
  } else {
    iterator_->SeekToFirst();
  }
}

void EntryIterator::Load() {
  key_ = View(iterator_->key());
  const rocksdb::WideColumns& columns = iterator_->columns();
  is_entity_ = columns.size() != 1 || !columns.front().name().empty();
  if (!is_entity_) {
    value_ = View(columns.front().value());
    return;
  }
  std::vector<WideColumn> views;
  views.reserve(columns.size());
  for (const auto& column : columns) {
    views.emplace_back(View(column.name()), View(column.value()));
  }
  entity_.clear();
  SerializeEntity(views, &entity_);
  value_ = entity_;
}

Status EntryIterator::status() const { return FromSource(iterator_->status(), "read the source"); }

}  // namespace kvbatch
