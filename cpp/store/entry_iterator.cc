#include "store/entry_iterator.h"

#include <memory>
#include <utility>
#include <vector>

#include "batch/wide_columns.h"
#include "store/rocksdb_status.h"
#include "store/source_store.h"
#include "store/store_description.h"

namespace kvbatch {

EntryIterator::EntryIterator(const SourceStore& store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                             bool read_ahead)
    : db_(store.db()), family_(family), bounds_(std::move(bounds)) {
  auto layout = store.Tables(family_);
  if (!layout.ok()) {
    opened_ = layout.status();
    return;
  }
  readahead_ = read_ahead ? ReadaheadOfEach(layout.value()->merged) : 0;
  auto files = DisjointTables(*layout.value(), family_->GetComparator(), bounds_);
  if (!files.empty()) {
    tables_ = std::make_unique<TableRun>(std::move(files),
                                         store.TableOptions(family_, read_ahead ? kReadaheadBytes : 0), bounds_);
    LeaveTablesIfNeeded();
    return;
  }
  OpenIterator();
}

void EntryIterator::OpenIterator() {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  options.fill_cache = false;
  options.total_order_seek = true;
  options.readahead_size = readahead_;
  if (bounds_.end) {
    upper_ = ToSlice(*bounds_.end);
    options.iterate_upper_bound = &upper_;
  }
  iterator_.reset(db_->NewIterator(options, family_));
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

void EntryIterator::LeaveTablesIfNeeded() {
  if (!tables_->needs_merging()) {
    return;
  }
  bounds_.start = std::string(tables_->key());
  bounds_.after.reset();
  tables_.reset();
  OpenIterator();
}

void EntryIterator::Next() {
  if (tables_) {
    tables_->Next();
    if (!tables_->Valid()) {
      LeaveTablesIfNeeded();
    }
    return;
  }
  iterator_->Next();
}

void EntryIterator::Load() {
  if (tables_) {
    key_ = tables_->key();
    value_ = tables_->value();
    is_entity_ = tables_->is_entity();
    return;
  }
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

Status EntryIterator::status() const {
  if (tables_) {
    return tables_->status();
  }
  return iterator_ ? FromSource(iterator_->status(), "read the store") : opened_;
}

}  // namespace kvbatch
