// ElementTypes: of which type the elements in a Kvrocks directory are. Their own entries do not say it, the metadata of
// the key that they belong to does.
#pragma once

#include <rocksdb/iterator.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "store/block_memory.h"
#include "store/source_store.h"

namespace kvbatch {

// For one thread. Elements are asked for in the order of their keys: keys of one length then come in the order of their
// metadata, so that mostly the next one is what is looked for.
class ElementTypes {
 public:
  // `metadata` is the store's column family of that name; `slot_encoded`: keys have a slot behind their namespace.
  ElementTypes(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* metadata, bool slot_encoded);

  // The log record that Kvrocks writes before such an element: a number, of lists with that of the command. `0`, which
  // is no type, for garbage, for a key that is malformed, and where the metadata stands beside a large entry, which is
  // not read for this. kSource when the store cannot be read.
  Result<std::string_view> LogOf(std::string_view subkey);

 private:
  Result<std::string_view> Find(std::string_view version);
  // Moves to the metadata of wanted_, or behind where it would be.
  void Seek();

  const std::shared_ptr<SourceStore> store_;
  rocksdb::ColumnFamilyHandle* const family_;
  const size_t slot_bytes_;
  BlockMemory blocks_;
  std::unique_ptr<rocksdb::Iterator> metadata_;
  std::string last_prefix_;  // of the element before, its version included
  std::string_view last_log_;
  std::string wanted_;
};

}  // namespace kvbatch
