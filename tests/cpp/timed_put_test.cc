#include "store/timed_put.h"

#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table.h>
#include <unistd.h>

#include "batch/batch_reader.h"
#include "store/entry_iterator.h"
#include "store/overlay_reader.h"
#include "target_testing.h"

#if KVBATCH_TABLE_ITERATORS

#include <rocksdb/utilities/types_util.h>

namespace kvbatch::testing {
namespace {

// RocksDB packs a TimedPut with a sequence number only where it keeps track of times.
rocksdb::ColumnFamilyOptions KeepingTimes() {
  rocksdb::ColumnFamilyOptions options;
  options.preserve_internal_time_seconds = 10'000;
  options.disable_auto_compactions = true;
  return options;
}

class TimedPutTest : public ::testing::Test {
 protected:
  static void Compact(const OwnedStore& store) {
    rocksdb::CompactRangeOptions options;
    options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
    Check(store->CompactRange(options, store.family(), nullptr, nullptr));
  }

  // A base of `entries` in the last level.
  void MakeBase(const Entries& entries) {
    const OwnedStore store(path_);
    for (const auto& [key, value] : entries) {
      Check(store->Put(rocksdb::WriteOptions(), key, value));
    }
    Compact(store);
  }

  // A base that holds a timed value yet, at sequence number 0: a deleted range lies between the number that it has and
  // the one that it prefers.
  void MakeTimedBase(const std::string& key, const std::string& value) {
    {
      OwnedStore store(path_, {FamilyNamed("default", KeepingTimes())});
      store.Put("a", "plain");
      store.Put("b", "deleted");
      Check(store->DeleteRange(rocksdb::WriteOptions(), store.family(), "b", "z"));
      store.TimedPut(key, value);
      store.Flush();
    }
    Compact(OwnedStore(path_));
  }

  static size_t TimedPutsIn(const std::string& file) {
    rocksdb::SstFileReader reader{rocksdb::Options()};
    Check(reader.Open(file));
    const auto table = reader.NewTableIterator();
    size_t found = 0;
    for (table->SeekToFirst(); table->Valid(); table->Next()) {
      rocksdb::ParsedEntryInfo record;
      Check(rocksdb::ParseEntry(table->key(), rocksdb::BytewiseComparator(), &record));
      found += record.type == rocksdb::kEntryTimedPut ? 1 : 0;
    }
    return found;
  }

  size_t TimedPutsInFiles() const {
    size_t found = 0;
    for (const auto& file : FilesEndingWith(path_, ".sst")) {
      found += TimedPutsIn(file);
    }
    return found;
  }

  // A store whose one file holds a put of "key" in a block without a checksum, with the type of the record changed
  // into that of a TimedPut. The name of that file.
  std::string WriteRaw(const std::string& value) const {
    rocksdb::BlockBasedTableOptions table;
    table.checksum = rocksdb::kNoChecksum;
    rocksdb::ColumnFamilyOptions options;
    options.compression = rocksdb::kNoCompression;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    {
      OwnedStore store(path_, {FamilyNamed("default", options)});
      store.Put("key", value);
      store.Flush();
    }
    const std::vector<std::string> files = FilesEndingWith(path_, ".sst");
    const std::string file = *std::max_element(files.begin(), files.end());
    std::string bytes = ReadFile(file);
    const size_t at = bytes.find(std::string("key\1", 4));
    bytes.at(at + 3) = 0x18;
    WriteFile(file, bytes);
    return file;
  }

  static Entries Shown(const SourceStore& store, bool* ended_in_tables) {
    EntryIterator iterator(store, Must(store.Family("default")), {});
    Entries entries;
    for (; iterator.Valid(); iterator.Next()) {
      iterator.Load();
      entries.emplace_back(iterator.key(), iterator.value());
    }
    EXPECT_THAT(iterator.status(), IsOk());
    *ended_in_tables = iterator.reads_tables();
    return entries;
  }

  // Only one file of the store can be moved.
  static TableFile BaseOf(const SourceStore& store) {
    std::vector<TableFile> bases;
    for (const TableFile& file : Must(store.Tables(Must(store.Family("default"))))->files) {
      if (file.graftable) {
        bases.push_back(file);
      }
    }
    EXPECT_EQ(bases.size(), 1U);
    return bases.at(0);
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
};

TEST_F(TimedPutTest, TablesShowThePlainValue) {
  {
    OwnedStore store(path_, {FamilyNamed("default", KeepingTimes())});
    store.Put("a", "plain");
    store.TimedPut("b", "timed");
    store.TimedPut("c", "");
    store.TimedPut("d", "deleted");
    Check(store->Delete(rocksdb::WriteOptions(), "d"));
    store.Put("e", "older");
    store.TimedPut("e", std::string(5000, 'x'));
    store.Flush();
  }
  EXPECT_EQ(TimedPutsInFiles(), 3U);
  const auto store = OpenSource(path_);
  bool ended_in_tables = false;
  const Entries shown = Shown(*store, &ended_in_tables);
  EXPECT_TRUE(ended_in_tables);
  EXPECT_EQ(shown, (Entries{{"a", "plain"}, {"b", "timed"}, {"c", ""}, {"e", std::string(5000, 'x')}}));
  EXPECT_EQ(shown, AllEntries(store->db(), Must(store->Family("default"))));
}

TEST_F(TimedPutTest, OverAGraftedFileTheyArePuts) {
  Entries entries = SomeEntries(100);
  MakeBase(entries);
  {
    OwnedStore store(path_, {FamilyNamed("default", KeepingTimes())});
    store.TimedPut(entries[3].first, "in a file");
    store.TimedPut("new", "");
    store.Flush();
    store.TimedPut(entries[5].first, "in the WAL");
    Check(store->Delete(rocksdb::WriteOptions(), entries[7].first));
  }
  EXPECT_EQ(TimedPutsInFiles(), 2U);
  const auto store = OpenSource(path_);
  EXPECT_TRUE(Must(store->MemtablesArePlain("default")));
  auto* family = Must(store->Family("default"));
  OverlayReader reader(store, family, BaseOf(*store), {}, 0, Digest());
  Frame frame(SharedPool());
  ASSERT_EQ(Must(reader.Fill(&frame, 1 << 20, Codec::kNone)).entries, 4U);
  EXPECT_EQ(reader.entries(), 100U);
  BatchReader records(Must(frame.OpenRaw()));
  Entries puts;
  for (Record record; records.Next(&record);) {
    puts.emplace_back(record.key, record.kind == RecordKind::kPut ? record.value : "(deleted)");
  }
  EXPECT_EQ(puts, (Entries{{entries[3].first, "in a file"},
                           {entries[5].first, "in the WAL"},
                           {entries[7].first, "(deleted)"},
                           {"new", ""}}));
}

TEST_F(TimedPutTest, AGraftedFileThatHoldsOneIsReadAsTheSourceIs) {
  MakeTimedBase("k", "timed");
  const Entries expected = {{"a", "plain"}, {"k", "timed"}};
  const auto source = OpenSource(path_);
  const TableFile base = BaseOf(*source);
  ASSERT_EQ(TimedPutsIn(base.path), 1U);
  bool ended_in_tables = false;
  EXPECT_EQ(Shown(*source, &ended_in_tables), expected);
  EXPECT_TRUE(ended_in_tables);

  const auto target = OpenTarget(directory_ / "target");
  const auto applier = ApplierFor(target, ApplyMode::kIngest, RangeOf(0));
  const std::string bytes = ReadFile(base.path);
  const int fd = Must(applier->OpenTaken());
  ASSERT_EQ(::pwrite(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  ASSERT_THAT(applier->AddPiece(bytes.size(), Crc32c(bytes)), IsOk());
  ASSERT_THAT(applier->EndFile({.entries = 2, .raw_bytes = base.raw_bytes, .last_key = "k", .graft = true}), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_EQ(FinishedEntries(target), expected);
  {
    OwnedStore owner(target->path());
    owner.Put("k", "newer");
    Compact(owner);
  }
  EXPECT_EQ(EntriesAsOwner(target->path()), (Entries{{"a", "plain"}, {"k", "newer"}}));
}

TEST_F(TimedPutTest, OneThatIsTooShortIsTheFilesFault) {
  const std::string file = WriteRaw("1234567");
  const auto store = OpenSource(path_);
  const EntryIterator entries(*store, Must(store->Family("default")), {});
  EXPECT_FALSE(entries.Valid());
  EXPECT_THAT(entries.status(), Fails(Code::kSource, "malformed timed value in " + file));
}

TEST_F(TimedPutTest, OneThatIsTooShortOverAGraftedFileIsTheFilesFault) {
  MakeBase(SomeEntries(100));
  const std::string file = WriteRaw("");
  const auto store = OpenSource(path_);
  const OverlayIterator operations(*store, Must(store->Family("default")), BaseOf(*store), {});
  EXPECT_FALSE(operations.Valid());
  EXPECT_THAT(operations.status(), Fails(Code::kSource, "malformed timed value in " + file));
}

TEST_F(TimedPutTest, OneWithoutAnythingButItsNumberIsAnEmptyValue) {
  WriteRaw("12345678");
  bool ended_in_tables = false;
  EXPECT_EQ(Shown(*OpenSource(path_), &ended_in_tables), (Entries{{"key", ""}}));
  EXPECT_TRUE(ended_in_tables);
}

}  // namespace
}  // namespace kvbatch::testing

#endif  // KVBATCH_TABLE_ITERATORS
