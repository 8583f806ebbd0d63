// SstBuilder: the entries of a range as SST files for a target, built in memory one after the other.
#pragma once

#include <rocksdb/sst_file_writer.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"
#include "batch/wide_columns.h"
#include "store/entry_iterator.h"
#include "store/source_store.h"
#include "store/store_description.h"

namespace kvbatch {

// Of the file that is being built, or was last.
struct BuiltFile {
  bool whole = false;       // the file stands in fd(); or there is none, when `entries` is 0: the range was at its end
  bool ends_range = false;  // behind it the range has nothing more
  uint64_t entries = 0;
  uint64_t raw_bytes = 0;   // keys and values
  uint64_t file_bytes = 0;  // once it is whole
  std::string last_key;     // once it is whole
};

// Not thread-safe. Holds the store.
class SstBuilder {
 public:
  // Files for `target`, the family as the target describes it, of about `file_bytes` each: a file ends with the entry
  // that fills it. kUsage or kRefused when the target's traits are none that this build can write; kNoSpace when there
  // is no memory to be had.
  static Result<std::unique_ptr<SstBuilder>> Create(std::shared_ptr<SourceStore> store,
                                                    rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                                                    const ColumnFamilyDescription& target, uint64_t file_bytes);
  ~SstBuilder();

  SstBuilder(const SstBuilder&) = delete;
  SstBuilder& operator=(const SstBuilder&) = delete;

  // Adds at least `step_bytes` of keys and values to the file, unless the file or the range ends before. Behind a whole
  // file it gives that one's memory back and begins the next. kSource names the damaged file when the source cannot be
  // read; kNoSpace when the memory does not suffice. After an error there is nothing more to be had.
  Result<BuiltFile> Build(uint64_t step_bytes);

  // Holds the whole file, from its first byte, until the next Build. The builder owns it. Pages that are still on their
  // way out of a socket stay as they are whatever follows.
  int fd() const { return memory_.get(); }

 private:
  SstBuilder(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
             const ColumnFamilyDescription& target, uint64_t file_bytes, UniqueFd memory);
  Status Step(uint64_t step_bytes);
  Status Open();
  Status Finish();

  std::shared_ptr<SourceStore> store_;
  EntryIterator entries_;
  const uint64_t file_bytes_;
  UniqueFd memory_;
  rocksdb::SstFileWriter writer_;
  bool open_ = false;
  BuiltFile file_;
  std::vector<WideColumn> scratch_;
  Status failed_;
};

}  // namespace kvbatch
