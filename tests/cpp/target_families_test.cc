// The column families of a TargetStore: how they are made, and that the finished store suits its owner.
#include <rocksdb/table.h>

#include "store/store_description.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

class TargetFamiliesTest : public ::testing::Test {
 protected:
  const TempDir directory_;
  const std::string path_ = directory_ / "store";
};

// What an owner would open a family with that has so many levels.
rocksdb::ColumnFamilyOptions Levels(int number) {
  rocksdb::ColumnFamilyOptions options;
  options.num_levels = number;
  if (number == 1) {
    options.compaction_style = rocksdb::kCompactionStyleUniversal;
  }
  return options;
}

class TargetLevelsTest : public TargetFamiliesTest, public ::testing::WithParamInterface<int> {};

INSTANTIATE_TEST_SUITE_P(Levels, TargetLevelsTest, ::testing::Values(1, 2, 4, 7, 9));

TEST_P(TargetLevelsTest, OpensWithTheLevelsOfItsSource) {
  const auto store = OpenTarget(path_);
  ColumnFamilyDescription traits = Traits("levels");
  traits.num_levels = GetParam();
  const uint32_t id = Must(store->EnsureFamily(traits));
  const Entries entries = SomeEntries(200);
  const auto ingesting = ApplierFor(store, ApplyMode::kIngest, RangeOf(1, id));
  ASSERT_THAT(ApplyInBatches(ingesting.get(), Prefix(entries, 100), 30, id), IsOk());
  ASSERT_THAT(FinishAsApplied(ingesting.get()), IsOk());
  const auto writing = ApplierFor(store, ApplyMode::kWrite, RangeOf(2, id));
  ASSERT_THAT(ApplyInBatches(writing.get(), Suffix(entries, 100), 30, id), IsOk());
  ASSERT_THAT(FinishAsApplied(writing.get()), IsOk());
  ASSERT_THAT(store->Flush(), IsOk());
  EXPECT_EQ(FinishedEntries(store, "levels", Levels(GetParam())), entries);
}

TEST_P(TargetLevelsTest, TheDefaultFamilyOfANewStoreHasThemToo) {
  TargetOptions options;
  options.default_family.num_levels = GetParam();
  const auto store = Must(TargetStore::Open(path_, options));
  const auto applier = ApplierFor(store, ApplyMode::kIngest);
  const Entries entries = SomeEntries(20);
  ASSERT_THAT(ApplyEntries(applier.get(), entries), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_EQ(FinishedEntries(store, "default", Levels(GetParam())), entries);
}

struct TraitsCase {
  const char* name;
  ColumnFamilyDescription traits;
};

void PrintTo(const TraitsCase& traits, std::ostream* out) { *out << traits.name; }

std::vector<TraitsCase> TraitsCases() {
  std::vector<TraitsCase> cases;
  const auto add = [&](const char* name) -> ColumnFamilyDescription& {
    cases.push_back({name, Traits("family")});
    return cases.back().traits;
  };
  add("Reverse").comparator = rocksdb::ReverseBytewiseComparator()->Name();
  add("Operator").merge_operator = "UInt64AddOperator";
  for (const char* compression : {"none", "snappy", "zlib", "bzip2", "lz4", "lz4hc", "zstd"}) {
    add(compression).compression = compression;
  }
  add("Blocks").block_size = 4096;
  add("Levels").num_levels = 4;
  return cases;
}

class TargetTraitsTest : public TargetFamiliesTest, public ::testing::WithParamInterface<TraitsCase> {};

INSTANTIATE_TEST_SUITE_P(Traits, TargetTraitsTest, ::testing::ValuesIn(TraitsCases()),
                         [](const auto& case_) { return std::string(case_.param.name); });

void ExpectEqualTraits(const ColumnFamilyDescription& kept, const ColumnFamilyDescription& given) {
  EXPECT_EQ(kept.name, given.name);
  EXPECT_EQ(kept.comparator, given.comparator);
  EXPECT_EQ(kept.merge_operator, given.merge_operator);
  EXPECT_EQ(kept.compression, given.compression);
  EXPECT_EQ(kept.block_size, given.block_size);
  EXPECT_EQ(kept.num_levels, given.num_levels);
}

TEST_P(TargetTraitsTest, AreThoseThatTheStoreTellsOfItselfLater) {
  ColumnFamilyDescription as_default = GetParam().traits;
  as_default.name = "default";
  TargetOptions options;
  options.default_family = GetParam().traits;
  auto store = Must(TargetStore::Open(path_, options));
  (void)Must(store->EnsureFamily(GetParam().traits));
  ASSERT_THAT(store->Close(), IsOk());
  const auto described = Must(DescribeStore(path_));
  ASSERT_EQ(described.size(), 2U);
  ExpectEqualTraits(described[0], as_default);
  ExpectEqualTraits(described[1], GetParam().traits);
}

// Ingested files must have them as well, not only what RocksDB writes by itself.
TEST_F(TargetFamiliesTest, FilesAreMadeWithTheTraitsOfTheFamily) {
  const auto store = OpenTarget(path_);
  const auto ingest = [&](ColumnFamilyDescription traits, uint32_t range) {
    const uint32_t id = Must(store->EnsureFamily(traits));
    const auto applier = ApplierFor(store, ApplyMode::kIngest, RangeOf(range, id));
    EXPECT_THAT(ApplyEntries(applier.get(), SomeEntries(500, 100), id), IsOk());
    EXPECT_THAT(FinishAsApplied(applier.get()), IsOk());
  };
  ColumnFamilyDescription large = Traits("large");
  large.compression = "zstd";
  large.block_size = 32 << 10;
  large.filter_policy = "bloomfilter:10:false";
  ColumnFamilyDescription small = Traits("small");
  small.compression = "none";
  small.block_size = 1024;
  ingest(large, 1);
  ingest(small, 2);
  ASSERT_THAT(store->DropRecords(), IsOk());
  ASSERT_THAT(store->Close(), IsOk());

  const OwnedStore owner(path_, {FamilyNamed("large"), FamilyNamed("small")});
  const auto properties = [&](const std::string& name) {
    rocksdb::TablePropertiesCollection tables;
    Check(owner->GetPropertiesOfAllTables(owner.family(name), &tables));
    EXPECT_EQ(tables.size(), 1U);
    return *tables.begin()->second;
  };
  EXPECT_EQ(properties("large").compression_name, "ZSTD");
  EXPECT_EQ(properties("small").compression_name, "NoCompression");
  EXPECT_LE(properties("large").num_data_blocks, 3U);
  EXPECT_GE(properties("small").num_data_blocks, 50U);
  EXPECT_GT(properties("large").filter_size, 0U);
  EXPECT_EQ(properties("small").filter_size, 0U);
  EXPECT_EQ(properties("small").num_entries, 500U);
}

TEST_F(TargetFamiliesTest, AFamilyIsMadeOnceAndKeepsItsId) {
  auto store = OpenTarget(path_);
  const uint32_t one = Must(store->EnsureFamily(Traits("one")));
  const uint32_t two = Must(store->EnsureFamily(Traits("two")));
  EXPECT_EQ(Must(store->EnsureFamily(Traits("one"))), one);
  EXPECT_EQ(Must(store->EnsureFamily(Traits("default"))), 0U);
  EXPECT_NE(one, two);
  EXPECT_EQ(Must(store->FamilyId("two")), two);
  EXPECT_EQ(store->Families().size(), 3U);
  ASSERT_THAT(store->Close(), IsOk());
  store = OpenTarget(path_);
  EXPECT_EQ(Must(store->FamilyId("one")), one);
  EXPECT_EQ(Must(store->EnsureFamily(Traits("two"))), two);
  EXPECT_EQ(store->Families().size(), 3U);
}

TEST_F(TargetFamiliesTest, AnotherOrderIsRefusedByName) {
  const auto store = OpenTarget(path_);
  const uint32_t id = Must(store->EnsureFamily(Traits("family")));
  const auto refused = store->EnsureFamily(ReverseTraits("family"));
  EXPECT_THAT(refused, Fails(Code::kRefused, "\"family\""));
  EXPECT_THAT(refused, Fails(Code::kRefused, "rocksdb.ReverseBytewiseComparator"));
  EXPECT_THAT(refused, Fails(Code::kRefused, "leveldb.BytewiseComparator"));
  for (const char* comparator : {"example.Other", "leveldb.BytewiseComparator.u64ts", ""}) {
    ColumnFamilyDescription odd = Traits("odd");
    odd.comparator = comparator;
    EXPECT_THAT(store->EnsureFamily(odd), Fails(Code::kRefused, "\"odd\"")) << comparator;
  }
  EXPECT_EQ(store->Families().size(), 2U);
  EXPECT_EQ(Must(store->EnsureFamily(Traits("family"))), id);
}

TEST_F(TargetFamiliesTest, TheReservedNameIsNobodysFamily) {
  const auto store = OpenTarget(path_);
  EXPECT_THAT(store->EnsureFamily(Traits(kReservedColumnFamily)), Fails(Code::kRefused, kReservedColumnFamily));
  EXPECT_THAT(store->PutRecord("job", "1"), IsOk());
  EXPECT_EQ(store->Families().size(), 1U);
  EXPECT_THAT(store->FamilyId(kReservedColumnFamily), Fails(Code::kUsage));
  EXPECT_THAT(store->EnsureFamily(Traits(kReservedColumnFamily)), Fails(Code::kRefused, kReservedColumnFamily));
}

TEST_F(TargetFamiliesTest, ReverseOrderHoldsInTheDefaultFamilyOfANewStore) {
  TargetOptions options;
  options.default_family = ReverseTraits("whatever");
  const auto store = Must(TargetStore::Open(path_, options));
  EXPECT_EQ(store->Families()[0].name, "default");
  Frame frame = FrameOfBatch(BatchOf({{"a", "1"}, {"b", "2"}}));
  ASSERT_THAT(store->Write(&frame), IsOk());
  // From high to low: ["b", "a") holds "b" only.
  EXPECT_TRUE(Must(store->HasData("default", "b", "a")));
  EXPECT_FALSE(Must(store->HasData("default", "a", "b")));
  rocksdb::ColumnFamilyOptions reverse;
  reverse.comparator = rocksdb::ReverseBytewiseComparator();
  EXPECT_EQ(FinishedEntries(store, "default", reverse), (Entries{{"b", "2"}, {"a", "1"}}));
}

TEST_F(TargetFamiliesTest, FortyFamiliesWithOddNames) {
  const auto store = OpenTarget(path_);
  std::vector<std::string> names = {"default"};
  for (size_t i = 0; i < 40; ++i) {
    names.push_back(Numbered("f\xc3\xa4mily: \"# ", i));
    (void)Must(store->EnsureFamily(Traits(names.back())));
  }
  ASSERT_THAT(store->Close(), IsOk());
  EXPECT_EQ(FamilyNamesOf(path_), names);
}

}  // namespace
}  // namespace kvbatch::testing
