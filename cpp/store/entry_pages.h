// EntryPages: the entries of a range, a page a call, as arrays for whoever looks at many at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "store/entry_iterator.h"
#include "store/source_store.h"

namespace kvbatch {

// The keys of n entries, and of their values as much as was asked for.
struct EntryPage {
  std::string keys;                  // one behind the other
  std::vector<int64_t> key_offsets;  // n + 1: where each begins in `keys`, and where the last ends
  std::vector<int64_t> value_sizes;  // n
  std::string value_heads;           // n times the size of a head; zeros behind a value that is shorter

  size_t entries() const { return value_sizes.size(); }
};

// Bounds a page: it ends with the entry that reaches one of them.
struct PageSize {
  size_t entries = size_t{1} << 16;
  size_t key_bytes = size_t{8} << 20;
};

// Not thread-safe.
class EntryPages {
 public:
  // `head_bytes`: how much of the beginning of each value is wanted.
  EntryPages(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
             size_t head_bytes, PageSize page_size = {});

  // The next page; nothing at the end of the range. kSource with the file at fault.
  Result<std::optional<EntryPage>> Next();

  size_t head_bytes() const { return head_bytes_; }

 private:
  const std::shared_ptr<SourceStore> store_;
  const size_t head_bytes_;
  const PageSize page_size_;
  EntryIterator entries_;
};

// Where two parts of a key stand in a page's `keys`.
struct KeyParts {
  int64_t first_begin;
  int64_t first_end;
  int64_t second_begin;
  int64_t second_end;
};

// The xxh3-128 of each key's two parts, one behind the other, as two columns: low and high. kUsage for parts that are
// not in `keys`.
struct DigestColumns {
  std::vector<uint64_t> low;
  std::vector<uint64_t> high;
};
Result<DigestColumns> DigestKeyParts(std::string_view keys, std::span<const KeyParts> parts);

}  // namespace kvbatch
