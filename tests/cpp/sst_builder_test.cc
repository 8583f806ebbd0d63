#include "store/sst_builder.h"

#include <rocksdb/filter_policy.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table_properties.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>

#include "batch/wide_columns.h"
#include "store/sst_writing.h"
#include "target_testing.h"
#include "wire/connection.h"
#include "wire_testing.h"

namespace kvbatch::testing {
namespace {

constexpr uint64_t kWholeFile = uint64_t{1} << 40;

uint64_t BytesOf(const Entries& entries) {
  uint64_t bytes = 0;
  for (const auto& [key, value] : entries) {
    bytes += key.size() + value.size();
  }
  return bytes;
}

// What one file holds, and what its properties say.
struct FileRead {
  Entries entries;
  std::shared_ptr<const rocksdb::TableProperties> properties;
};

class SstBuilderTest : public ::testing::Test {
 protected:
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

  static std::unique_ptr<SstBuilder> BuilderOf(const std::shared_ptr<SourceStore>& store,
                                               const RangeBounds& bounds = {}, uint64_t file_bytes = kWholeFile,
                                               const ColumnFamilyDescription& target = Traits("default")) {
    return Must(SstBuilder::Create(store, Must(store->Family("default")), bounds, target, file_bytes));
  }

  void CopyOut(const SstBuilder& builder, const BuiltFile& built) {
    std::string bytes(built.file_bytes + 1, '\0');
    EXPECT_EQ(::pread(builder.fd(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(built.file_bytes));
    bytes.resize(built.file_bytes);
    WriteFile(copy_, bytes);
  }

  FileRead Read(const SstBuilder& builder, const BuiltFile& built,
                const ColumnFamilyDescription& target = Traits("default")) {
    CopyOut(builder, built);
    rocksdb::SstFileReader reader(SstOptions(target));
    Check(reader.Open(copy_));
    Check(reader.VerifyChecksum());
    FileRead read;
    read.properties = reader.GetTableProperties();
    const std::unique_ptr<rocksdb::Iterator> iterator(reader.NewIterator(rocksdb::ReadOptions()));
    for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
      read.entries.emplace_back(iterator->key().ToString(), iterator->value().ToString());
    }
    Check(iterator->status());
    EXPECT_EQ(built.entries, read.entries.size());
    EXPECT_EQ(built.raw_bytes, BytesOf(read.entries));
    EXPECT_EQ(built.last_key, read.entries.back().first);
    return read;
  }

  static BuiltFile BuildWhole(SstBuilder* builder, uint64_t step_bytes = kWholeFile) {
    BuiltFile built;
    do {
      const BuiltFile before = built;
      built = Must(builder->Build(step_bytes));
      if (!built.whole) {
        EXPECT_GE(built.raw_bytes, before.raw_bytes + step_bytes);
        EXPECT_EQ(built.file_bytes, 0U);
        EXPECT_FALSE(built.ends_range);
      }
    } while (!built.whole);
    return built;
  }

  // All files of a range one behind the other.
  std::vector<Entries> BuildAll(SstBuilder* builder, uint64_t step_bytes,
                                const ColumnFamilyDescription& target = Traits("default")) {
    std::vector<Entries> files;
    while (true) {
      const BuiltFile built = BuildWhole(builder, step_bytes);
      if (built.entries == 0) {
        EXPECT_TRUE(built.ends_range);
        return files;
      }
      files.push_back(Read(*builder, built, target).entries);
      if (built.ends_range) {
        return files;
      }
    }
  }

  static Entries Joined(const std::vector<Entries>& files) {
    Entries all;
    for (const Entries& file : files) {
      all.insert(all.end(), file.begin(), file.end());
    }
    return all;
  }

  static uint64_t MemoryOf(const SstBuilder& builder) {
    struct stat file{};
    EXPECT_EQ(::fstat(builder.fd(), &file), 0);
    return static_cast<uint64_t>(file.st_blocks) * 512;
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
  const std::string copy_ = directory_ / "copy.sst";
};

TEST_F(SstBuilderTest, TheFileIsTheRange) {
  const Entries entries = SomeEntries(5000);
  const auto store = StoreOf(entries);
  const auto builder = BuilderOf(store);
  const BuiltFile built = BuildWhole(builder.get());
  EXPECT_TRUE(built.ends_range);
  EXPECT_EQ(Read(*builder, built).entries, entries);
  EXPECT_EQ(FormatVersionOf(copy_), 5U);
  const auto inside = BuilderOf(store, {entries[100].first, entries[3000].first, std::nullopt});
  EXPECT_EQ(Read(*inside, BuildWhole(inside.get())).entries, Entries(entries.begin() + 100, entries.begin() + 3000));
}

TEST_F(SstBuilderTest, StepsChangeNothing) {
  const Entries entries = SomeEntries(500);
  const auto store = StoreOf(entries);
  for (const uint64_t step : {uint64_t{1}, uint64_t{30}, uint64_t{5000}, BytesOf(entries), kWholeFile}) {
    const auto builder = BuilderOf(store);
    EXPECT_EQ(Joined(BuildAll(builder.get(), step)), entries) << "steps of " << step;
  }
}

TEST_F(SstBuilderTest, FilesOfARangeJoinWithoutOverlap) {
  const Entries entries = SomeEntries(3000, 100);
  const auto store = StoreOf(entries);
  auto target = Traits("default");
  target.compression = "none";
  target.block_size = 1024;
  for (const uint64_t file_bytes : {uint64_t{1}, uint64_t{20'000}, uint64_t{100'000}, uint64_t{250'000}}) {
    const auto builder = BuilderOf(store, {}, file_bytes, target);
    const auto files = BuildAll(builder.get(), 1000, target);
    EXPECT_EQ(Joined(files), entries);
    for (const Entries& file : files) {
      EXPECT_LT(BytesOf(file), file_bytes + 2048);
    }
    EXPECT_GE(files.size(), BytesOf(entries) / (file_bytes + 2048));
  }
}

TEST_F(SstBuilderTest, GoesOnBehindAKey) {
  const Entries entries = SomeEntries(1000);
  const auto store = StoreOf(entries);
  for (const size_t at : {size_t{0}, size_t{1}, size_t{500}, size_t{998}}) {
    const auto builder = BuilderOf(store, {std::nullopt, std::nullopt, entries[at].first});
    EXPECT_EQ(Read(*builder, BuildWhole(builder.get())).entries, Suffix(entries, at + 1));
  }
  const auto behind = BuilderOf(store, {std::nullopt, std::nullopt, entries[400].first + "x"});
  EXPECT_EQ(Read(*behind, BuildWhole(behind.get())).entries, Suffix(entries, 401));
}

TEST_F(SstBuilderTest, AnEmptyRangeHasNoFile) {
  const Entries entries = SomeEntries(10);
  const auto store = StoreOf(entries);
  for (const auto& bounds : std::vector<RangeBounds>{{"a", "b", std::nullopt},
                                                     {"key000001", "key000001", std::nullopt},
                                                     {std::nullopt, std::nullopt, entries.back().first}}) {
    const auto builder = BuilderOf(store, bounds);
    for (int call = 0; call < 2; ++call) {
      const BuiltFile built = Must(builder->Build(1));
      EXPECT_TRUE(built.whole);
      EXPECT_TRUE(built.ends_range);
      EXPECT_EQ(built.entries, 0U);
      EXPECT_EQ(built.file_bytes, 0U);
    }
  }
}

TEST_F(SstBuilderTest, MemoryIsOneFileAndGivenBack) {
  const Entries entries = SomeEntries(4000, 1000);
  const auto store = StoreOf(entries);
  auto target = Traits("default");
  target.compression = "none";
  constexpr uint64_t kFileBytes = 1 << 20;
  const auto builder = BuilderOf(store, {}, kFileBytes, target);
  size_t files = 0;
  for (BuiltFile built; !built.ends_range; ++files) {
    built = BuildWhole(builder.get(), 100'000);
    EXPECT_LT(built.file_bytes, kFileBytes + (64 << 10));
    EXPECT_LT(MemoryOf(*builder), kFileBytes + (64 << 10));
  }
  EXPECT_GE(files, 4U);
  EXPECT_EQ(Must(builder->Build(1)).entries, 0U);
  EXPECT_EQ(MemoryOf(*builder), 0U);
}

// A socket may hold on to pages of a file long after sendfile returned.
TEST_F(SstBuilderTest, WhatIsOnItsWayOutIsNotTouchedByTheNextFile) {
  const auto store = StoreOf(SomeEntries(3000, 100));
  const auto builder = BuilderOf(store, {}, 100'000);
  auto [ours, theirs] = TcpPair();
  Connection sender(std::move(ours), "receiver", FrameLimits());
  FrameLimits limits;
  limits.max_file_bytes = 1 << 20;
  Connection receiver(std::move(theirs), "sender", limits);
  const BuiltFile built = BuildWhole(builder.get());
  EXPECT_THAT(sender.SendFile(builder->fd(), 0, built.file_bytes, "first"), IsOk());
  EXPECT_FALSE(BuildWhole(builder.get()).ends_range);
  Frame frame(SharedPool());
  ASSERT_THAT(receiver.Receive(&frame), IsOk());
  const UniqueFd out(::memfd_create("received", 0));
  EXPECT_THAT(receiver.ReceiveFile(out.get(), 0, "first"), IsOk());
}

TEST_F(SstBuilderTest, ValuesLargerThanAFile) {
  const Entries entries = {{"a", "1"}, {"b", Repetitive(6 << 20)}, {"c", std::string(5 << 20, 'x')}, {"d", ""}};
  const auto store = StoreOf(entries);
  const auto builder = BuilderOf(store, {}, 1 << 10);
  EXPECT_EQ(Joined(BuildAll(builder.get(), 1)), entries);
}

TEST_F(SstBuilderTest, EntitiesStayEntities) {
  const std::string large(3000, 'o');
  const Entries columns = {{"", "default"}, {"name", "value"}, {"other", large}};
  for (const bool in_files : {true, false}) {
    std::filesystem::remove_all(path_);
    {
      OwnedStore store(path_);
      store.Put("a", "plain");
      store.PutEntity("b", {{"", "default"}, {"name", "value"}, {"other", large}});
      store.PutEntity("c", {{"", "only the default column"}});
      store.PutEntity("d", {});
      if (in_files) {
        store.Flush();
      }
    }
    const auto store = OpenSource(path_);
    const auto builder = BuilderOf(store);
    CopyOut(*builder, BuildWhole(builder.get()));
    rocksdb::SstFileReader reader(SstOptions(Traits("default")));
    Check(reader.Open(copy_));
    const std::unique_ptr<rocksdb::Iterator> iterator(reader.NewIterator(rocksdb::ReadOptions()));
    std::map<std::string, Entries> found;
    for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
      Entries& entity = found[iterator->key().ToString()];
      for (const auto& column : iterator->columns()) {
        entity.emplace_back(column.name().ToString(), column.value().ToString());
      }
    }
    const std::map<std::string, Entries> expected = {
        {"a", {{"", "plain"}}}, {"b", columns}, {"c", {{"", "only the default column"}}}, {"d", {}}};
    EXPECT_EQ(found, expected);
  }
}

TEST_F(SstBuilderTest, ReverseOrder) {
  rocksdb::ColumnFamilyOptions options;
  options.comparator = rocksdb::ReverseBytewiseComparator();
  Entries entries = SomeEntries(1000, 100);
  const auto store = StoreOf(entries, options);
  std::reverse(entries.begin(), entries.end());
  auto target = ReverseTraits("default");
  const auto builder = BuilderOf(store, {entries[10].first, entries[900].first, entries[20].first}, 10'000, target);
  const auto files = BuildAll(builder.get(), 1000, target);
  EXPECT_GT(files.size(), 2U);
  EXPECT_EQ(Joined(files), Entries(entries.begin() + 21, entries.begin() + 900));
}

TEST_F(SstBuilderTest, CompressedFilteredAndCutAsTheTargetWants) {
  const auto store = StoreOf({{"a", Repetitive(100'000)}, {"b", Repetitive(100'000)}});
  const std::vector<std::pair<std::string, std::string>> names = {
      {"none", "NoCompression"}, {"lz4", "LZ4"}, {"zstd", "ZSTD"}, {"snappy", "Snappy"}};
  for (const auto& [name, in_properties] : names) {
    auto target = Traits("default");
    target.compression = name;
    if (!ParseCompression(name).ok()) {
      continue;
    }
    const auto builder = BuilderOf(store, {}, kWholeFile, target);
    EXPECT_EQ(Read(*builder, BuildWhole(builder.get()), target).properties->compression_name, in_properties);
  }
  auto target = Traits("default");
  target.filter_policy = "bloomfilter:10:false";
  target.block_size = 64 << 10;
  const auto builder = BuilderOf(store, {}, kWholeFile, target);
  const FileRead read = Read(*builder, BuildWhole(builder.get()), target);
  EXPECT_GT(read.properties->filter_size, 0U);
  EXPECT_EQ(read.properties->num_data_blocks, 2U);
}

TEST_F(SstBuilderTest, WhatTheTargetSaysIsChecked) {
  const auto store = StoreOf(SomeEntries(3));
  const auto create = [&](const ColumnFamilyDescription& target) {
    return SstBuilder::Create(store, Must(store->Family("default")), {}, target, kWholeFile).status();
  };
  auto target = Traits("default");
  target.compression = "magic";
  EXPECT_THAT(create(target), Fails(Code::kUsage, "magic"));
  target = Traits("default");
  target.comparator = "theirs";
  EXPECT_THAT(create(target), Fails(Code::kRefused, "theirs"));
  EXPECT_THAT(create(ReverseTraits("default")), Fails(Code::kRefused, "comparator"));
}

TEST_F(SstBuilderTest, ADamagedSourceIsNamed) {
  {
    const auto store = StoreOf(SomeEntries(20'000, 100));
  }
  const std::string file = FilesEndingWith(path_, ".sst").at(0);
  std::string bytes = ReadFile(file);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  WriteFile(file, bytes);
  const auto store = OpenSource(path_);
  const auto builder = BuilderOf(store);
  const std::string name = std::filesystem::path(file).filename();
  EXPECT_THAT(builder->Build(kWholeFile), Fails(Code::kSource, name));
  EXPECT_THAT(builder->Build(kWholeFile), Fails(Code::kSource, name));
}

void BuildWithTooLittleMemory() {
  const TempDir directory;
  const std::string path = directory / "store";
  {
    OwnedStore store(path);
    for (const auto& [key, value] : SomeEntries(100, 100'000)) {
      store.Put(key, value);
    }
    store.Flush();
  }
  const auto store = OpenSource(path);
  auto target = Traits("default");
  target.compression = "none";
  const auto builder = Must(SstBuilder::Create(store, Must(store->Family("default")), {}, target, kWholeFile));
  // No file that this process writes may be larger, in memory or not.
  constexpr rlimit kLimit{1 << 20, 1 << 20};
  ::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &kLimit);
  EXPECT_THAT(builder->Build(kWholeFile), Fails(Code::kNoSpace, "in memory"));
  EXPECT_THAT(builder->Build(kWholeFile), Fails(Code::kNoSpace, "in memory"));
}

TEST(SstBuilderMemoryTest, AWantOfMemoryIsSaid) {
  EXPECT_SURVIVES({ BuildWithTooLittleMemory(); });
}

}  // namespace
}  // namespace kvbatch::testing
