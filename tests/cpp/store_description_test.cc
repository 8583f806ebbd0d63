#include "store/store_description.h"

#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/version.h>

#include <fstream>

#include "store_testing.h"

namespace kvbatch::testing {
namespace {

namespace fs = std::filesystem;

class NumericComparator final : public rocksdb::Comparator {
 public:
  const char* Name() const override { return "example.NumericComparator"; }
  int Compare(const rocksdb::Slice& a, const rocksdb::Slice& b) const override { return a.compare(b); }
  void FindShortestSeparator(std::string*, const rocksdb::Slice&) const override {}
  void FindShortSuccessor(std::string*) const override {}
};

class LastOperator final : public rocksdb::AssociativeMergeOperator {
 public:
  const char* Name() const override { return "example.LastOperator"; }
  bool Merge(const rocksdb::Slice&, const rocksdb::Slice*, const rocksdb::Slice& value, std::string* result,
             rocksdb::Logger*) const override {
    *result = value.ToString();
    return true;
  }
};

rocksdb::ColumnFamilyOptions WithTable(const rocksdb::BlockBasedTableOptions& table) {
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// Makes a store with one family of these options beside the default one and describes that family.
ColumnFamilyDescription Described(const rocksdb::ColumnFamilyOptions& options) {
  const TempDir directory;
  const std::string path = directory / "store";
  {
    const OwnedStore store(path, {FamilyNamed("family", options)});
  }
  const auto families = Must(DescribeStore(path));
  EXPECT_EQ(families.size(), 2U);
  EXPECT_EQ(families.at(1).name, "family");
  return families.at(1);
}

TEST(DescribeStore, WhatIsNoStoreIsSaid) {
  const TempDir directory;
  EXPECT_THAT(DescribeStore(directory / "nowhere"), Fails(Code::kUsage, "does not exist. Nothing was written; give "));
  std::ofstream(directory / "file") << "x";
  EXPECT_THAT(DescribeStore(directory / "file"), Fails(Code::kUsage, "is not a directory. Nothing was written; give "));
  fs::create_directory(directory / "empty");
  EXPECT_THAT(DescribeStore(directory / "empty"), Fails(Code::kUsage, "no CURRENT file. Nothing was written; give "));
}

TEST(DescribeStore, ABrokenManifestIsASourceError) {
  const TempDir directory;
  const std::string path = directory / "store";
  fs::create_directory(path);
  std::ofstream(path + "/CURRENT") << "MANIFEST-000001\n";
  EXPECT_THAT(DescribeStore(path), Fails(Code::kSource, path));
  fs::remove_all(path);
  {
    const OwnedStore store(path, {FamilyNamed("family")});
  }
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().filename().string().starts_with("MANIFEST-")) {
      std::fstream manifest(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      manifest.seekp(20);
      manifest << "garbage";
    }
  }
  EXPECT_THAT(DescribeStore(path), Fails(Code::kSource, path));
}

TEST(DescribeStore, FamiliesComeInTheOrderOfTheirIds) {
  const TempDir directory;
  const std::string path = directory / "store";
  std::vector<std::string> expected = {"default"};
  {
    OwnedStore store(path);
    for (const char* name : {"zebra", "dropped", "apple", "mango"}) {
      rocksdb::ColumnFamilyHandle* handle = nullptr;
      Check(store->CreateColumnFamily(rocksdb::ColumnFamilyOptions(), name, &handle));
      if (std::string(name) == "dropped") {
        Check(store->DropColumnFamily(handle));
      } else {
        expected.emplace_back(name);
      }
      store->DestroyColumnFamilyHandle(handle);
    }
  }
  std::vector<std::string> names;
  for (const auto& family : Must(DescribeStore(path))) {
    names.push_back(family.name);
  }
  EXPECT_EQ(names, expected);
}

// Each name gets a comparator and a compression that can only come from its own section of OPTIONS.
TEST(DescribeStore, AnyNameFindsItsOwnOptions) {
  const std::vector<std::string> names = {"with space",
                                          " edges ",
                                          "tab\there",
                                          "quo\"te",
                                          "\"quoted\"",
                                          "ha#sh",
                                          "# comment",
                                          "col:on",
                                          "back\\slash",
                                          "trailing\\",
                                          "\\",
                                          "[CFOptions \"default\"]",
                                          "bracket]",
                                          "a=b",
                                          "semi;colon",
                                          "br{ac}e",
                                          "K\xc3\xa4se \xe6\x97\xa5\xe6\x9c\xac",
                                          "\xff\xfe",
                                          "new\nline",
                                          "cr\rhere",
                                          "cr at end\r",
                                          "n",
                                          "\\n"};
  rocksdb::ColumnFamilyOptions options;
  options.comparator = rocksdb::ReverseBytewiseComparator();
  options.compression = rocksdb::kZSTD;
  for (const std::string& name : names) {
    const TempDir directory;
    const std::string path = directory / "store";
    try {
      const OwnedStore store(path, {FamilyNamed(name, options)});
    } catch (const std::runtime_error& refused) {
      // RocksDB itself cannot keep the options of such a family.
      std::printf("RocksDB refuses the name %s: %s\n", ToHex(name).c_str(), refused.what());
      continue;
    }
    const auto families = Must(DescribeStore(path));
    ASSERT_EQ(families.size(), 2U) << name;
    EXPECT_EQ(families[1].name, name);
    EXPECT_EQ(families[1].comparator, "rocksdb.ReverseBytewiseComparator") << name;
    EXPECT_EQ(families[1].compression, "zstd") << name;
    EXPECT_EQ(families[0].comparator, "leveldb.BytewiseComparator") << name;
  }
}

TEST(DescribeStore, TheNewestOptionsFileCounts) {
  const TempDir directory;
  const std::string path = directory / "store";
  for (const auto compression : {rocksdb::kNoCompression, rocksdb::kZSTD, rocksdb::kSnappyCompression}) {
    rocksdb::ColumnFamilyOptions options;
    options.compression = compression;
    const OwnedStore store(path, {FamilyNamed("default", options)});
  }
  EXPECT_EQ(Must(DescribeStore(path))[0].compression, "snappy");
  // Numbers, not names: 1000000 is newer than 999999. What an interrupted writer left behind does not count.
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().filename().string().starts_with("OPTIONS-")) {
      fs::remove(entry.path());
    }
  }
  std::ofstream(path + "/OPTIONS-999999") << "[CFOptions \"default\"]\n  compression=kZSTD\n";
  std::ofstream(path + "/OPTIONS-1000000") << "[CFOptions \"default\"]\n  compression=kNoCompression\n";
  std::ofstream(path + "/OPTIONS-2000000.dbtmp") << "[CFOptions \"default\"]\n  compression=kZlibCompression\n";
  EXPECT_EQ(Must(DescribeStore(path))[0].compression, "none");
}

TEST(DescribeStore, WithoutOptionsItHasTheDefaults) {
  const TempDir directory;
  const std::string path = directory / "store";
  {
    const OwnedStore store(path);
  }
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().filename().string().starts_with("OPTIONS-")) {
      fs::remove(entry.path());
    }
  }
  const auto family = Must(DescribeStore(path)).at(0);
  EXPECT_EQ(family.comparator, "leveldb.BytewiseComparator");
  EXPECT_EQ(family.merge_operator, "");
  EXPECT_EQ(family.compression, ColumnFamilyDescription().compression);
}

TEST(DescribeStore, CompressionIsThatOfTheBottommostLevel) {
  const std::pair<rocksdb::CompressionType, const char*> types[] = {{rocksdb::kNoCompression, "none"},
                                                                    {rocksdb::kSnappyCompression, "snappy"},
                                                                    {rocksdb::kZlibCompression, "zlib"},
                                                                    {rocksdb::kBZip2Compression, "bzip2"},
                                                                    {rocksdb::kLZ4Compression, "lz4"},
                                                                    {rocksdb::kLZ4HCCompression, "lz4hc"},
                                                                    {rocksdb::kZSTD, "zstd"}};
  for (const auto& [type, name] : types) {
    rocksdb::ColumnFamilyOptions options;
    options.compression = type;
    EXPECT_EQ(Described(options).compression, name);
  }
  rocksdb::ColumnFamilyOptions options;
  options.compression = rocksdb::kSnappyCompression;
  options.compression_per_level = {rocksdb::kNoCompression, rocksdb::kLZ4Compression, rocksdb::kZlibCompression};
  EXPECT_EQ(Described(options).compression, "zlib");
  options.bottommost_compression = rocksdb::kZSTD;
  EXPECT_EQ(Described(options).compression, "zstd");
}

TEST(DescribeStore, ComparatorsAreNamed) {
  rocksdb::ColumnFamilyOptions options;
  EXPECT_EQ(Described(options).comparator, "leveldb.BytewiseComparator");
  options.comparator = rocksdb::ReverseBytewiseComparator();
  EXPECT_EQ(Described(options).comparator, "rocksdb.ReverseBytewiseComparator");
  EXPECT_THAT(CheckComparator(Described(options)), IsOk());
}

TEST(DescribeStore, CustomComparatorsAreRefusedByName) {
  const NumericComparator comparator;
  rocksdb::ColumnFamilyOptions options;
  options.comparator = &comparator;
  const auto family = Described(options);
  EXPECT_EQ(family.comparator, "example.NumericComparator");
  EXPECT_THAT(CheckComparator(family), Fails(Code::kRefused, "\"family\" is ordered by the comparator example.Num"));
}

TEST(DescribeStore, UserDefinedTimestampsAreRefused) {
#if ROCKSDB_MAJOR < 8
  GTEST_SKIP() << "RocksDB " << ROCKSDB_MAJOR << " has no comparator with timestamps of its own";
#else
  for (const auto* comparator :
       {rocksdb::BytewiseComparatorWithU64Ts(), rocksdb::ReverseBytewiseComparatorWithU64Ts()}) {
    rocksdb::ColumnFamilyOptions options;
    options.comparator = comparator;
    const auto family = Described(options);
    EXPECT_EQ(family.comparator, comparator->Name());
    EXPECT_THAT(CheckComparator(family), Fails(Code::kRefused, "user-defined timestamps"));
  }
#endif
}

TEST(DescribeStore, KnownMergeOperatorsAreUsable) {
  rocksdb::ColumnFamilyOptions options;
  EXPECT_EQ(Described(options).merge_operator, "");
  EXPECT_FALSE(HasUsableMergeOperator(Described(options)));
  for (const char* id : {"uint64add", "put", "max", "stringappend", "stringappendtest", "sortlist"}) {
    Check(rocksdb::MergeOperator::CreateFromString(rocksdb::ConfigOptions(), id, &options.merge_operator));
    const auto family = Described(options);
    EXPECT_NE(family.merge_operator, "");
    EXPECT_TRUE(HasUsableMergeOperator(family)) << family.merge_operator;
    EXPECT_STREQ(OpenOptions(family).merge_operator->Name(), options.merge_operator->Name());
  }
}

// Its delimiter decides what a merge gives, so it has to come along.
TEST(DescribeStore, AMergeOperatorKeepsItsOptions) {
  rocksdb::ColumnFamilyOptions options;
  Check(rocksdb::MergeOperator::CreateFromString(rocksdb::ConfigOptions(), "{id=stringappend;delimiter=|}",
                                                 &options.merge_operator));
  const auto merge_operator = OpenOptions(Described(options)).merge_operator;
  ASSERT_NE(merge_operator, nullptr);
  const rocksdb::Slice existing("a");
  std::string merged;
  const rocksdb::Slice key("key");
  const std::vector<rocksdb::Slice> operands = {"b"};
  const rocksdb::MergeOperator::MergeOperationInput input(key, &existing, operands, nullptr);
  rocksdb::Slice chosen(nullptr, 0);
  rocksdb::MergeOperator::MergeOperationOutput output(merged, chosen);
  ASSERT_TRUE(merge_operator->FullMergeV2(input, &output));
  EXPECT_EQ(merged, "a|b");
}

TEST(DescribeStore, CustomMergeOperatorsAreNamedAndNotUsable) {
  rocksdb::ColumnFamilyOptions options;
  options.merge_operator = std::make_shared<LastOperator>();
  const auto family = Described(options);
  EXPECT_THAT(family.merge_operator, ::testing::HasSubstr("example.LastOperator"));
  EXPECT_FALSE(HasUsableMergeOperator(family));
  const auto stand_in = OpenOptions(family).merge_operator;
  ASSERT_NE(stand_in, nullptr) << "the WAL would be read up to its first operand only";
  EXPECT_EQ(stand_in->Name(), family.merge_operator);
  const std::vector<rocksdb::Slice> operands = {"operand"};
  const rocksdb::Slice key("k");
  std::string merged;
  rocksdb::Slice chosen;
  const rocksdb::MergeOperator::MergeOperationInput input(key, nullptr, operands, nullptr);
  rocksdb::MergeOperator::MergeOperationOutput output(merged, chosen);
  EXPECT_FALSE(stand_in->FullMergeV2(input, &output));
}

TEST(DescribeStore, FiltersAndBlockSizesComeAlong) {
  rocksdb::BlockBasedTableOptions table;
  table.block_size = 8000;
  EXPECT_EQ(Described(WithTable(table)).filter_policy, "");
  EXPECT_EQ(Described(WithTable(table)).block_size, 8000U);
  for (const auto* policy : std::initializer_list<const rocksdb::FilterPolicy*>{
           rocksdb::NewBloomFilterPolicy(10), rocksdb::NewBloomFilterPolicy(14.5), rocksdb::NewRibbonFilterPolicy(9.9),
           rocksdb::NewRibbonFilterPolicy(12, 2)}) {
    table.filter_policy.reset(policy);
    const auto family = Described(WithTable(table));
    const auto options = OpenOptions(family);
    const auto* opened = options.table_factory->GetOptions<rocksdb::BlockBasedTableOptions>();
    ASSERT_NE(opened, nullptr);
    ASSERT_NE(opened->filter_policy, nullptr) << family.filter_policy;
    EXPECT_EQ(opened->filter_policy->GetId(), policy->GetId());
    EXPECT_EQ(opened->format_version, 5U);
    EXPECT_EQ(opened->block_size, 8000U);
  }
}

TEST(DescribeStore, BlockSizesOutOfReasonAreNotTaken) {
  rocksdb::BlockBasedTableOptions table;
  table.block_size = 64 << 20;
  EXPECT_EQ(Described(WithTable(table)).block_size, uint64_t{1} << 20);
}

TEST(ParseCompression, KnowsItsNamesOnly) {
  EXPECT_EQ(Must(ParseCompression("none")), rocksdb::kNoCompression);
  EXPECT_EQ(Must(ParseCompression("lz4")), rocksdb::kLZ4Compression);
  EXPECT_EQ(Must(ParseCompression("zstd")), rocksdb::kZSTD);
  for (const char* name : {"", "LZ4", "xpress", "kZSTD"}) {
    EXPECT_THAT(ParseCompression(name), Fails(Code::kUsage, "unknown compression \"" + std::string(name) + "\""));
  }
}

TEST(RocksdbVersion, IsTheLinkedOne) {
  EXPECT_THAT(RocksdbVersion(), ::testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
}

}  // namespace
}  // namespace kvbatch::testing
