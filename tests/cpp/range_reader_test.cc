#include "store/range_reader.h"

#include <filesystem>
#include <set>

#include "batch/batch_reader.h"
#include "batch/wide_columns.h"
#include "frame/large_entry.h"
#include "store_testing.h"

namespace kvbatch::testing {
namespace {

constexpr uint32_t kTargetFamily = 7;

// What a range gave, frame by frame.
struct Packed {
  Entries entries;
  Digest digest;
  size_t frames = 0;
  size_t large = 0;
};

class RangeReaderTest : public ::testing::Test {
 protected:
  // Reads a range to its end with batches of sizes[0], sizes[1], .. and round again, and checks each frame.
  Packed ReadAll(const std::shared_ptr<SourceStore>& store, const RangeBounds& bounds, std::vector<size_t> sizes,
                 Codec codec = Codec::kNone, const std::string& family = "default") {
    RangeReader reader(store, Must(store->Family(family)), bounds, kTargetFamily, Digest());
    Frame frame(pool_);
    Packed packed;
    size_t size = sizes[0];
    for (size_t call = 1;; ++call) {
      const FillResult result = Must(reader.Fill(&frame, size, codec));
      if (result.stop == StopReason::kLargeEntry) {
        EXPECT_EQ(result.entries, 0U);
        EXPECT_GT(result.needed_bytes, size);
        EXPECT_EQ(frame.header().raw_length, 0U);
        size = result.needed_bytes;
        ++packed.large;
        continue;
      }
      const std::string_view raw = Must(frame.OpenRaw());
      EXPECT_LE(raw.size(), size);
      EXPECT_EQ(frame.header().entries, result.entries);
      const std::set<uint32_t> families = {kTargetFamily};
      BatchRules rules;
      rules.column_families = &families;
      rules.only_puts = true;
      const BatchSummary summary = Must(ValidateBatch(raw, rules));
      EXPECT_EQ(summary.records, result.entries);
      EXPECT_EQ(summary.key_bytes + summary.value_bytes, result.raw_bytes);
      if (result.entries > 0) {
        packed.digest = ChainDigest(packed.digest, raw);
        EXPECT_EQ(reader.last_key(), summary.last_key);
        ++packed.frames;
      }
      EXPECT_EQ(reader.digest(), packed.digest);
      BatchReader records(raw);
      for (Record record; records.Next(&record);) {
        packed.entries.emplace_back(record.key, record.value);
      }
      if (result.stop == StopReason::kEnd) {
        break;
      }
      EXPECT_GT(result.entries, 0U);
      size = sizes[call % sizes.size()];
    }
    const FillResult behind = Must(reader.Fill(&frame, 1000, codec));
    EXPECT_EQ(behind.stop, StopReason::kEnd);
    EXPECT_EQ(behind.entries, 0U);
    EXPECT_EQ(Must(frame.OpenRaw()).size(), kBatchHeaderSize);
    return packed;
  }

  // Writes the entries and opens the store as a source.
  std::shared_ptr<SourceStore> StoreOf(const Entries& entries, const rocksdb::ColumnFamilyOptions& options = {}) {
    {
      OwnedStore store(path_, {FamilyNamed("default", options)});
      for (const auto& [key, value] : entries) {
        store.Put(key, value);
      }
      store.Flush();
    }
    return OpenSource(path_);
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
  const std::shared_ptr<BufferPool> pool_ = BufferPool::Create(64 << 20);
};

Entries Between(const Entries& entries, const std::string& start, const std::string& end) {
  Entries part;
  for (const auto& entry : entries) {
    if (entry.first >= start && entry.first < end) {
      part.push_back(entry);
    }
  }
  return part;
}

TEST_F(RangeReaderTest, TheBatchesTogetherAreTheRangeWhateverTheirSizes) {
  Random random(17);
  Entries entries;
  for (size_t i = 0; i < 500; ++i) {
    entries.emplace_back(Numbered("key", i), RandomBytes(random, Below(random, 8) == 0 ? 3000 : Below(random, 50)));
  }
  const auto store = StoreOf(entries);
  for (const auto& sizes : std::vector<std::vector<size_t>>{
           {12}, {13}, {29}, {30}, {100}, {4096}, {1 << 20}, {12, 5000, 29}, {1000, 64, 17, 100'000, 31}}) {
    for (const Codec codec : {Codec::kNone, Codec::kLz4, Codec::kZstd}) {
      const Packed packed = ReadAll(store, {}, sizes, codec);
      ASSERT_EQ(packed.entries, entries) << "batches of " << ::testing::PrintToString(sizes);
    }
  }
  EXPECT_EQ(ReadAll(store, {}, {1 << 20}).frames, 1U);
  EXPECT_EQ(ReadAll(store, {}, {12}).frames, 500U);
}

// Entries with values that are large, small and large again; such as compress well stand in a small block.
Entries WithLargeValues(size_t large_bytes) {
  Random random(23);
  return {{"a", "1"},
          {"b", RandomBytes(random, large_bytes)},
          {"c", "2"},
          {"d", std::string(large_bytes, 'x')},
          {"e", std::string(2 * large_bytes, 'y')},
          {"f", "3"}};
}

// Reads a range as a sender does: what a large entry needs is acquired when it is met.
Entries ReadWithLarge(RangeReader* reader, const std::shared_ptr<BufferPool>& pool, Codec codec) {
  Frame frame(pool);
  Entries entries;
  FillResult result = Must(reader->Fill(&frame, 4096, codec));
  while (true) {
    while (result.stop == StopReason::kLargeEntry) {
      EXPECT_EQ(result.entries, 0U);
      EXPECT_EQ(frame.header().raw_length, 0U);
      const size_t needed = result.needed_bytes;
      result = Must(reader->FillLarge(&frame, needed, codec));
      EXPECT_LE(frame.header().raw_length, needed);
      EXPECT_GE(pool->leased_bytes(), kLargeEntryCopies * frame.header().raw_length);
    }
    BatchReader records(Must(frame.OpenRaw()));
    for (Record record; records.Next(&record);) {
      entries.emplace_back(record.key, record.value);
    }
    if (result.stop == StopReason::kEnd) {
      return entries;
    }
    result = Must(reader->Fill(&frame, 4096, codec));
    // The frame stands for a batch again.
    EXPECT_LE(pool->leased_bytes(), size_t{128} << 10);
  }
}

TEST_F(RangeReaderTest, LargeEntriesComeByThemselvesWithAllTheirMemory) {
  const Entries entries = WithLargeValues(kLargeEntryBytes + 1000);
  rocksdb::ColumnFamilyOptions plain;
  plain.compression = rocksdb::kNoCompression;
  for (const auto& options : {rocksdb::ColumnFamilyOptions(), plain}) {
    std::filesystem::remove_all(path_);
    const auto store = StoreOf(entries, options);
    for (const Codec codec : {Codec::kNone, Codec::kLz4}) {
      RangeReader reader(store, Must(store->Family("default")), {}, kTargetFamily, Digest());
      EXPECT_EQ(ReadWithLarge(&reader, pool_, codec), entries);
    }
    EXPECT_EQ(pool_->leased_bytes(), 0U);
  }
}

TEST_F(RangeReaderTest, LargeEntriesOfOverlappingFilesAndTheWalDoToo) {
  const Entries entries = WithLargeValues(kLargeEntryBytes);
  {
    OwnedStore store(path_);
    store.Put("b", "old");
    store.Put("e", std::string(kLargeEntryBytes, 'o'));
    store.Flush();
    for (const auto& [key, value] : entries) {
      if (key != "d") {
        store.Put(key, value);
      }
    }
    store.Flush();
    store.Put("d", entries[3].second);
  }
  const auto store = OpenSource(path_);
  RangeReader reader(store, Must(store->Family("default")), {}, kTargetFamily, Digest());
  EXPECT_EQ(ReadWithLarge(&reader, pool_, Codec::kNone), entries);
}

TEST_F(RangeReaderTest, ABlockIsNotReadBeforeThereIsRoomForIt) {
  constexpr size_t kBytes = size_t{64} << 20;
  const auto store = StoreOf({{"a", std::string(kBytes, 'x')}});
  RangeReader reader(store, Must(store->Family("default")), {}, kTargetFamily, Digest());
  Frame frame(pool_);
  FillResult result = Must(reader.Fill(&frame, 4096, Codec::kNone));
  ASSERT_EQ(result.stop, StopReason::kLargeEntry);
  // It is asked for once more without another look.
  EXPECT_EQ(Must(reader.Fill(&frame, 4096, Codec::kNone)).needed_bytes, result.needed_bytes);
  // The block as it is in the file comes first, and it says how large it is.
  while (result.stop == StopReason::kLargeEntry && result.needed_bytes < kBytes) {
    result = Must(reader.FillLarge(&frame, result.needed_bytes, Codec::kNone));
  }
  ASSERT_EQ(result.stop, StopReason::kLargeEntry);
  EXPECT_THAT(reader.FillLarge(&frame, result.needed_bytes, Codec::kNone), Fails(Code::kUsage, "memory budget"));
  EXPECT_EQ(pool_->leased_bytes(), 0U);
  pool_->SetMaxBytes(MemoryForEntry(result.needed_bytes));
  EXPECT_EQ(Must(reader.FillLarge(&frame, result.needed_bytes, Codec::kNone)).entries, 1U);
}

TEST_F(RangeReaderTest, AFullBatchHasNoRoomForTheNextEntry) {
  const auto store = StoreOf(SomeEntries(100));
  // One record: tag, family, length and key of 9, length and value of 20.
  constexpr size_t kRecord = 1 + 1 + 1 + 9 + 1 + 20;
  for (const size_t count : {1, 2, 10}) {
    for (const size_t spare : {size_t{0}, kRecord - 1}) {
      RangeReader reader(store, Must(store->Family("default")), {}, kTargetFamily, Digest());
      Frame frame(pool_);
      const FillResult result = Must(reader.Fill(&frame, kBatchHeaderSize + count * kRecord + spare, Codec::kNone));
      EXPECT_EQ(result.stop, StopReason::kFull);
      EXPECT_EQ(result.entries, count);
      EXPECT_EQ(reader.last_key(), Numbered("key", count - 1));
    }
  }
}

TEST_F(RangeReaderTest, AnEntryLargerThanTheBatchIsReportedAndTravelsAlone) {
  const Entries entries = {{"a", "1"}, {"b", std::string(1 << 20, 'x')}, {"c", "3"}};
  const auto store = StoreOf(entries);
  const Packed packed = ReadAll(store, {}, {1000});
  EXPECT_EQ(packed.entries, entries);
  EXPECT_EQ(packed.large, 1U);
  EXPECT_EQ(packed.frames, 3U);
}

// Below its header there is no batch at all.
TEST_F(RangeReaderTest, ABatchSizeBelowTheHeaderIsReportedOrRefused) {
  const auto store = StoreOf(SomeEntries(3));
  for (size_t size = 0; size < kBatchHeaderSize; ++size) {
    RangeReader reader(store, Must(store->Family("default")), {}, kTargetFamily, Digest());
    Frame frame(pool_);
    const auto result = reader.Fill(&frame, size, Codec::kNone);
    EXPECT_TRUE(result.ok() ? result.value().stop == StopReason::kLargeEntry : result.status().code() == Code::kUsage);
  }
}

TEST_F(RangeReaderTest, BoundsAreStartInclusiveEndExclusive) {
  const Entries entries = SomeEntries(50);
  const auto store = StoreOf(entries);
  const auto read = [&](const RangeBounds& bounds) { return ReadAll(store, bounds, {200}).entries; };
  EXPECT_EQ(read({"key000010", "key000020", {}}), Between(entries, "key000010", "key000020"));
  EXPECT_EQ(read({"key0000105", "key0000195", {}}), Between(entries, "key000011", "key000020"));
  EXPECT_EQ(read({{}, "key000020", {}}), Between(entries, "", "key000020"));
  EXPECT_EQ(read({"key000040", {}, {}}), Between(entries, "key000040", "z"));
  EXPECT_EQ(read({"", {}, {}}), entries);
  EXPECT_EQ(read({{}, "", {}}), Entries());
  EXPECT_EQ(read({"key000020", "key000020", {}}), Entries());
  EXPECT_EQ(read({"key000020", "key000010", {}}), Entries());
  EXPECT_EQ(read({"x", {}, {}}), Entries());
}

TEST_F(RangeReaderTest, GoesOnBehindAKey) {
  const Entries entries = SomeEntries(50);
  const auto store = StoreOf(entries);
  const auto read = [&](const RangeBounds& bounds) { return ReadAll(store, bounds, {200}).entries; };
  EXPECT_EQ(read({"key000010", "key000020", "key000015"}), Between(entries, "key000016", "key000020"));
  EXPECT_EQ(read({"key000010", "key000020", "key0000155"}), Between(entries, "key000016", "key000020"))
      << "a key that is gone by now";
  EXPECT_EQ(read({"key000010", "key000020", "key000019"}), Entries());
  EXPECT_EQ(read({{}, {}, "key000048"}), Between(entries, "key000049", "z"));
  EXPECT_EQ(read({{}, {}, "key000049"}), Entries());
}

TEST_F(RangeReaderTest, CutAnywhereAndResumedTheEntriesAndTheDigestAreTheSame) {
  const Entries entries = SomeEntries(40);
  const auto store = StoreOf(entries);
  const Packed whole = ReadAll(store, {}, {300});
  for (size_t stop = 1; stop < whole.frames; ++stop) {
    Entries seen;
    Digest digest;
    RangeBounds bounds;
    Frame frame(pool_);
    for (const size_t calls : {stop, whole.frames}) {
      RangeReader reader(store, Must(store->Family("default")), bounds, kTargetFamily, digest);
      for (size_t call = 0; call < calls; ++call) {
        const FillResult result = Must(reader.Fill(&frame, 300, Codec::kNone));
        BatchReader records(Must(frame.OpenRaw()));
        for (Record record; records.Next(&record);) {
          seen.emplace_back(record.key, record.value);
        }
        if (result.stop == StopReason::kEnd) {
          break;
        }
      }
      bounds.after = reader.last_key();
      digest = reader.digest();
    }
    EXPECT_EQ(seen, entries) << "cut behind frame " << stop;
    EXPECT_EQ(digest, whole.digest);
  }
}

TEST_F(RangeReaderTest, AnEmptyKeyIsAKey) {
  const Entries entries = {{"", "empty"}, {std::string("\0", 1), "nul"}, {"a", ""}};
  const auto store = StoreOf(entries);
  EXPECT_EQ(ReadAll(store, {}, {30}).entries, entries);
  EXPECT_EQ(ReadAll(store, {{}, {}, ""}, {30}).entries, Entries(entries.begin() + 1, entries.end()));
}

TEST_F(RangeReaderTest, AnEmptyFamilyGivesAnEmptyBatch) {
  const Packed packed = ReadAll(StoreOf({}), {}, {100});
  EXPECT_TRUE(packed.entries.empty());
  EXPECT_EQ(packed.digest, Digest());
}

TEST_F(RangeReaderTest, FollowsAReverseComparator) {
  rocksdb::ColumnFamilyOptions options;
  options.comparator = rocksdb::ReverseBytewiseComparator();
  Entries entries = SomeEntries(50);
  const auto store = StoreOf(entries, options);
  std::reverse(entries.begin(), entries.end());
  EXPECT_EQ(ReadAll(store, {}, {200}).entries, entries);
  EXPECT_EQ(ReadAll(store, {"key000020", "key000010", {}}, {200}).entries,
            Entries(entries.begin() + 29, entries.begin() + 39));
  EXPECT_EQ(ReadAll(store, {"key000020", "key000010", "key000015"}, {200}).entries,
            Entries(entries.begin() + 35, entries.begin() + 39));
}

TEST_F(RangeReaderTest, DeletionsAndRangeTombstonesHideWhatTheyHide) {
  {
    OwnedStore store(path_);
    for (const auto& [key, value] : SomeEntries(100)) {
      store.Put(key, value);
    }
    store.Flush();
    Check(store->DeleteRange(rocksdb::WriteOptions(), store.family(), "key000010", "key000030"));
    store.Flush();
    Check(store->Delete(rocksdb::WriteOptions(), "key000005"));
    Check(store->SingleDelete(rocksdb::WriteOptions(), "key000006"));
    store.Put("key000020", "again");
  }
  const Entries all = SomeEntries(100);
  Entries expected = Between(all, "", "key000005");
  for (const auto& part :
       {Between(all, "key000007", "key000010"), Entries{{"key000020", "again"}}, Between(all, "key000030", "z")}) {
    expected.insert(expected.end(), part.begin(), part.end());
  }
  EXPECT_EQ(ReadAll(OpenSource(path_), {}, {250}).entries, expected);
}

TEST_F(RangeReaderTest, EntitiesTravelAsEntities) {
  {
    OwnedStore store(path_);
    store.Put("plain", "value");
    store.PutEntity("wide", {{rocksdb::kDefaultWideColumnName, "d"}, {"a", "1"}, {"b", std::string(500, 'b')}});
    store.PutEntity("wide, no default", {{"a", "1"}});
    store.PutEntity("wider, no columns", {});
    store.Flush();
  }
  const auto store = OpenSource(path_);
  RangeReader reader(store, Must(store->Family("default")), {}, kTargetFamily, Digest());
  Frame frame(pool_);
  ASSERT_EQ(Must(reader.Fill(&frame, 4096, Codec::kNone)).entries, 4U);
  BatchReader records(Must(frame.OpenRaw()));
  Record record;
  ASSERT_TRUE(records.Next(&record));
  EXPECT_EQ(record.kind, RecordKind::kPut);
  const std::vector<std::vector<WideColumn>> expected = {
      {{"", "d"}, {"a", "1"}, {"b", std::string_view(record.value)}}, {{"a", "1"}}, {}};
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(records.Next(&record));
    EXPECT_EQ(record.kind, RecordKind::kEntity);
    std::vector<WideColumn> columns;
    ASSERT_TRUE(DecodeEntity(record.value, &columns));
    ASSERT_EQ(columns.size(), expected[i].size());
    if (i > 0) {
      EXPECT_EQ(columns, expected[i]);
    } else {
      EXPECT_EQ(columns[2].second, std::string(500, 'b'));
    }
  }
  EXPECT_EQ(ReadAll(store, {}, {30}).entries.size(), 4U) << "large entities travel alone";
}

TEST_F(RangeReaderTest, ValuesInBlobFilesAreRead) {
  rocksdb::ColumnFamilyOptions options;
  options.enable_blob_files = true;
  options.min_blob_size = 100;
  Entries entries = SomeEntries(50, 1000);
  entries.emplace_back("small", "inline");
  const auto store = StoreOf(entries, options);
  ASSERT_FALSE(FilesEndingWith(path_, ".blob").empty());
  EXPECT_EQ(ReadAll(store, {}, {5000}).entries, entries);
}

TEST_F(RangeReaderTest, FilesAndWalTogetherGiveTheNewestValues) {
  {
    OwnedStore store(path_, {FamilyNamed("other")});
    for (const auto& [key, value] : SomeEntries(20)) {
      store.Put(key, "old");
    }
    store.Flush();
    for (const auto& [key, value] : SomeEntries(30)) {
      store.Put(key, value);
    }
    store.Put("only in the WAL", "1", "other");
  }
  const auto store = OpenSource(path_);
  EXPECT_EQ(ReadAll(store, {}, {200}).entries, SomeEntries(30));
  EXPECT_EQ(ReadAll(store, {}, {200}, Codec::kNone, "other").entries, (Entries{{"only in the WAL", "1"}}));
}

TEST_F(RangeReaderTest, MergedValuesAreRead) {
  rocksdb::ColumnFamilyOptions options;
  options.merge_operator = AddingOperator();
  {
    OwnedStore store(path_, {FamilyNamed("default", options)});
    for (const uint64_t operand : {1, 2, 4}) {
      Check(store->Merge(rocksdb::WriteOptions(), "sum", LittleEndian(operand)));
      store.Flush();
    }
  }
  EXPECT_EQ(ReadAll(OpenSource(path_), {}, {200}).entries, (Entries{{"sum", LittleEndian(7)}}));
}

TEST_F(RangeReaderTest, AClosedPoolIsReported) {
  const auto store = StoreOf(SomeEntries(3));
  RangeReader reader(store, Must(store->Family("default")), {}, kTargetFamily, Digest());
  Frame frame(pool_);
  pool_->Close();
  EXPECT_THAT(reader.Fill(&frame, 1000, Codec::kNone), Fails(Code::kClosed));
}

}  // namespace
}  // namespace kvbatch::testing
