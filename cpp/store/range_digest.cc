#include "store/range_digest.h"

#include <utility>

#include "batch/batch_builder.h"
#include "batch/wide_columns.h"
#include "store/rocksdb_status.h"

namespace kvbatch {

Result<std::vector<EntryRun>> DigestRange(const SourceStore& store, rocksdb::ColumnFamilyHandle* family,
                                          RangeBounds bounds, uint64_t run_entries) {
  EntryIterator entries(store, family, std::move(bounds));
  std::vector<EntryRun> runs;
  EntryRun run;
  std::string last_key;
  while (entries.Valid()) {
    entries.Load();
    run.digest += EntryDigest(entries.key(), entries.value(), entries.is_entity() ? 1 : 0);
    run.raw_bytes += entries.key().size() + entries.value().size();
    ++run.entries;
    const bool ends = run.entries == run_entries;
    if (ends) {
      run.last_key.assign(entries.key());
    }
    entries.Next();
    if (ends) {
      runs.push_back(std::exchange(run, EntryRun{}));
    }
  }
  if (Status status = entries.status(); !status.ok()) {
    return status;
  }
  if (run.entries > 0) {
    runs.push_back(std::move(run));
  }
  return runs;
}

Result<EntryListing> ListEntries(const SourceStore& store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                                 size_t max_key_bytes) {
  EntryIterator entries(store, family, std::move(bounds));
  EntryListing listing;
  size_t key_bytes = 0;
  for (; entries.Valid() && key_bytes < max_key_bytes; entries.Next()) {
    entries.Load();
    // An empty key takes room in a listing too.
    key_bytes += entries.key().size() + sizeof(Digest);
    listing.entries.emplace_back(entries.key(),
                                 EntryDigest(entries.key(), entries.value(), entries.is_entity() ? 1 : 0));
  }
  if (Status status = entries.status(); !status.ok()) {
    return status;
  }
  listing.complete = !entries.Valid();
  return listing;
}

Result<size_t> PackRepair(const SourceStore& store, rocksdb::ColumnFamilyHandle* family,
                          const std::vector<std::string>& keys, size_t first, uint32_t target_family, Frame* frame,
                          size_t batch_bytes, Codec codec) {
  if (batch_bytes < kBatchHeaderSize) {
    return Status(Code::kUsage, "a batch of " + std::to_string(batch_bytes) + " bytes has no room for its header");
  }
  if (Status status = frame->Reserve(batch_bytes, codec); !status.ok()) {
    return status;
  }
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  BatchBuilder builder(frame->raw(), batch_bytes);
  size_t packed = 0;
  std::string entity;
  for (size_t i = first; i < keys.size(); ++i, ++packed) {
    const std::string& key = keys[i];
    rocksdb::PinnableWideColumns columns;
    const auto found = store.db()->GetEntity(options, family, key, &columns);
    if (!found.ok() && !found.IsNotFound()) {
      return FromSource(found, "read the store");
    }
    bool fits;
    std::string_view value;
    if (found.IsNotFound()) {
      fits = builder.Delete(target_family, key);
    } else if (const auto& all = columns.columns(); all.size() == 1 && all.front().name().empty()) {
      value = View(all.front().value());
      fits = builder.Put(target_family, key, value);
    } else {
      std::vector<WideColumn> views;
      for (const auto& column : all) {
        views.emplace_back(View(column.name()), View(column.value()));
      }
      entity.clear();
      SerializeEntity(views, &entity);
      value = entity;
      fits = builder.PutEntity(target_family, key, entity);
    }
    if (fits) {
      continue;
    }
    if (packed > 0) {
      break;
    }
    return PackRepair(store, family, keys, first, target_family, frame,
                      BatchBuilder::SpaceFor(target_family, key, value), codec);
  }
  const std::string_view batch = builder.Finish();
  frame->SetRaw(batch.size(), builder.count());
  frame->Compress(codec);
  return packed;
}

}  // namespace kvbatch
