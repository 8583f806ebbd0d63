#include "store/range_applier.h"

#include <rocksdb/metadata.h>
#include <rocksdb/version.h>

#include <algorithm>
#include <thread>

#include "batch/wide_columns.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

constexpr uint32_t kRange = 3;

class RangeApplierTest : public ::testing::Test {
 protected:
  const TempDir directory_;
  const std::string path_ = directory_ / "store";
  const std::string copy_ = directory_ / "copy";
};

class RangeApplierModeTest : public RangeApplierTest, public ::testing::WithParamInterface<ApplyMode> {};

INSTANTIATE_TEST_SUITE_P(Modes, RangeApplierModeTest, ::testing::Values(ApplyMode::kIngest, ApplyMode::kWrite),
                         [](const auto& mode) { return mode.param == ApplyMode::kIngest ? "Ingest" : "Write"; });

size_t FilesOf(const OwnedStore& store, const std::string& family) {
  rocksdb::ColumnFamilyMetaData data;
  store->GetColumnFamilyMetaData(store.family(family), &data);
  return data.file_count;
}

TEST_F(RangeApplierTest, IngestMakesSeveralFilesThatOldReadersOpen) {
  const auto store = OpenTarget(path_, 200'000);
  const Entries entries = SomeEntries(5000, 200);
  const auto applier = ApplierFor(store, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_THAT(ApplyInBatches(applier.get(), entries, 100), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_EQ(FinishedEntries(store), entries);

  const OwnedStore owner(path_);
  const size_t files = FilesOf(owner, "default");
  // A good megabyte in files of three quarters of 200 kB.
  EXPECT_GE(files, 6U);
  EXPECT_LE(files, 9U);
  for (const auto& file : FilesEndingWith(path_, ".sst")) {
    EXPECT_EQ(FormatVersionOf(file), 5U) << file;
  }
}

TEST_F(RangeApplierTest, IngestLeavesSortedFilesInTheLastLevelAndNothingInMemtables) {
  const auto store = OpenTarget(path_, 100'000);
  const Entries entries = SomeEntries(2000, 200);
  const auto applier = ApplierFor(store, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_THAT(ApplyInBatches(applier.get(), entries, 100), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  ASSERT_THAT(store->DropRecords(), IsOk());
  ASSERT_THAT(store->Close(), IsOk());
  const OwnedStore owner(path_);
  rocksdb::ColumnFamilyMetaData data;
  owner->GetColumnFamilyMetaData(owner.family(), &data);
  EXPECT_EQ(data.levels.back().files.size(), data.file_count);
  std::string active;
  ASSERT_TRUE(owner->GetProperty("rocksdb.num-entries-active-mem-table", &active));
  EXPECT_EQ(active, "0");
}

// After each frame the directory is copied, as a kill would leave it.
TEST_P(RangeApplierModeTest, ADurableCursorIsNeverAheadOfTheStore) {
  const auto store = OpenTarget(path_, 60'000);
  const auto applier = ApplierFor(store, GetParam(), RangeOf(kRange));
  const Entries entries = SomeEntries(300, 1000);
  uint64_t durable = 0;
  size_t told = 0;
  for (size_t applied = 0; applied <= entries.size(); applied += 50) {
    if (applied == entries.size()) {
      ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
    } else {
      ASSERT_THAT(ApplyEntries(applier.get(), Suffix(Prefix(entries, applied + 50), applied)), IsOk());
      ASSERT_THAT(applier->Drain(), IsOk());
    }
    if (const auto cursor = applier->TakeDurable()) {
      EXPECT_GE(cursor->entries, durable);
      EXPECT_EQ(cursor->range, kRange);
      EXPECT_EQ(cursor->last_key, entries[cursor->entries - 1].first);
      EXPECT_EQ(cursor->complete, applied == entries.size());
      durable = cursor->entries;
      ++told;
    }
    EXPECT_EQ(applier->TakeDurable(), std::nullopt) << "told twice";
    CopyDirectory(path_, copy_);
    const auto found = OpenTarget(copy_);
    const auto cursors = Must(found->Cursors());
    const uint64_t stored = cursors.empty() ? 0 : cursors[0].entries;
    EXPECT_GE(stored, durable);
    EXPECT_EQ(FinishedEntries(found), Prefix(entries, stored));
  }
  EXPECT_EQ(durable, entries.size());
  EXPECT_GE(told, 3U);
}

TEST_P(RangeApplierModeTest, AnEmptyRangeFinishes) {
  const auto store = OpenTarget(path_);
  const auto applier = ApplierFor(store, GetParam(), RangeOf(kRange));
  ASSERT_THAT(applier->Flush(), IsOk()) << "nothing to flush";
  EXPECT_EQ(applier->TakeDurable(), std::nullopt);
  Frame frame = FrameOfBatch(BatchOf({}));
  ASSERT_THAT(applier->Apply(&frame), IsOk());
  ASSERT_THAT(applier->Finish(0, 0, Digest()), IsOk());
  ASSERT_THAT(applier->Drain(), IsOk());
  const auto cursor = applier->TakeDurable();
  ASSERT_TRUE(cursor);
  EXPECT_TRUE(cursor->complete);
  EXPECT_EQ(Must(store->Cursors()), std::vector<Cursor>{*cursor});
  EXPECT_EQ(FinishedEntries(store), Entries());
}

TEST_P(RangeApplierModeTest, TheCursorCountsWhatASenderCounts) {
  const auto store = OpenTarget(path_);
  const auto applier = ApplierFor(store, GetParam(), RangeOf(kRange));
  const Entries first = {{"", "v"}, {"a", ""}};
  const Entries second = {{"b", "12345"}};
  ASSERT_THAT(ApplyEntries(applier.get(), first), IsOk());
  ASSERT_THAT(ApplyEntries(applier.get(), second), IsOk());
  EXPECT_EQ(applier->applied().entries, 3U);
  EXPECT_EQ(applier->applied().raw_bytes, 8U);
  EXPECT_EQ(applier->applied().last_key, "b");
  EXPECT_EQ(applier->applied().digest, ChainDigest(ChainDigest(Digest(), BatchOf(first)), BatchOf(second)));
}

TEST_P(RangeApplierModeTest, FinishRefusesTotalsThatAreNotTheSenders) {
  const auto store = OpenTarget(path_);
  const Entries entries = SomeEntries(10);
  for (const int wrong : {0, 1, 2}) {
    const auto applier = ApplierFor(store, GetParam(), RangeOf(static_cast<uint32_t>(wrong), 0));
    ASSERT_THAT(ApplyEntries(applier.get(), entries), IsOk());
    Cursor totals = applier->applied();
    totals.entries += wrong == 0 ? 1 : 0;
    totals.raw_bytes -= wrong == 1 ? 1 : 0;
    totals.digest.low ^= wrong == 2 ? 1 : 0;
    EXPECT_THAT(applier->Finish(totals.entries, totals.raw_bytes, totals.digest),
                Fails(Code::kCorruption, "range " + std::to_string(wrong)));
    (void)applier->Flush();
    (void)applier->Drain();
    EXPECT_FALSE(applier->applied().complete);
    if (const auto cursor = applier->TakeDurable()) {
      EXPECT_FALSE(cursor->complete);
    }
  }
  for (const Cursor& cursor : Must(store->Cursors())) {
    EXPECT_FALSE(cursor.complete) << "range " << cursor.range;
  }
}

TEST_P(RangeApplierModeTest, GoesOnFromTheDurableCursorAsIfNothingHadBroken) {
  const Entries entries = SomeEntries(400, 300);
  Digest unbroken;
  {
    const auto store = OpenTarget(directory_ / "unbroken");
    const auto applier = ApplierFor(store, GetParam(), RangeOf(kRange));
    ASSERT_THAT(ApplyInBatches(applier.get(), entries, 20), IsOk());
    ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
    unbroken = applier->applied().digest;
  }
  auto store = OpenTarget(path_, 30'000);
  auto applier = ApplierFor(store, GetParam(), RangeOf(kRange));
  ASSERT_THAT(ApplyInBatches(applier.get(), Prefix(entries, 140), 20), IsOk());
  ASSERT_THAT(applier->Flush(), IsOk());
  ASSERT_THAT(applier->Drain(), IsOk());
  EXPECT_EQ(applier->TakeDurable(), applier->applied()) << "flushed is durable";
  // Now without Flush: what stood in the unfinished file is lost, what is durable is not.
  ASSERT_THAT(ApplyInBatches(applier.get(), Suffix(Prefix(entries, 300), 140), 20), IsOk());
  applier.reset();
  ASSERT_THAT(store->Close(), IsOk());

  store = OpenTarget(path_, 30'000);
  const auto cursors = Must(store->Cursors());
  ASSERT_EQ(cursors.size(), 1U);
  const Cursor& cursor = cursors[0];
  EXPECT_GE(cursor.entries, 140U);
  EXPECT_EQ(cursor.last_key, entries[cursor.entries - 1].first);
  applier = ApplierFor(store, GetParam(), RangeOf(kRange), cursor);
  EXPECT_EQ(applier->applied(), cursor);
  ASSERT_THAT(ApplyInBatches(applier.get(), Suffix(entries, cursor.entries), 20), IsOk());
  EXPECT_EQ(applier->applied().digest, unbroken);
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_EQ(FinishedEntries(store), entries);
}

// The file was ingested, its cursor was not written: the same entries come again.
TEST_F(RangeApplierTest, IngestingAFileTwiceIsHarmless) {
  const auto store = OpenTarget(path_);
  const Entries entries = SomeEntries(200, 50);
  for (const size_t count : {size_t{150}, size_t{200}}) {
    const auto applier = ApplierFor(store, ApplyMode::kIngest, RangeOf(kRange));
    ASSERT_THAT(ApplyInBatches(applier.get(), Prefix(entries, count), 25), IsOk());
    ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  }
  EXPECT_EQ(FinishedEntries(store), entries);
}

TEST_F(RangeApplierTest, WriteOverwritesWhatIsThereAndKeepsTheRest) {
  {
    OwnedStore owner(path_);
    for (const auto& [key, value] : SomeEntries(100)) {
      owner.Put(key, "old");
    }
    owner.Put("other", "kept");
  }
  const auto store = OpenTarget(path_);
  Entries expected = SomeEntries(150);
  const auto applier = ApplierFor(store, ApplyMode::kWrite, RangeOf(kRange, 0, "key", "key999"));
  ASSERT_THAT(ApplyInBatches(applier.get(), expected, 40), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  expected.emplace_back("other", "kept");
  EXPECT_EQ(FinishedEntries(store), expected);
}

TEST_P(RangeApplierModeTest, EntitiesKeepTheirColumns) {
  if (ROCKSDB_MAJOR < 9 && GetParam() == ApplyMode::kIngest) {
    GTEST_SKIP() << "RocksDB " << ROCKSDB_MAJOR << " builds no SST files with entities";
  }
  const std::string large(1000, 'x');
  const rocksdb::WideColumns columns = {{"", "default"}, {"name", large}, {"z", ""}};
  std::string entity;
  SerializeEntity({{"", "default"}, {"name", large}, {"z", ""}}, &entity);
  const auto store = OpenTarget(path_);
  const auto applier = ApplierFor(store, GetParam(), RangeOf(kRange));
  std::string buffer(5000, '\0');
  BatchBuilder builder(buffer.data(), buffer.size());
  ASSERT_TRUE(builder.Put(0, "a", "plain"));
  ASSERT_TRUE(builder.PutEntity(0, "b", entity));
  Frame frame = FrameOfBatch(builder.Finish());
  ASSERT_THAT(applier->Apply(&frame), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_EQ(FinishedEntries(store), (Entries{{"a", "plain"}, {"b", "default"}}));
  const OwnedStore owner(path_);
  rocksdb::PinnableWideColumns found;
  Check(owner->GetEntity(rocksdb::ReadOptions(), owner.family(), "b", &found));
  EXPECT_EQ(found.columns(), columns);
}

TEST_P(RangeApplierModeTest, OddKeysAndValuesComeOutEqual) {
  Entries entries = {{"", "the empty key"}};
  for (int byte = 0; byte < 256; ++byte) {
    entries.emplace_back(std::string(1, static_cast<char>(byte)), byte % 2 == 0 ? "" : std::string(3, '\0'));
  }
  entries.emplace_back(std::string(65536, '\xff'), "a long key");
  const auto store = OpenTarget(path_);
  const auto applier = ApplierFor(store, GetParam(), RangeOf(kRange));
  ASSERT_THAT(ApplyInBatches(applier.get(), entries, 10), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_EQ(FinishedEntries(store), entries);
}

TEST_P(RangeApplierModeTest, ReverseOrderIsTheOrderOfItsFamily) {
  const auto store = OpenTarget(path_, 20'000);
  const uint32_t id = Must(store->EnsureFamily(ReverseTraits("reverse")));
  Entries entries = SomeEntries(300, 100);
  std::reverse(entries.begin(), entries.end());
  const auto applier = ApplierFor(store, GetParam(), RangeOf(kRange, id, "key999", "key"));
  ASSERT_THAT(ApplyInBatches(applier.get(), entries, 20, id), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  rocksdb::ColumnFamilyOptions options;
  options.comparator = rocksdb::ReverseBytewiseComparator();
  EXPECT_EQ(FinishedEntries(store, "reverse", options), entries);
}

TEST_P(RangeApplierModeTest, RangesRunSideBySide) {
  const auto store = OpenTarget(path_, 30'000);
  const uint32_t other = Must(store->EnsureFamily(Traits("other")));
  const Entries entries = SomeEntries(1500, 100);
  const std::string& middle = entries[700].first;
  std::vector<std::thread> threads;
  const auto run = [&](uint32_t range, uint32_t family, std::optional<std::string> start,
                       std::optional<std::string> end, const Entries& part) {
    threads.emplace_back([&store, range, family, start, end, part] {
      const auto applier = ApplierFor(store, GetParam(), RangeOf(range, family, start, end));
      EXPECT_THAT(ApplyInBatches(applier.get(), part, 50, family), IsOk());
      EXPECT_THAT(FinishAsApplied(applier.get()), IsOk());
    });
  };
  run(0, 0, std::nullopt, middle, Prefix(entries, 700));
  run(1, 0, middle, std::nullopt, Suffix(entries, 700));
  run(2, other, std::nullopt, std::nullopt, entries);
  for (auto& thread : threads) {
    thread.join();
  }
  const auto cursors = Must(store->Cursors());
  ASSERT_EQ(cursors.size(), 3U);
  EXPECT_TRUE(std::all_of(cursors.begin(), cursors.end(), [](const Cursor& cursor) { return cursor.complete; }));
  EXPECT_EQ(FinishedEntries(store), entries);
  EXPECT_EQ(EntriesAsOwner(path_, "other"), entries);
}

TEST_P(RangeApplierModeTest, AValueOf64MebibytesComesOutEqual) {
  const auto store = OpenTarget(path_);
  // Repeated noise: compressors leave it alone, and it is made in no time.
  Random random(64);
  const std::string noise = RandomBytes(random, 1 << 20);
  std::string value;
  for (size_t i = 0; i < 64; ++i) {
    value += noise;
  }
  const Entries entries = {{"a", "small"}, {"b", value}, {"c", "small"}};
  const auto applier = ApplierFor(store, GetParam(), RangeOf(kRange));
  for (const auto& entry : entries) {
    ASSERT_THAT(ApplyEntries(applier.get(), {entry}), IsOk());
  }
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_TRUE(FinishedEntries(store) == entries) << "too large to print";
}

TEST_F(RangeApplierTest, OnlyFamiliesOfTheStoreCanBeApplied) {
  const auto store = OpenTarget(path_);
  ASSERT_THAT(store->PutRecord("job", "1"), IsOk());
  // 1 is the reserved family.
  for (const uint32_t id : {1U, 2U, 99U}) {
    EXPECT_THAT(RangeApplier::Create(store, RangeOf(kRange, id), ApplyMode::kWrite, {}),
                Fails(Code::kUsage, std::to_string(id)));
  }
}

}  // namespace
}  // namespace kvbatch::testing
