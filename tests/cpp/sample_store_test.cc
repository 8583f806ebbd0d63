#include "store/sample_store.h"

#include <rocksdb/metadata.h>

#include <set>

#include "store_testing.h"

namespace kvbatch::testing {
namespace {

class SampleStoreTest : public ::testing::Test {
 protected:
  static SampleOptions Small(uint64_t entries = 2500) {
    SampleOptions options;
    options.entries = entries;
    return options;
  }

  Entries Sample(const std::string& name, const SampleOptions& options) {
    EXPECT_THAT(WriteSampleStore(directory_ / name, options), IsOk());
    return EntriesAsOwner(directory_ / name);
  }

  const TempDir directory_;
};

TEST_F(SampleStoreTest, HasTheEntriesThatWereAskedFor) {
  for (const uint64_t count : {0, 1, 999, 1000, 1001, 2500}) {
    const Entries entries = Sample(std::to_string(count), Small(count));
    EXPECT_EQ(entries.size(), count);
    for (const auto& [key, value] : entries) {
      ASSERT_EQ(key.size(), 16U);
      ASSERT_EQ(value.size(), 100U);
    }
  }
}

TEST_F(SampleStoreTest, TheSameSeedGivesTheSameEntries) {
  const Entries first = Sample("first", Small());
  EXPECT_EQ(Sample("second", Small()), first);
  SampleOptions other = Small();
  other.seed = 2;
  std::set<std::string> keys;
  for (const auto& [key, value] : first) {
    keys.insert(key);
  }
  for (const auto& [key, value] : Sample("other", other)) {
    EXPECT_FALSE(keys.contains(key)) << "of both seeds";
  }
}

TEST_F(SampleStoreTest, KeysAreScatteredOverTheKeySpace) {
  const Entries entries = Sample("store", Small(1000));
  std::set<char> first_digits;
  for (const auto& [key, value] : entries) {
    first_digits.insert(key[0]);
  }
  EXPECT_EQ(first_digits.size(), 16U);
}

TEST_F(SampleStoreTest, SizesOfKeysAndValuesAreThoseAskedFor) {
  for (const auto& [key_bytes, value_bytes] :
       std::vector<std::pair<uint32_t, uint32_t>>{{16, 0}, {17, 1}, {64, 7}, {1000, 4000}}) {
    SampleOptions options = Small(100);
    options.key_bytes = key_bytes;
    options.value_bytes = value_bytes;
    const Entries entries = Sample(std::to_string(key_bytes), options);
    EXPECT_EQ(entries.size(), 100U);
    for (const auto& [key, value] : entries) {
      ASSERT_EQ(key.size(), key_bytes);
      ASSERT_EQ(value.size(), value_bytes);
    }
  }
  SampleOptions options = Small(1);
  options.key_bytes = 15;
  EXPECT_THAT(WriteSampleStore(directory_ / "short", options), Fails(Code::kUsage, "16"));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "short"));
}

TEST_F(SampleStoreTest, ValuesCompressAboutTwofold) {
  SampleOptions options = Small(20'000);
  const auto size = [&](const char* name) {
    EXPECT_THAT(WriteSampleStore(directory_ / name, options), IsOk());
    const OwnedStore store(directory_ / name);
    rocksdb::ColumnFamilyMetaData data;
    store->GetColumnFamilyMetaData(store.family(), &data);
    return static_cast<double>(data.size);
  };
  const double plain = size("plain");
  options.compression = "lz4";
  const double compressed = size("compressed");
  EXPECT_GT(plain / compressed, 1.4);
  EXPECT_LT(plain / compressed, 2.5);
}

TEST_F(SampleStoreTest, ACompactedOneIsAStoreAtRest) {
  for (const bool compact : {true, false}) {
    const std::string path = directory_ / (compact ? "compact" : "as-written");
    SampleOptions options = Small();
    options.compact = compact;
    ASSERT_THAT(WriteSampleStore(path, options), IsOk());
    const OwnedStore store(path);
    rocksdb::ColumnFamilyMetaData data;
    store->GetColumnFamilyMetaData(store.family(), &data);
    size_t above = 0;
    for (size_t level = 0; level + 1 < data.levels.size(); ++level) {
      above += data.levels[level].files.size();
    }
    if (compact) {
      EXPECT_EQ(above, 0U);
      EXPECT_EQ(data.levels.back().files.size(), 1U);
    }
    EXPECT_EQ(AllEntries(store.db(), store.family()).size(), options.entries);
  }
}

TEST_F(SampleStoreTest, NothingIsOverwritten) {
  const std::string path = directory_ / "store";
  const Entries entries = Sample("store", Small(10));
  EXPECT_THAT(WriteSampleStore(path, Small(20)), Fails(Code::kRefused, path));
  EXPECT_EQ(EntriesAsOwner(path), entries);
  std::filesystem::create_directory(directory_ / "empty");
  EXPECT_THAT(WriteSampleStore(directory_ / "empty", Small(20)), Fails(Code::kRefused, "empty"));
  EXPECT_TRUE(std::filesystem::is_empty(directory_ / "empty"));
  EXPECT_THAT(WriteSampleStore(directory_ / "missing/store", Small(20)), Fails(Code::kTarget, "missing"));
}

TEST_F(SampleStoreTest, AnUnknownCompressionIsWrongUsage) {
  SampleOptions options = Small(10);
  options.compression = "lzma";
  EXPECT_THAT(WriteSampleStore(directory_ / "store", options), Fails(Code::kUsage, "lzma"));
}

}  // namespace
}  // namespace kvbatch::testing
