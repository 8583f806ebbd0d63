#include "store/entry_iterator.h"

#include <rocksdb/advanced_cache.h>
#include <rocksdb/merge_operator.h>
#include <rocksdb/sst_file_writer.h>

#include "batch/wide_columns.h"
#include "store/block_memory.h"
#include "store/source_store.h"
#include "store_testing.h"

namespace kvbatch::testing {
namespace {

namespace fs = std::filesystem;

struct Read {
  Entries entries;
  bool began_in_tables = false;
  bool ended_in_tables = false;
};

class EntryIteratorTest : public ::testing::Test {
 protected:
  Read ReadAll(const RangeBounds& bounds = {}) {
    const auto store = OpenSource(path_);
    EntryIterator entries(*store, Must(store->Family("default")), bounds);
    Read read;
    read.began_in_tables = entries.reads_tables();
    for (; entries.Valid(); entries.Next()) {
      entries.Load();
      read.entries.emplace_back(entries.key(),
                                std::string(entries.is_entity() ? "entity:" : "") + std::string(entries.value()));
    }
    EXPECT_TRUE(entries.status().ok()) << entries.status().message();
    read.ended_in_tables = entries.reads_tables();
    return read;
  }

  // What RocksDB's own iterator shows of the same range.
  Entries Expected(const RangeBounds& bounds, const rocksdb::Comparator* comparator) {
    const auto store = OpenSource(path_);
    Entries inside;
    for (auto& [key, value] : AllEntries(store->db(), Must(store->Family("default")))) {
      if ((!bounds.start || comparator->Compare(key, *bounds.start) >= 0) &&
          (!bounds.after || comparator->Compare(key, *bounds.after) > 0) &&
          (!bounds.end || comparator->Compare(key, *bounds.end) < 0)) {
        inside.emplace_back(key, value);
      }
    }
    return inside;
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
};

// Whatever was done to a store and wherever a range begins and ends: the entries are RocksDB's own.
TEST_F(EntryIteratorTest, RandomStoresReadAsRocksdbReadsThem) {
  int in_tables = 0;
  constexpr int kRounds = 30;
  constexpr int kRanges = 12;
  for (int round = 0; round < kRounds; ++round) {
    Random random(static_cast<uint64_t>(round));
    const auto below = [&random](uint64_t bound) { return random() % bound; };
    fs::remove_all(path_);
    rocksdb::ColumnFamilyOptions options;
    options.target_file_size_base = 4 << 10;
    options.disable_auto_compactions = true;
    const bool reverse = below(4) == 0;
    options.comparator = reverse ? rocksdb::ReverseBytewiseComparator() : rocksdb::BytewiseComparator();
    options.merge_operator = AddingOperator();
    const bool merges = below(2) == 0;
    const bool range_deletions = below(6) == 0;
    const bool timed_puts = KVBATCH_TABLE_ITERATORS && below(3) == 0;
    options.preserve_internal_time_seconds = timed_puts ? 10'000 : 0;
    const uint64_t keys = 1 + below(600);
    {
      OwnedStore store(path_, {FamilyNamed("default", options)});
      const rocksdb::WriteOptions write;
      const rocksdb::Snapshot* snapshot = nullptr;
      const auto key = [&] { return Numbered("k", below(keys)); };
      for (uint64_t step = 0, steps = below(3000); step < steps; ++step) {
        const uint64_t what = below(1000);
        if (what < 700) {
          const std::string value = merges ? LittleEndian(step) : RandomBytes(random, below(60));
          if (timed_puts && below(2) == 0) {
            store.TimedPut(key(), value);
          } else {
            store.Put(key(), value);
          }
        } else if (what < 900) {
          Check(store->Delete(write, key()));
        } else if (what < 960 && merges) {
          Check(store->Merge(write, store.family(), key(), LittleEndian(step)));
        } else if (what < 970 && range_deletions) {
          auto first = key();
          auto second = key();
          if (options.comparator->Compare(first, second) > 0) {
            std::swap(first, second);
          }
          Check(store->DeleteRange(write, store.family(), first, second));
        } else if (what < 990) {
          store.Flush();
        } else if (what < 995) {
          Check(store->CompactRange({}, store.family(), nullptr, nullptr));
        } else if (snapshot == nullptr) {
          // Old versions stay in the files as long as somebody may ask for them.
          snapshot = store->GetSnapshot();
        }
      }
      if (below(4) > 0) {
        store.Flush();
      }
      if (below(2) > 0) {
        Check(store->CompactRange({}, store.family(), nullptr, nullptr));
      }
      if (snapshot != nullptr) {
        store->ReleaseSnapshot(snapshot);
      }
    }
    for (int range = 0; range < kRanges; ++range) {
      RangeBounds bounds;
      const auto bound = [&] {
        const std::string key = Numbered("k", below(keys + 1));
        return below(2) == 0 ? key : key + "x";
      };
      if (below(3) > 0) {
        bounds.start = bound();
      }
      if (below(3) == 0) {
        bounds.after = bound();
        // A cursor lies inside its range.
        if (bounds.start && options.comparator->Compare(*bounds.start, *bounds.after) > 0) {
          std::swap(*bounds.start, *bounds.after);
        }
      }
      if (below(3) > 0) {
        bounds.end = bound();
      }
      const Read read = ReadAll(bounds);
      ASSERT_EQ(read.entries, Expected(bounds, options.comparator)) << "round " << round << ", range " << range;
      in_tables += read.ended_in_tables ? 1 : 0;
    }
  }
  if (KVBATCH_TABLE_ITERATORS) {
    EXPECT_GT(in_tables, kRounds) << "the tables were hardly read";
    EXPECT_LT(in_tables, (kRanges - 1) * kRounds) << "RocksDB's iterator was hardly needed";
  }
}

TEST_F(EntryIteratorTest, EntitiesAreTakenFromTablesAsRocksdbGivesThem) {
  {
    OwnedStore store(path_);
    store.Put("a", "plain");
    store.PutEntity("b", {{"", "default"}, {"column", "value"}});
    store.PutEntity("c", {{"", "nothing but the default column"}});
    store.Flush();
  }
  const Read read = ReadAll();
  EXPECT_EQ(read.began_in_tables, KVBATCH_TABLE_ITERATORS);
  const auto store = OpenSource(path_);
  ASSERT_EQ(read.entries.size(), 3U);
  EXPECT_EQ(read.entries[0].second, "plain");
  std::string columns = "entity:";
  SerializeEntity({{"", "default"}, {"column", "value"}}, &columns);
  EXPECT_EQ(read.entries[1].second, columns);
  EXPECT_EQ(read.entries[2].second, "nothing but the default column");
}

TEST_F(EntryIteratorTest, ValuesInBlobFilesAreRead) {
  rocksdb::ColumnFamilyOptions options;
  options.enable_blob_files = true;
  options.min_blob_size = 50;
  const Entries entries = SomeEntries(300, 100);
  {
    OwnedStore store(path_, {FamilyNamed("default", options)});
    store.Put("a small one", "in the table");
    for (const auto& [key, value] : entries) {
      store.Put(key, value);
    }
    store.Flush();
  }
  const Read read = ReadAll();
  EXPECT_EQ(read.began_in_tables, KVBATCH_TABLE_ITERATORS);
  EXPECT_FALSE(read.ended_in_tables);
  EXPECT_EQ(read.entries, Expected({}, options.comparator));
  EXPECT_EQ(read.entries.size(), entries.size() + 1);
}

TEST_F(EntryIteratorTest, AMergeOperandIsLeftToRocksdb) {
  rocksdb::ColumnFamilyOptions options;
  options.merge_operator = AddingOperator();
  {
    OwnedStore store(path_, {FamilyNamed("default", options)});
    store.Put("a", LittleEndian(1));
    for (const uint64_t number : {3, 4}) {
      Check(store->Merge(rocksdb::WriteOptions(), store.family(), "b", LittleEndian(number)));
    }
    store.Put("c", LittleEndian(2));
    store.Flush();
  }
  const Read read = ReadAll();
  EXPECT_EQ(read.began_in_tables, KVBATCH_TABLE_ITERATORS);
  EXPECT_FALSE(read.ended_in_tables);
  EXPECT_EQ(read.entries, (Entries{{"a", LittleEndian(1)}, {"b", LittleEndian(7)}, {"c", LittleEndian(2)}}));
}

TEST_F(EntryIteratorTest, EntriesInMemtablesAreNotMissed) {
  {
    OwnedStore store(path_);
    store.Put("a", "old");
    store.Flush();
    store.Put("a", "new");
    store.Put("b", "only in the WAL");
  }
  const Read read = ReadAll();
  EXPECT_FALSE(read.began_in_tables);
  EXPECT_EQ(read.entries, (Entries{{"a", "new"}, {"b", "only in the WAL"}}));
}

// Who reads everything once has nothing of a cache, and takes the place of those who do.
TEST_F(EntryIteratorTest, WhatIsReadStaysInNoCache) {
  {
    OwnedStore store(path_);
    for (const char* value : {"old", "new"}) {
      for (int key = 0; key < 1000; ++key) {
        store.Put(std::to_string(key), value + std::string(100, 'x'));
      }
      store.Flush();
    }
  }
  // Any source's; it has no room otherwise.
  BlockMemoryCache()->SetCapacity(8 << 20);
  const Read read = ReadAll();
  EXPECT_FALSE(read.began_in_tables);
  EXPECT_EQ(read.entries.size(), 1000U);
  // What the cache itself takes; a block has 4 KiB.
  EXPECT_LT(BlockMemoryCache()->GetUsage(), 1024U);
  BlockMemoryCache()->SetCapacity(0);
}

// Many files that are merged have together what is read ahead of one.
TEST_F(EntryIteratorTest, ReadaheadIsDividedAmongTheFilesThatAreMerged) {
  EXPECT_EQ(ReadaheadOfEach(0), kReadaheadBytes);
  EXPECT_EQ(ReadaheadOfEach(1), kReadaheadBytes);
  for (size_t files = 2; files < 2000; ++files) {
    EXPECT_LE(files * ReadaheadOfEach(files), kReadaheadBytes);
    EXPECT_TRUE(ReadaheadOfEach(files) == 0 || ReadaheadOfEach(files) >= kLeastReadaheadBytes);
  }
  EXPECT_GT(ReadaheadOfEach(36), 0U);
  EXPECT_EQ(ReadaheadOfEach(100), 0U);
}

TEST_F(EntryIteratorTest, RangesBetweenAndBehindTheFilesAreEmpty) {
  {
    OwnedStore store(path_);
    store.Put("b", "1");
    store.Flush();
    store.Put("d", "2");
    store.Flush();
  }
  const auto range = [](const char* start, const char* end) {
    RangeBounds bounds;
    bounds.start = start;
    bounds.end = end;
    return bounds;
  };
  EXPECT_TRUE(ReadAll(range("a", "b")).entries.empty());
  EXPECT_TRUE(ReadAll(range("c", "d")).entries.empty());
  EXPECT_TRUE(ReadAll(range("e", "f")).entries.empty());
  EXPECT_EQ(ReadAll(range("b", "d")).entries, (Entries{{"b", "1"}}));
  EXPECT_EQ(ReadAll(range("c", "e")).entries, (Entries{{"d", "2"}}));
}

}  // namespace
}  // namespace kvbatch::testing
