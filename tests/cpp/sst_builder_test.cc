#include "store/sst_builder.h"

#include <rocksdb/filter_policy.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table_properties.h>

#include <map>
#include <utility>

#include "frame/large_entry.h"
#include "store/sst_writing.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

constexpr size_t kWholeFile = size_t{1} << 40;

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

  // One file, and where it ended; none when the range was at its end.
  struct WholeFile {
    std::string bytes;
    BuiltPiece end;
    size_t pieces = 0;
  };

  static WholeFile BuildFile(SstBuilder* builder, size_t piece_bytes = kWholeFile) {
    WholeFile file;
    do {
      const BuiltPiece before = std::exchange(file.end, Must(builder->Build(piece_bytes)));
      if (file.end.needed_bytes > 0) {
        EXPECT_THAT(builder->MakeRoom(BufferPool::Create(size_t{1} << 30), file.end.needed_bytes), IsOk());
      }
      const std::string_view piece = builder->piece();
      EXPECT_EQ(file.end.offset, file.bytes.size());
      EXPECT_EQ(file.end.length, piece.size());
      EXPECT_LE(piece.size(), piece_bytes);
      EXPECT_GE(file.end.entries, before.entries);
      EXPECT_GE(file.end.raw_bytes, before.raw_bytes);
      file.bytes += piece;
      ++file.pieces;
    } while (!file.end.ends_file && !file.end.ends_range);
    return file;
  }

  FileRead Read(const WholeFile& file, const ColumnFamilyDescription& target = Traits("default")) {
    WriteFile(copy_, file.bytes);
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
    EXPECT_TRUE(file.end.ends_file);
    EXPECT_EQ(file.end.entries, read.entries.size());
    EXPECT_EQ(file.end.raw_bytes, BytesOf(read.entries));
    EXPECT_EQ(file.end.last_key, read.entries.back().first);
    return read;
  }

  // All files of a range one behind the other.
  std::vector<Entries> BuildAll(SstBuilder* builder, size_t piece_bytes,
                                const ColumnFamilyDescription& target = Traits("default")) {
    std::vector<Entries> files;
    while (true) {
      const WholeFile file = BuildFile(builder, piece_bytes);
      if (!file.end.ends_file) {
        EXPECT_EQ(file.end.entries, 0U);
        return files;
      }
      files.push_back(Read(file, target).entries);
      if (file.end.ends_range) {
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

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
  const std::string copy_ = directory_ / "copy.sst";
};

TEST_F(SstBuilderTest, ALargeEntryIsNotReadBeforeThereIsRoomAndEndsItsFile) {
  const Entries entries = {
      {"a", "1"}, {"b", std::string(kLargeEntryBytes, 'x')}, {"c", std::string(3 * kLargeEntryBytes, 'y')}, {"d", "2"}};
  auto builder = BuilderOf(StoreOf(entries));
  const auto pool = BufferPool::Create(size_t{64} << 20);
  constexpr size_t kPiece = 100'000;
  std::vector<Entries> files;
  std::string bytes;
  size_t asked = 0;
  for (BuiltPiece piece; !piece.ends_range;) {
    piece = Must(builder->Build(kPiece));
    bytes += builder->piece();
    if (piece.needed_bytes > 0) {
      ++asked;
      ASSERT_THAT(builder->MakeRoom(pool, piece.needed_bytes), IsOk());
      EXPECT_EQ(pool->leased_bytes(), kLargeEntryCopies * piece.needed_bytes);
    }
    if (piece.ends_file) {
      files.push_back(Read({std::exchange(bytes, std::string()), piece, 0}).entries);
    }
  }
  EXPECT_EQ(Joined(files), entries);
  EXPECT_EQ(files.size(), 3U);
  EXPECT_GE(asked, 2U);
  builder.reset();
  EXPECT_EQ(pool->leased_bytes(), 0U);
}

TEST_F(SstBuilderTest, TheFileIsTheRange) {
  const Entries entries = SomeEntries(5000);
  const auto store = StoreOf(entries);
  const auto builder = BuilderOf(store);
  const WholeFile file = BuildFile(builder.get());
  EXPECT_TRUE(file.end.ends_range);
  EXPECT_EQ(Read(file).entries, entries);
  EXPECT_EQ(FormatVersionOf(copy_), 5U);
  const auto inside = BuilderOf(store, {entries[100].first, entries[3000].first, std::nullopt});
  EXPECT_EQ(Read(BuildFile(inside.get())).entries, Entries(entries.begin() + 100, entries.begin() + 3000));
}

TEST_F(SstBuilderTest, TheSizeOfThePiecesChangesNothing) {
  const Entries entries = SomeEntries(500);
  const auto store = StoreOf(entries);
  const size_t whole = BuildFile(BuilderOf(store).get()).bytes.size();
  for (const size_t piece : {size_t{1}, size_t{30}, size_t{5000}, whole - 1, whole, whole + 1}) {
    const auto builder = BuilderOf(store);
    const WholeFile file = BuildFile(builder.get(), piece);
    EXPECT_EQ(file.pieces, (whole + piece - 1) / piece);
    EXPECT_EQ(Read(file).entries, entries) << "pieces of " << piece;
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
    EXPECT_EQ(Read(BuildFile(builder.get())).entries, Suffix(entries, at + 1));
  }
  const auto behind = BuilderOf(store, {std::nullopt, std::nullopt, entries[400].first + "x"});
  EXPECT_EQ(Read(BuildFile(behind.get())).entries, Suffix(entries, 401));
}

TEST_F(SstBuilderTest, AnEmptyRangeHasNoFile) {
  const Entries entries = SomeEntries(10);
  const auto store = StoreOf(entries);
  for (const auto& bounds : std::vector<RangeBounds>{{"a", "b", std::nullopt},
                                                     {"key000001", "key000001", std::nullopt},
                                                     {std::nullopt, std::nullopt, entries.back().first}}) {
    const auto builder = BuilderOf(store, bounds);
    for (int call = 0; call < 2; ++call) {
      const BuiltPiece piece = Must(builder->Build(1));
      EXPECT_TRUE(piece.ends_range);
      EXPECT_FALSE(piece.ends_file);
      EXPECT_EQ(piece.entries, 0U);
      EXPECT_EQ(builder->piece(), "");
    }
  }
}

TEST_F(SstBuilderTest, BehindTheLastFileThereIsNothing) {
  const auto store = StoreOf(SomeEntries(10));
  const auto builder = BuilderOf(store);
  EXPECT_TRUE(BuildFile(builder.get()).end.ends_file);
  const BuiltPiece piece = Must(builder->Build(1));
  EXPECT_TRUE(piece.ends_range);
  EXPECT_FALSE(piece.ends_file);
  EXPECT_EQ(piece.entries, 0U);
  EXPECT_EQ(builder->piece(), "");
}

// What compresses to next to nothing would else keep a caller waiting until a piece is full.
TEST_F(SstBuilderTest, ACallAddsNoMoreThanAFewMebibytes) {
  Entries entries;
  for (size_t i = 0; i < 60; ++i) {
    entries.emplace_back(Numbered("key", i), Repetitive(1 << 20));
  }
  const auto store = StoreOf(entries);
  const auto builder = BuilderOf(store);
  BuiltPiece before;
  for (BuiltPiece piece; !piece.ends_range; before = piece) {
    piece = Must(builder->Build(64 << 20));
    EXPECT_LT(piece.raw_bytes - before.raw_bytes, 10U << 20);
  }
  EXPECT_EQ(before.raw_bytes, BytesOf(entries));
}

TEST_F(SstBuilderTest, ValuesLargerThanAFile) {
  const Entries entries = {{"a", "1"}, {"b", Repetitive(6 << 20)}, {"c", std::string(5 << 20, 'x')}, {"d", ""}};
  const auto store = StoreOf(entries);
  const auto builder = BuilderOf(store, {}, 1 << 10);
  EXPECT_EQ(Joined(BuildAll(builder.get(), 1)), entries);
}

TEST_F(SstBuilderTest, EntitiesStayEntities) {
  if (ROCKSDB_MAJOR < 9) {
    GTEST_SKIP() << "RocksDB " << ROCKSDB_MAJOR << " builds no SST files with entities";
  }
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
    WriteFile(copy_, BuildFile(builder.get()).bytes);
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
    EXPECT_EQ(Read(BuildFile(builder.get()), target).properties->compression_name, in_properties);
  }
  auto target = Traits("default");
  target.filter_policy = "bloomfilter:10:false";
  target.block_size = 64 << 10;
  const auto builder = BuilderOf(store, {}, kWholeFile, target);
  const FileRead read = Read(BuildFile(builder.get()), target);
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

}  // namespace
}  // namespace kvbatch::testing
