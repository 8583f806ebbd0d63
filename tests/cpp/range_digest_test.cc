#include "store/range_digest.h"

#include "batch/batch_reader.h"
#include "batch/wide_columns.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

class RangeDigestTest : public ::testing::Test {
 protected:
  // A store of its own with these entries, opened as a source.
  std::shared_ptr<SourceStore> StoreOf(const Entries& entries) {
    const std::string path = directory_ / std::to_string(stores_++);
    {
      OwnedStore owner(path);
      for (const auto& [key, value] : entries) {
        owner.Put(key, value);
      }
    }
    return OpenSource(path);
  }

  std::shared_ptr<SourceStore> StoreWithEntity(const std::string& key, const rocksdb::WideColumns& columns) {
    const std::string path = directory_ / std::to_string(stores_++);
    {
      OwnedStore(path).PutEntity(key, columns);
    }
    return OpenSource(path);
  }

  static std::vector<EntryRun> Runs(const std::shared_ptr<SourceStore>& store, RangeBounds bounds = {},
                                    uint64_t run_entries = 0) {
    return Must(DigestRange(*store, Must(store->Family("default")), std::move(bounds), run_entries));
  }

  static Digest DigestOf(const std::shared_ptr<SourceStore>& store) {
    const auto runs = Runs(store);
    EXPECT_EQ(runs.size(), 1U);
    return runs.at(0).digest;
  }
  Digest DigestOf(const Entries& entries) { return DigestOf(StoreOf(entries)); }

  static EntryListing Listing(const std::shared_ptr<SourceStore>& store, RangeBounds bounds, size_t max_key_bytes) {
    return Must(ListEntries(*store, Must(store->Family("default")), std::move(bounds), max_key_bytes));
  }

  const TempDir directory_;
  int stores_ = 0;
};

TEST_F(RangeDigestTest, AnEmptyRangeHasNoRuns) {
  EXPECT_TRUE(Runs(StoreOf({})).empty());
  EXPECT_TRUE(Runs(StoreOf(SomeEntries(10)), {"l", "m", {}}).empty());
  EXPECT_TRUE(Runs(StoreOf(SomeEntries(10)), {{}, {}, "key000009"}, 3).empty());
}

TEST_F(RangeDigestTest, TheSumDoesNotDependOnHowTheRangeIsCut) {
  const Entries entries = SomeEntries(100, 30);
  const auto store = StoreOf(entries);
  const auto whole = Runs(store);
  ASSERT_EQ(whole.size(), 1U);
  EXPECT_EQ(whole[0].entries, 100U);
  EXPECT_EQ(whole[0].raw_bytes, 100U * 39);
  for (const uint64_t size : {1, 7, 10, 99, 100, 1000}) {
    const auto runs = Runs(store, {}, size);
    EXPECT_EQ(runs.size(), (100 + size - 1) / size);
    EntryRun sum;
    for (const EntryRun& run : runs) {
      sum.entries += run.entries;
      sum.raw_bytes += run.raw_bytes;
      sum.digest += run.digest;
      if (run.entries == size) {
        EXPECT_EQ(run.last_key, entries[sum.entries - 1].first) << "where the next run starts";
      }
    }
    EXPECT_EQ(sum.entries, 100U);
    EXPECT_EQ(sum.raw_bytes, whole[0].raw_bytes);
    EXPECT_EQ(sum.digest, whole[0].digest) << "runs of " << size;
  }
  for (const char* middle : {"key000001", "key000050", "key000050x"}) {
    Digest sum = Runs(store, {{}, middle, {}})[0].digest;
    sum += Runs(store, {middle, {}, {}})[0].digest;
    EXPECT_EQ(sum, whole[0].digest) << "cut at " << middle;
  }
}

TEST_F(RangeDigestTest, ReadingGoesOnBehindTheLastKeyOfARun) {
  const auto store = StoreOf(SomeEntries(25));
  const auto runs = Runs(store, {}, 10);
  const auto rest = Runs(store, {{}, {}, runs[0].last_key}, 10);
  ASSERT_EQ(rest.size(), 2U);
  EXPECT_EQ(rest[0].digest, runs[1].digest);
  EXPECT_EQ(rest[1].digest, runs[2].digest);
}

TEST_F(RangeDigestTest, EqualEntriesHaveEqualDigestsHoweverTheyAreStored) {
  Entries entries = SomeEntries(200, 100);
  const Digest plain = DigestOf(entries);
  const std::string path = directory_ / "other";
  {
    rocksdb::ColumnFamilyOptions options;
    options.compression = rocksdb::kZSTD;
    OwnedStore owner(path, {FamilyNamed("default", options)});
    for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
      owner.Put(entry->first, "an older value");
      owner.Put(entry->first, entry->second);
    }
    owner.Put("key000000x", "to be deleted");
    owner.Flush();
    Check(owner->Delete(rocksdb::WriteOptions(), "key000000x"));
  }
  EXPECT_EQ(DigestOf(OpenSource(path)), plain);
}

TEST_F(RangeDigestTest, EveryDifferenceShows) {
  const Entries base = {{"ab", "c"}, {"k", "1"}, {"l", "2"}, {"m", ""}};
  const Digest digest = DigestOf(base);
  const struct {
    const char* what;
    Entries entries;
  } cases[] = {
      {"a value", {{"ab", "c"}, {"k", "1"}, {"l", "3"}, {"m", ""}}},
      {"a key", {{"ab", "c"}, {"k", "1"}, {"l\x01", "2"}, {"m", ""}}},
      {"swapped values", {{"ab", "c"}, {"k", "2"}, {"l", "1"}, {"m", ""}}},
      {"the boundary of key and value", {{"a", "bc"}, {"k", "1"}, {"l", "2"}, {"m", ""}}},
      {"an entry missing", {{"ab", "c"}, {"k", "1"}, {"l", "2"}}},
      {"an entry more", {{"", ""}, {"ab", "c"}, {"k", "1"}, {"l", "2"}, {"m", ""}}},
      {"key and value exchanged", {{"c", "ab"}, {"k", "1"}, {"l", "2"}, {"m", ""}}},
      {"an empty value", {{"ab", "c"}, {"k", "1"}, {"l", "2"}, {"m", std::string(1, '\0')}}},
  };
  EXPECT_EQ(DigestOf(base), digest);
  for (const auto& [what, entries] : cases) {
    EXPECT_FALSE(DigestOf(entries) == digest) << what;
  }
}

TEST_F(RangeDigestTest, EntitiesDifferFromPlainValuesAndByEveryColumn) {
  std::string serialized;
  SerializeEntity({{"", "v"}, {"n", "x"}}, &serialized);
  const std::vector<Digest> digests = {
      DigestOf(StoreWithEntity("k", {{"", "v"}, {"n", "x"}})),
      DigestOf(StoreWithEntity("k", {{"", "v"}, {"n", "y"}})),
      DigestOf(StoreWithEntity("k", {{"", "v"}, {"o", "x"}})),
      DigestOf(StoreWithEntity("k", {{"", "w"}, {"n", "x"}})),
      DigestOf(StoreWithEntity("k", {{"n", "x"}})),
      DigestOf({{"k", "v"}}),
      DigestOf({{"k", serialized}}),
  };
  for (size_t i = 0; i < digests.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      EXPECT_FALSE(digests[i] == digests[j]) << i << " and " << j;
    }
  }
}

TEST_F(RangeDigestTest, DamageIsTheSourcesErrorAndNoDigest) {
  const std::string path = directory_ / "damaged";
  {
    rocksdb::ColumnFamilyOptions options;
    options.compression = rocksdb::kNoCompression;
    OwnedStore owner(path, {FamilyNamed("default", options)});
    for (const auto& [key, value] : SomeEntries(1000, 100)) {
      owner.Put(key, value);
    }
    owner.Flush();
  }
  const std::string file = FilesEndingWith(path, ".sst").at(0);
  std::string bytes = ReadFile(file);
  bytes[bytes.size() / 2] ^= 1;
  WriteFile(file, bytes);
  const auto store = OpenSource(path);
  auto* family = Must(store->Family("default"));
  const std::string name = std::filesystem::path(file).filename();
  EXPECT_THAT(DigestRange(*store, family, {}, 0), Fails(Code::kSource, name));
  EXPECT_THAT(ListEntries(*store, family, {}, 1 << 20), Fails(Code::kSource, name));
}

TEST_F(RangeDigestTest, AListingNamesEachKeyWithItsDigest) {
  const Entries entries = {{"", "v"}, {"a", ""}, {"b", "w"}};
  const auto listing = Listing(StoreOf(entries), {}, 1000);
  EXPECT_TRUE(listing.complete);
  ASSERT_EQ(listing.entries.size(), entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(listing.entries[i].first, entries[i].first);
    EXPECT_EQ(listing.entries[i].second, EntryDigest(entries[i].first, entries[i].second, 0));
  }
}

TEST_F(RangeDigestTest, AListingEndsAtItsLimitAndGoesOnBehindItsLastKey) {
  const Entries entries = SomeEntries(100);
  const auto store = StoreOf(entries);
  std::vector<std::string> keys;
  RangeBounds bounds;
  size_t calls = 0;
  for (bool complete = false; !complete; ++calls) {
    ASSERT_LT(calls, 100U);
    const auto listing = Listing(store, bounds, 500);
    ASSERT_FALSE(listing.entries.empty());
    EXPECT_LE(listing.entries.size(), 56U) << "500 bytes of nine-byte keys";
    for (const auto& [key, digest] : listing.entries) {
      keys.push_back(key);
    }
    complete = listing.complete;
    bounds.after = keys.back();
  }
  EXPECT_GE(calls, 2U);
  ASSERT_EQ(keys.size(), entries.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    EXPECT_EQ(keys[i], entries[i].first);
  }
  EXPECT_EQ(Listing(store, {}, 1).entries.size(), 1U);
  EXPECT_FALSE(Listing(store, {}, 1).complete);
  EXPECT_TRUE(Listing(store, {"x", {}, {}}, 1).complete);
  EXPECT_EQ(Listing(store, {"key000010", "key000020", {}}, 10'000).entries.size(), 10U);
}

class PackRepairTest : public RangeDigestTest {
 protected:
  // Packs `keys` frame by frame into a target that holds `before`, and says what is in it then.
  Entries Repaired(const std::shared_ptr<SourceStore>& source, const std::vector<std::string>& keys,
                   const Entries& before, size_t batch_bytes, Codec codec = Codec::kNone) {
    const auto target = OpenTarget(directory_ / std::to_string(stores_++));
    const uint32_t id = Must(target->EnsureFamily(Traits("family")));
    Frame frame = FrameOfBatch(BatchOf(before, id));
    EXPECT_THAT(target->Write(&frame), IsOk());
    frames_ = 0;
    for (size_t first = 0; first < keys.size(); ++frames_) {
      const size_t packed =
          Must(PackRepair(*source, Must(source->Family("default")), keys, first, id, &frame, batch_bytes, codec));
      EXPECT_GE(packed, 1U);
      EXPECT_EQ(frame.header().entries, packed);
      EXPECT_TRUE(frame.header().raw_length <= batch_bytes || packed == 1);
      EXPECT_THAT(target->Write(&frame), IsOk());
      first += packed;
    }
    return FinishedEntries(target, "family");
  }

  size_t frames_ = 0;
};

TEST_F(PackRepairTest, MakesTheTargetEqualForTheKeysThatWereNamedOnly) {
  const auto source = StoreOf({{"", "empty key"}, {"a", "1"}, {"b", ""}, {"c", "3"}, {"d", "4"}});
  const Entries before = {{"a", "wrong"}, {"c", "not named"}, {"x", "too much"}, {"y", "not named"}};
  const Entries after = {{"", "empty key"}, {"a", "1"}, {"b", ""}, {"c", "not named"}, {"y", "not named"}};
  for (const Codec codec : {Codec::kNone, Codec::kLz4, Codec::kZstd}) {
    EXPECT_EQ(Repaired(source, {"", "a", "b", "x", "nowhere"}, before, 1000, codec), after);
    EXPECT_EQ(frames_, 1U);
  }
}

TEST_F(PackRepairTest, SmallBatchesTakeTheKeysOneAfterAnother) {
  const Entries entries = SomeEntries(50, 40);
  std::vector<std::string> keys;
  for (const auto& entry : entries) {
    keys.push_back(entry.first);
  }
  const auto source = StoreOf(entries);
  for (const size_t bytes : {12, 63, 64, 65, 200}) {
    EXPECT_EQ(Repaired(source, keys, {}, bytes), entries) << bytes;
    EXPECT_GE(frames_, 10U);
  }
}

// Below its header there is no batch at all.
TEST(PackRepairSizes, ABatchSizeBelowTheHeaderIsEnlargedOrRefused) {
  EXPECT_SURVIVES({
    const TempDir directory;
    {
      OwnedStore(directory / "store").Put("a", "1");
    }
    const auto source = OpenSource(directory / "store");
    Frame frame(SharedPool());
    for (size_t size = 0; size < kBatchHeaderSize; ++size) {
      const auto packed = PackRepair(*source, Must(source->Family("default")), {"a"}, 0, 0, &frame, size, Codec::kNone);
      if (packed.ok()) {
        EXPECT_EQ(Must(frame.OpenRaw()), BatchOf({{"a", "1"}})) << size;
      } else {
        EXPECT_THAT(packed, Fails(Code::kUsage)) << size;
      }
    }
  });
}

TEST_F(PackRepairTest, AnEntryLargerThanABatchTravelsAlone) {
  const std::string large(100'000, 'x');
  const std::string long_key(5000, 'k');
  const auto source = StoreOf({{"a", "1"}, {"b", large}, {"c", "3"}});
  EXPECT_EQ(Repaired(source, {"a", "b", "c", long_key}, {{long_key, "goes"}}, 100),
            (Entries{{"a", "1"}, {"b", large}, {"c", "3"}}));
  EXPECT_EQ(frames_, 4U);
}

TEST_F(PackRepairTest, EntitiesComeWithTheirColumns) {
  const std::string large(1000, 'x');
  const auto source = StoreWithEntity("k", {{"", "default"}, {"name", large}});
  for (const size_t bytes : {100, 5000}) {
    Frame frame(SharedPool());
    EXPECT_EQ(Must(PackRepair(*source, Must(source->Family("default")), {"k"}, 0, 7, &frame, bytes, Codec::kNone)), 1U);
    BatchReader reader(Must(frame.OpenRaw()));
    Record record;
    ASSERT_TRUE(reader.Next(&record));
    EXPECT_EQ(record.kind, RecordKind::kEntity);
    EXPECT_EQ(record.column_family, 7U);
    std::vector<WideColumn> columns;
    ASSERT_TRUE(DecodeEntity(record.value, &columns));
    EXPECT_EQ(columns, (std::vector<WideColumn>{{"", "default"}, {"name", large}}));
    EXPECT_FALSE(reader.Next(&record));
    EXPECT_THAT(reader.status(), IsOk());
  }
}

TEST_F(PackRepairTest, MergedValuesComeMerged) {
  const std::string path = directory_ / "sums";
  {
    rocksdb::ColumnFamilyOptions options;
    options.merge_operator = AddingOperator();
    const OwnedStore owner(path, {FamilyNamed("default", options)});
    Check(owner->Put(rocksdb::WriteOptions(), "k", LittleEndian(40)));
    Check(owner->Merge(rocksdb::WriteOptions(), "k", LittleEndian(2)));
  }
  EXPECT_EQ(Repaired(OpenSource(path), {"k"}, {}, 1000), (Entries{{"k", LittleEndian(42)}}));
}

}  // namespace
}  // namespace kvbatch::testing
