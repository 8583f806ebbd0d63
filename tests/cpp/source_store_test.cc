#include "store/source_store.h"

#include <rocksdb/table.h>
#include <rocksdb/version.h>

#include <filesystem>
#include <fstream>

#include "store/entry_iterator.h"
#include "store_testing.h"

namespace kvbatch::testing {
namespace {

namespace fs = std::filesystem;

class CustomOperator final : public rocksdb::AssociativeMergeOperator {
 public:
  const char* Name() const override { return "example.CustomOperator"; }
  bool Merge(const rocksdb::Slice&, const rocksdb::Slice*, const rocksdb::Slice& value, std::string* result,
             rocksdb::Logger*) const override {
    *result = value.ToString();
    return true;
  }
};

rocksdb::ColumnFamilyOptions WithMerge(std::shared_ptr<rocksdb::MergeOperator> merge_operator) {
  rocksdb::ColumnFamilyOptions options;
  options.merge_operator = std::move(merge_operator);
  return options;
}

void Merge(const OwnedStore& store, const std::string& key, const std::string& operand,
           const std::string& name = "default") {
  Check(store->Merge(rocksdb::WriteOptions(), store.family(name), key, operand));
}

class SourceStoreTest : public ::testing::Test {
 protected:
  Entries Read(const SourceStore& store, const std::string& name = "default") const {
    return AllEntries(store.db(), Must(store.Family(name)));
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
};

TEST_F(SourceStoreTest, OpeningAndReadingLeavesNoTrace) {
  rocksdb::ColumnFamilyOptions blobs;
  blobs.enable_blob_files = true;
  {
    OwnedStore store(path_, {FamilyNamed("other"), FamilyNamed("blobs", blobs)});
    for (const auto& [key, value] : SomeEntries(200)) {
      store.Put(key, value);
      store.Put(key, value, "other");
      store.Put(key, value, "blobs");
    }
    store.Flush();
    store.Flush("blobs");
    for (const auto& [key, value] : SomeEntries(200, 20, 200)) {
      store.Put(key, value);
    }
  }
  const auto before = TraceOf(path_);
  {
    const auto store = OpenSource(path_);
    for (const char* name : {"default", "other", "blobs"}) {
      EXPECT_FALSE(Read(*store, name).empty());
      EXPECT_THAT(store->Figures(name), IsOk());
      EXPECT_THAT(store->FirstAndLastKey(name), IsOk());
      EXPECT_THAT(store->ApproximateSizes(name, "", {"key000100"}), IsOk());
    }
    EXPECT_EQ(TraceOf(path_), before) << "while open";
  }
  EXPECT_EQ(TraceOf(path_), before) << "after closing";
}

TEST_F(SourceStoreTest, ADirectoryThatMayNotBeWrittenIsRead) {
  OwnedStore(path_).Put("key", "value");
  fs::permissions(path_, fs::perms::owner_read | fs::perms::owner_exec);
  fs::permissions(path_ + "/LOCK", fs::perms::owner_read);
  EXPECT_EQ(Read(*OpenSource(path_)), (Entries{{"key", "value"}}));
  fs::permissions(path_, fs::perms::owner_all);
}

TEST_F(SourceStoreTest, DataOnlyInTheWalIsThere) {
  {
    OwnedStore store(path_, {FamilyNamed("other")});
    store.Put("a", "1");
    store.Put("b", "2", "other");
  }
  const auto store = OpenSource(path_);
  EXPECT_EQ(Read(*store), (Entries{{"a", "1"}}));
  EXPECT_EQ(Read(*store, "other"), (Entries{{"b", "2"}}));
  EXPECT_EQ(store->LatestSequence(), 2U);
}

TEST_F(SourceStoreTest, AWalThatIsDamagedInItsMiddleIsASourceError) {
  {
    OwnedStore store(path_);
    for (const auto& [key, value] : SomeEntries(5000)) {
      store.Put(key, value);
    }
  }
  const auto logs = FilesEndingWith(path_, ".log");
  ASSERT_EQ(logs.size(), 1U);
  std::fstream log(logs[0], std::ios::in | std::ios::out | std::ios::binary);
  log.seekp(100'000);
  log << "garbage";
  log.close();
  const auto store = SourceStore::Open(path_, {});
  EXPECT_THAT(store, Fails(Code::kSource));
  if (store.ok()) {
    EXPECT_EQ(Read(*store.value()).size(), 5000U) << "entries are missing and nothing says so";
  }
}

// A writer that was killed in the middle of a write leaves this; nobody was told that the write was done.
TEST_F(SourceStoreTest, AWalThatIsCutInItsLastRecordOpens) {
  {
    OwnedStore store(path_);
    for (const auto& [key, value] : SomeEntries(1000)) {
      store.Put(key, value);
    }
  }
  const auto logs = FilesEndingWith(path_, ".log");
  ASSERT_EQ(logs.size(), 1U);
  for (const uintmax_t cut : {3, 10, 30}) {
    fs::resize_file(logs[0], fs::file_size(logs[0]) - cut);
    EXPECT_EQ(Read(*OpenSource(path_)).size(), 999U);
  }
}

// What RocksDB replays is in memory: where that is too much the store is not opened, and what it says is enough.
TEST_F(SourceStoreTest, AWalThatTakesTooMuchMemoryIsRefusedWithWhatWouldDo) {
  {
    OwnedStore store(path_, {FamilyNamed("flushed")});
    for (int i = 0; i < 8000; ++i) {
      store.Put("key" + std::to_string(i), std::string(1000, 'v'));
      store.Put("key" + std::to_string(i), std::string(1000, 'v'), "flushed");
    }
    // Its part of the WAL stands in a file, and counts no more.
    Check(store->Flush(rocksdb::FlushOptions(), store.family("flushed")));
  }
  constexpr uint64_t kMiB = 1 << 20;
  const auto refused = SourceStore::Open(path_, {}, {6 * kMiB, 2 * kMiB});
  EXPECT_THAT(refused, Fails(Code::kUsage, "its WAL was not flushed"));
  const std::string message = refused.status().message();
  const std::string before = "give --max-memory ";
  const uint64_t enough = std::stoull(message.substr(message.find(before) + before.size()));
  EXPECT_GE(enough, 10U);
  EXPECT_LE(enough, 14U);
  const auto opened = SourceStore::Open(path_, {}, {enough * kMiB, 2 * kMiB});
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ(Read(*opened.value()).size(), 8000U);
  EXPECT_GE(opened.value()->memtable_bytes(), 8000000U);
  EXPECT_LE(opened.value()->memtable_bytes(), (enough - 2) * kMiB);
  EXPECT_TRUE(SourceStore::Open(path_, {}).ok());
}

TEST_F(SourceStoreTest, AKeyThatIsTooLargeForTheMemoryIsRefused) {
  constexpr uint64_t kMiB = 1 << 20;
  {
    OwnedStore store(path_);
    store.Put(std::string(3 * kMiB, 'k'), "v");
    store.Flush();
  }
  EXPECT_THAT(SourceStore::Open(path_, {}, {64 * kMiB, 0}), Fails(Code::kRefused, "a key of 3 MiB"));
  EXPECT_TRUE(SourceStore::Open(path_, {}, {193 * kMiB, 0}).ok());
  EXPECT_TRUE(SourceStore::Open(path_, {}).ok());
}

// Its owner keeps the WAL elsewhere: without it the newest entries would be missing, and nothing would say so.
TEST_F(SourceStoreTest, AWalInAnotherDirectoryIsReadOrRefused) {
  rocksdb::DBOptions options;
  options.wal_dir = directory_ / "wal";
  {
    OwnedStore store(path_, {}, options);
    store.Put("a", "in a file");
    store.Flush();
    store.Put("b", "in the WAL");
  }
  const auto store = SourceStore::Open(path_, {});
  if (store.ok()) {
    EXPECT_EQ(Read(*store.value()), (Entries{{"a", "in a file"}, {"b", "in the WAL"}}));
  } else {
    EXPECT_THAT(store, Fails(Code::kRefused));
  }
}

TEST_F(SourceStoreTest, FilesInAnotherDirectoryAreReadOrAnError) {
  rocksdb::DBOptions options;
  options.db_paths = {{directory_ / "files", uint64_t{1} << 40}};
  {
    OwnedStore store(path_, {}, options);
    store.Put("k", "v");
    store.Flush();
  }
  const auto store = SourceStore::Open(path_, {});
  if (store.ok()) {
    EXPECT_EQ(Read(*store.value()), (Entries{{"k", "v"}}));
  } else {
    EXPECT_THAT(store, ::testing::AnyOf(Fails(Code::kSource), Fails(Code::kRefused)));
  }
}

TEST_F(SourceStoreTest, UnknownFamiliesAreNamedWithTheKnownOnes) {
  {
    const OwnedStore store(path_, {FamilyNamed("other")});
  }
  EXPECT_THAT(SourceStore::Open(path_, {"othr"}),
              Fails(Code::kUsage, "no column family \"othr\"; it has \"default\", \"other\""));
  EXPECT_THAT(OpenSource(path_)->Family("othr"), Fails(Code::kUsage, "no column family \"othr\""));
  EXPECT_THAT(OpenSource(path_)->Figures("othr"), Fails(Code::kUsage));
  EXPECT_THAT(OpenSource(path_)->FirstAndLastKey("othr"), Fails(Code::kUsage));
  EXPECT_THAT(OpenSource(path_)->Seek("othr", ""), Fails(Code::kUsage));
  EXPECT_THAT(OpenSource(path_)->ApproximateSizes("othr", "", {}), Fails(Code::kUsage));
}

TEST_F(SourceStoreTest, OpensOnlyTheFamiliesAskedFor) {
  {
    OwnedStore(path_, {FamilyNamed("one"), FamilyNamed("two")}).Put("k", "v", "two");
  }
  const auto store = OpenSource(path_, {"two"});
  ASSERT_EQ(store->families().size(), 1U);
  EXPECT_EQ(store->families()[0].name, "two");
  EXPECT_EQ(Read(*store, "two"), (Entries{{"k", "v"}}));
  EXPECT_THAT(store->Family("one"), Fails(Code::kUsage));
}

TEST_F(SourceStoreTest, WhatIsNoStoreIsRefused) {
  EXPECT_THAT(SourceStore::Open(path_, {}), Fails(Code::kUsage, "does not exist"));
}

TEST_F(SourceStoreTest, ADamagedFileIsNamed) {
  {
    OwnedStore store(path_);
    for (const auto& [key, value] : SomeEntries(2000)) {
      store.Put(key, value);
    }
    store.Flush();
  }
  const auto files = FilesEndingWith(path_, ".sst");
  ASSERT_EQ(files.size(), 1U);
  std::fstream file(files[0], std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(20'000);
  file << "garbage";
  file.close();
  const auto store = OpenSource(path_);
  EntryIterator entries(*store, Must(store->Family("default")), {});
  while (entries.Valid()) {
    entries.Load();
    entries.Next();
  }
  EXPECT_THAT(entries.status(), Fails(Code::kSource, fs::path(files[0]).filename().string()));
}

TEST_F(SourceStoreTest, AMissingFileIsASourceError) {
  {
    OwnedStore store(path_);
    store.Put("k", "v");
    store.Flush();
  }
  const auto files = FilesEndingWith(path_, ".sst");
  ASSERT_EQ(files.size(), 1U);
  fs::remove(files[0]);
  // Older versions look for it once more under the extension it had in LevelDB, and name that.
  EXPECT_THAT(SourceStore::Open(path_, {}), Fails(Code::kSource, fs::path(files[0]).stem().string() + "."));
}

TEST_F(SourceStoreTest, UserTimestampsAreRefused) {
#if ROCKSDB_MAJOR < 8
  GTEST_SKIP() << "RocksDB " << ROCKSDB_MAJOR << " has no comparator with timestamps of its own";
#else
  rocksdb::ColumnFamilyOptions options;
  options.comparator = rocksdb::BytewiseComparatorWithU64Ts();
  {
    const OwnedStore store(path_, {FamilyNamed("timed", options)});
  }
  EXPECT_THAT(SourceStore::Open(path_, {}), Fails(Code::kRefused, "\"timed\" has user-defined timestamps"));
  EXPECT_THAT(SourceStore::Open(path_, {"default"}), IsOk()) << "the other family can be moved";
#endif
}

TEST_F(SourceStoreTest, AComparatorThatItsOptionsDoNotTellIsRefused) {
  rocksdb::ColumnFamilyOptions options;
  options.comparator = rocksdb::ReverseBytewiseComparator();
  {
    OwnedStore(path_, {FamilyNamed("default", options)}).Put("k", "v");
  }
  for (const auto& entry : fs::directory_iterator(path_)) {
    if (entry.path().filename().string().starts_with("OPTIONS-")) {
      fs::remove(entry.path());
    }
  }
  EXPECT_THAT(SourceStore::Open(path_, {}), Fails(Code::kRefused, "omparator"));
}

TEST_F(SourceStoreTest, MergeOperandsOfAKnownOperatorAreMerged) {
  {
    OwnedStore store(path_, {FamilyNamed("default", WithMerge(AddingOperator()))});
    store.Put("sum", LittleEndian(1));
    Merge(store, "sum", LittleEndian(2));
    store.Flush();
    Merge(store, "sum", LittleEndian(4));
    Merge(store, "only in the WAL", LittleEndian(8));
  }
  EXPECT_EQ(Read(*OpenSource(path_)), (Entries{{"only in the WAL", LittleEndian(8)}, {"sum", LittleEndian(7)}}));
}

TEST_F(SourceStoreTest, MergeOperandsOfAnUnknownOperatorInFilesAreRefused) {
  {
    OwnedStore store(path_, {FamilyNamed("counters", WithMerge(std::make_shared<CustomOperator>()))});
    Merge(store, "k", "operand", "counters");
    const rocksdb::Snapshot* snapshot = store->GetSnapshot();
    Merge(store, "k", "another", "counters");
    store.Flush("counters");
    store->ReleaseSnapshot(snapshot);
  }
  EXPECT_THAT(SourceStore::Open(path_, {}),
              Fails(Code::kRefused, "\"counters\" holds merge operands and its merge operator example.CustomOperator"));
  EXPECT_THAT(SourceStore::Open(path_, {"default"}), IsOk()) << "the other family can be moved";
}

TEST_F(SourceStoreTest, MergeOperandsOfAnUnknownOperatorInTheWalAreRefused) {
  {
    OwnedStore store(path_, {FamilyNamed("counters", WithMerge(std::make_shared<CustomOperator>()))});
    Merge(store, "k", "operand", "counters");
  }
  EXPECT_THAT(SourceStore::Open(path_, {}), Fails(Code::kRefused, "\"counters\" holds merge operands"));
  EXPECT_THAT(SourceStore::Open(path_, {"default"}), IsOk()) << "the other family can be moved";
}

// The replay of the WAL ends at an operand without its operator; what stands behind it must not be left out silently.
TEST_F(SourceStoreTest, WritesBehindAnUnknownMergeInTheWalAreNotLost) {
  {
    OwnedStore store(path_, {FamilyNamed("counters", WithMerge(std::make_shared<CustomOperator>()))});
    store.Put("before", "1");
    Merge(store, "k", "operand", "counters");
    store.Put("behind", "2");
  }
  const Entries all{{"before", "1"}, {"behind", "2"}};
  EXPECT_EQ(Read(*OpenSource(path_, {"default"})), all);
  const auto store = SourceStore::Open(path_, {});
  if (store.ok()) {
    EXPECT_EQ(Read(*store.value()), all);
  } else {
    EXPECT_THAT(store, Fails(Code::kRefused));
  }
}

TEST_F(SourceStoreTest, AnUnknownOperatorWithoutOperandsIsFine) {
  OwnedStore(path_, {FamilyNamed("default", WithMerge(std::make_shared<CustomOperator>()))}).Put("k", "v");
  EXPECT_EQ(Read(*OpenSource(path_)), (Entries{{"k", "v"}}));
}

TEST_F(SourceStoreTest, FiguresCountFilesAndMemtables) {
  {
    OwnedStore store(path_, {FamilyNamed("empty")});
    for (const auto& [key, value] : SomeEntries(1000, 50)) {
      store.Put(key, value);
    }
    store.Flush();
    for (const auto& [key, value] : SomeEntries(10, 50, 1000)) {
      store.Put(key, value);
    }
  }
  const auto store = OpenSource(path_);
  const auto figures = Must(store->Figures("default"));
  EXPECT_EQ(figures.files, 1U);
  EXPECT_EQ(figures.memtable_entries, 10U);
  EXPECT_EQ(figures.entries, 1010U);
  EXPECT_EQ(figures.merge_operands, 0U);
  EXPECT_GE(figures.raw_bytes, 1000U * (9 + 50));
  EXPECT_GT(figures.file_bytes, 50'000U);
  const auto none = Must(store->Figures("empty"));
  EXPECT_EQ(none.entries, 0U);
  EXPECT_EQ(none.files, 0U);
  EXPECT_EQ(none.raw_bytes, 0U);
}

TEST_F(SourceStoreTest, FiguresSeeDeletionsAndBlobFiles) {
  rocksdb::ColumnFamilyOptions blobs;
  blobs.enable_blob_files = true;
  {
    OwnedStore store(path_, {FamilyNamed("default", blobs)});
    for (const auto& [key, value] : SomeEntries(100, 1000)) {
      store.Put(key, value);
    }
    store.Flush();
    for (const auto& [key, value] : SomeEntries(30)) {
      Check(store->Delete(rocksdb::WriteOptions(), key));
    }
    store.Flush();
  }
  const auto figures = Must(OpenSource(path_)->Figures("default"));
  EXPECT_EQ(figures.files, 2U);
  EXPECT_NEAR(static_cast<double>(figures.entries), 70, 30);
  EXPECT_GE(figures.raw_bytes, 100'000U);
  EXPECT_GE(figures.file_bytes, 100'000U);
}

TEST_F(SourceStoreTest, FirstAndLastKeyFollowTheComparator) {
  rocksdb::ColumnFamilyOptions reverse;
  reverse.comparator = rocksdb::ReverseBytewiseComparator();
  {
    OwnedStore store(path_, {FamilyNamed("reverse", reverse), FamilyNamed("empty")});
    for (const char* key : {"a", "m", "z", ""}) {
      store.Put(key, "v");
      store.Put(key, "v", "reverse");
    }
  }
  const auto store = OpenSource(path_);
  EXPECT_EQ(Must(store->FirstAndLastKey("default")), (std::pair<std::string, std::string>("", "z")));
  EXPECT_EQ(Must(store->FirstAndLastKey("reverse")), (std::pair<std::string, std::string>("z", "")));
  EXPECT_EQ(Must(store->FirstAndLastKey("empty")), std::nullopt);
  EXPECT_EQ(Must(store->Seek("default", "b")), "m");
  EXPECT_EQ(Must(store->Seek("default", "m")), "m");
  EXPECT_EQ(Must(store->Seek("reverse", "n")), "m");
  EXPECT_EQ(Must(store->Seek("default", "zz")), std::nullopt);
  EXPECT_EQ(Must(store->Seek("empty", "")), std::nullopt);
}

TEST_F(SourceStoreTest, ApproximateSizesGrow) {
  {
    OwnedStore store(path_);
    for (const auto& [key, value] : SomeEntries(20'000, 100)) {
      store.Put(key, value);
    }
    store.Flush();
  }
  const auto store = OpenSource(path_);
  const auto sizes = Must(store->ApproximateSizes("default", "", {"key005000", "key010000", "key020000", "key999999"}));
  ASSERT_EQ(sizes.size(), 4U);
  EXPECT_LT(sizes[0], sizes[1]);
  EXPECT_LT(sizes[1], sizes[2]);
  EXPECT_EQ(sizes[2], sizes[3]);
  EXPECT_NEAR(static_cast<double>(sizes[1]) / static_cast<double>(sizes[3]), 0.5, 0.1);
  EXPECT_THAT(Must(store->ApproximateSizes("default", "", {})), ::testing::IsEmpty());
  EXPECT_THAT(Must(store->ApproximateSizes("default", "key005000", {"key000000", "", "key005000"})),
              ::testing::Each(::testing::Lt(sizes[0] / 10)));
}

TEST_F(SourceStoreTest, MoreLevelsThanTheDefaultOpen) {
  rocksdb::ColumnFamilyOptions options;
  options.num_levels = 9;
  {
    OwnedStore store(path_, {FamilyNamed("default", options)});
    store.Put("k", "v");
    rocksdb::CompactRangeOptions compact;
    compact.change_level = true;
    compact.target_level = 8;
    Check(store->CompactRange(compact, nullptr, nullptr));
  }
  EXPECT_EQ(Read(*OpenSource(path_)), (Entries{{"k", "v"}}));
}

}  // namespace
}  // namespace kvbatch::testing
