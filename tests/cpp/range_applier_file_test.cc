#include <fcntl.h>
#include <rocksdb/sst_file_writer.h>
#include <unistd.h>

#include "store/wal_deletions.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

#if KVBATCH_TABLE_ITERATORS

constexpr uint32_t kRange = 2;

// A target, and SST files as a sender has them.
class RangeApplierFileTest : public ::testing::Test {
 protected:
  // A file as the sender builds it.
  std::string Built(const Entries& entries) {
    const std::string path = directory_ / Numbered("built", files_++);
    rocksdb::SstFileWriter writer{rocksdb::EnvOptions(), rocksdb::Options()};
    Check(writer.Open(path));
    for (const auto& [key, value] : entries) {
      Check(writer.Put(key, value));
    }
    Check(writer.Finish());
    return path;
  }

  // The one file of a database's last level.
  std::string Grown(const Entries& entries) {
    const std::string path = directory_ / Numbered("grown", files_++);
    OwnedStore store(path);
    for (const auto& [key, value] : entries) {
      store.Put(key, value);
    }
    store.Flush();
    rocksdb::CompactRangeOptions options;
    options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
    Check(store->CompactRange(options, nullptr, nullptr));
    return FilesEndingWith(path, ".sst").at(0);
  }

  static Status Take(RangeApplier* applier, const std::string& path, TakenFile file) {
    const std::string bytes = ReadFile(path);
    const int fd = Must(applier->OpenTaken());
    EXPECT_EQ(::pwrite(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    EXPECT_THAT(applier->AddPiece(bytes.size(), Crc32c(bytes)), IsOk());
    if (Status status = applier->EndFile(std::move(file)); !status.ok()) {
      return status;
    }
    return applier->Drain();
  }

  static TakenFile Told(const Entries& entries, bool graft) {
    TakenFile file{.entries = entries.size(), .last_key = entries.back().first, .graft = graft};
    for (const auto& [key, value] : entries) {
      file.raw_bytes += key.size() + value.size();
    }
    return file;
  }

  std::vector<std::string> Spooled() const { return FilesEndingWith(path_ + "/.kvbatch", ".sst"); }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
  std::shared_ptr<TargetStore> store_ = OpenTarget(path_);
  size_t files_ = 0;
};

TEST_F(RangeApplierFileTest, BuiltFilesFollowOneAnotherAndEachHasItsCursor) {
  const Entries first = SomeEntries(500);
  const Entries second = SomeEntries(300, 20, 500);
  const auto applier = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_THAT(Take(applier.get(), Built(first), Told(first, false)), IsOk());
  const auto durable = applier->TakeDurable();
  ASSERT_TRUE(durable);
  EXPECT_EQ(durable->entries, 500U);
  EXPECT_EQ(durable->last_key, first.back().first);
  EXPECT_FALSE(durable->complete);
  EXPECT_EQ(Must(store_->Cursors()).at(0), *durable);
  ASSERT_THAT(Take(applier.get(), Built(second), Told(second, false)), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  Entries all = first;
  all.insert(all.end(), second.begin(), second.end());
  EXPECT_EQ(FinishedEntries(store_), all);
}

TEST_F(RangeApplierFileTest, AGraftIsTakenUnderWhatIsPutOverIt) {
  Entries entries = SomeEntries(1000);
  const auto applier = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_THAT(Take(applier.get(), Grown(entries), Told(entries, true)), IsOk());
  EXPECT_FALSE(applier->TakeDurable()) << "nothing is recorded before the end of the range";
  char buffer[200];
  BatchBuilder builder(buffer, sizeof(buffer));
  ASSERT_TRUE(builder.Put(0, entries[10].first, "over"));
  ASSERT_TRUE(builder.Delete(0, entries[20].first));
  Frame frame = FrameOfBatch(builder.Finish());
  ASSERT_THAT(applier->Apply(&frame), IsOk());
  const Cursor applied = applier->applied();
  ASSERT_THAT(applier->Finish(999, 12'345, applied.digest), IsOk());
  ASSERT_THAT(applier->Drain(), IsOk());
  EXPECT_EQ(applier->TakeDurable()->entries, 999U);
  entries[10].second = "over";
  entries.erase(entries.begin() + 20);
  EXPECT_EQ(FinishedEntries(store_), entries);
}

TEST_F(RangeApplierFileTest, AGraftThatIsMetOnceMoreIsNotIngestedTwice) {
  const Entries entries = SomeEntries(1000);
  const std::string file = Grown(entries);
  {
    const auto applier = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
    ASSERT_THAT(Take(applier.get(), file, Told(entries, true)), IsOk());
    ASSERT_THAT(applier->Flush(), IsOk());
    EXPECT_FALSE(applier->TakeDurable());
  }
  EXPECT_TRUE(Must(store_->Cursors()).empty());
  const auto again = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_THAT(Take(again.get(), file, Told(entries, true)), IsOk());
  EXPECT_TRUE(Spooled().empty());
  ASSERT_THAT(FinishAsApplied(again.get()), IsOk());
  EXPECT_EQ(FinishedEntries(store_), entries);
  EXPECT_EQ(FilesEndingWith(path_, ".sst").size(), 1U);
}

TEST_F(RangeApplierFileTest, ADamagedBlockOfAGraftIsTheSourcesFault) {
  const Entries entries = SomeEntries(1000);
  const std::string whole = ReadFile(Grown(entries));
  const std::string damaged = directory_ / "damaged";
  for (const size_t at : {size_t{100}, whole.size() / 3}) {
    std::string bytes = whole;
    bytes[at] ^= 1;
    WriteFile(damaged, bytes);
    ApplyRange range = RangeOf(kRange);
    range.file = "000123.sst";
    const auto applier = ApplierFor(store_, ApplyMode::kIngest, range);
    EXPECT_THAT(Take(applier.get(), damaged, Told(entries, true)),
                Fails(Code::kSource, "the file 000123.sst of the source is damaged"));
  }
  EXPECT_TRUE(Spooled().empty());
  EXPECT_TRUE(FinishedEntries(store_).empty());
}

TEST_F(RangeApplierFileTest, AGraftOverOtherDataIsAnError) {
  const Entries entries = SomeEntries(100);
  const auto first = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_THAT(Take(first.get(), Grown(entries), Told(entries, true)), IsOk());
  const Entries others = SomeEntries(100, 30);
  const auto second = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange + 1));
  EXPECT_THAT(Take(second.get(), Grown(others), Told(others, true)), Fails(Code::kTarget, "ingest into"));
}

TEST_F(RangeApplierFileTest, WhatIsNotWhatTheSenderSaysIsRefusedAndLeavesNothing) {
  const Entries entries = SomeEntries(100);
  const std::string file = Built(entries);
  const auto with = [&](const std::function<void(TakenFile*)>& change) {
    TakenFile told = Told(entries, false);
    change(&told);
    return told;
  };
  const auto taken = [&](const TakenFile& told, ApplyRange range = RangeOf(kRange)) {
    return Take(ApplierFor(store_, ApplyMode::kIngest, std::move(range)).get(), file, told);
  };
  EXPECT_THAT(taken(with([](TakenFile* told) { ++told->entries; })), Fails(Code::kCorruption, "holds 100 entries"));
  EXPECT_THAT(taken(with([](TakenFile* told) { told->last_key.push_back('x'); })),
              Fails(Code::kCorruption, "another key"));
  EXPECT_THAT(taken(Told(entries, false), RangeOf(kRange, 0, entries[1].first)), Fails(Code::kCorruption, "outside"));
  EXPECT_THAT(taken(Told(entries, false), RangeOf(kRange, 0, std::nullopt, entries[99].first)),
              Fails(Code::kCorruption, "outside"));
  EXPECT_TRUE(Spooled().empty());
  EXPECT_TRUE(FinishedEntries(store_).empty());
}

TEST_F(RangeApplierFileTest, WhatIsNoSstFileIsRefused) {
  const std::string file = directory_ / "text";
  WriteFile(file, Repetitive(5000));
  const auto applier = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  EXPECT_THAT(Take(applier.get(), file, {.entries = 1, .last_key = "x"}), Fails(Code::kCorruption, "does not open"));
  EXPECT_THAT(applier->OpenTaken(), Fails(Code::kCorruption)) << "it takes nothing more behind an error";
  EXPECT_TRUE(Spooled().empty());
}

TEST_F(RangeApplierFileTest, FilesOutOfTurnAreRefused) {
  const Entries entries = SomeEntries(10);
  const auto written = ApplierFor(store_, ApplyMode::kWrite, RangeOf(kRange));
  EXPECT_THAT(written->OpenTaken(), Fails(Code::kProtocol, "takes no file"));
  const auto ended = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  EXPECT_THAT(ended->EndFile(Told(entries, false)), Fails(Code::kProtocol, "end of no file"));
  const auto begun = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_THAT(ApplyEntries(begun.get(), entries), IsOk());
  EXPECT_THAT(begun->OpenTaken(), Fails(Code::kProtocol, "takes no file"));
  const auto inside = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_THAT(inside->OpenTaken(), IsOk());
  EXPECT_THAT(inside->Finish(0, 0, Digest()), Fails(Code::kProtocol, "inside a file"));
}

// The first pieces of a file.
class PartialFileTest : public RangeApplierFileTest {
 protected:
  // As a stream that breaks in the middle of the piece behind the first `length` bytes.
  void Begin(const std::string& bytes, size_t length) {
    const auto applier = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
    const int fd = Must(applier->OpenTaken());
    ASSERT_EQ(::pwrite(fd, bytes.data(), length + 10, 0), static_cast<ssize_t>(length + 10));
    ASSERT_THAT(applier->AddPiece(length, Crc32c(bytes.substr(0, length))), IsOk());
    EXPECT_EQ(applier->unfinished_bytes(), length);
    ASSERT_THAT(applier->Flush(), IsOk());
  }

  Result<std::unique_ptr<RangeApplier>> Resumed(uint64_t offset, Cursor cursor = {}) {
    return RangeApplier::Create(store_, RangeOf(kRange), ApplyMode::kIngest, std::move(cursor), {.offset = offset});
  }

  void Reopen() {
    ASSERT_THAT(store_->PutRecord("job", "{}"), IsOk());
    ASSERT_THAT(store_->Close(), IsOk());
    store_ = OpenTarget(path_);
  }
};

TEST_F(PartialFileTest, WhoComesNextGoesOnBehindThePiecesThatWereWhole) {
  const Entries entries = SomeEntries(1000);
  const std::string bytes = ReadFile(Grown(entries));
  Begin(bytes, 5000);
  Reopen();
  const auto left = store_->PartialFiles();
  ASSERT_EQ(left.size(), 1U);
  EXPECT_EQ(left[0].range, kRange);
  EXPECT_EQ(left[0].length, 5000U);
  EXPECT_EQ(left[0].crc32c, Crc32c(bytes.substr(0, 5000)));
  const auto applier = Must(Resumed(5000));
  EXPECT_EQ(applier->taken_bytes(), 5000U);
  EXPECT_EQ(applier->applied().digest, ChainFilePiece(Digest(), 0, 5000, Crc32c(bytes.substr(0, 5000))));
  const int fd = Must(applier->OpenTaken());
  const std::string rest = bytes.substr(5000);
  ASSERT_EQ(::pwrite(fd, rest.data(), rest.size(), 5000), static_cast<ssize_t>(rest.size()));
  ASSERT_THAT(applier->AddPiece(rest.size(), Crc32c(rest)), IsOk());
  ASSERT_THAT(applier->EndFile(Told(entries, true)), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_TRUE(store_->PartialFiles().empty());
  EXPECT_EQ(FinishedEntries(store_), entries);
}

TEST_F(PartialFileTest, TheEndOfABuiltFileDoesNotCount) {
  constexpr uint64_t kEnd = 16 << 10;
  const std::string bytes = ReadFile(Grown(SomeEntries(10000)));
  Begin(bytes, kEnd);
  EXPECT_TRUE(store_->PartialFiles({kRange}).empty());
  Begin(bytes, kEnd + 1000);
  const auto left = store_->PartialFiles({kRange});
  ASSERT_EQ(left.size(), 1U);
  EXPECT_EQ(left[0].length, 1000U);
  EXPECT_EQ(left[0].crc32c, Crc32c(bytes.substr(0, 1000)));
  EXPECT_EQ(Must(Resumed(1000))->taken_bytes(), 1000U);
}

TEST_F(PartialFileTest, WhoHasLeftItTouchesItNoMore) {
  const std::string bytes = ReadFile(Grown(SomeEntries(1000)));
  auto left = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_EQ(::pwrite(Must(left->OpenTaken()), bytes.data(), 5000, 0), 5000);
  ASSERT_THAT(left->AddPiece(5000, Crc32c(bytes.substr(0, 5000))), IsOk());
  left->Close();
  const auto applier = Must(Resumed(5000));
  ASSERT_EQ(::pwrite(Must(applier->OpenTaken()), bytes.data(), 1000, 5000), 1000);
  ASSERT_THAT(applier->AddPiece(1000, Crc32c(bytes.substr(0, 1000))), IsOk());
  left.reset();
  EXPECT_EQ(store_->PartialFiles().at(0).length, 6000U);
}

TEST_F(PartialFileTest, LessOfItCanBeTakenAndNotMore) {
  const std::string bytes = ReadFile(Grown(SomeEntries(1000)));
  Begin(bytes, 5000);
  EXPECT_THAT(Resumed(5001), Fails(Code::kProtocol, "less of it is there"));
  EXPECT_EQ(Must(Resumed(4000))->taken_bytes(), 4000U);
  EXPECT_EQ(store_->PartialFiles().at(0).length, 4000U) << "what was cut off is gone";
  EXPECT_THAT(RangeApplier::Create(store_, RangeOf(kRange), ApplyMode::kWrite, {}, {.offset = 10}),
              Fails(Code::kProtocol));
  EXPECT_THAT(RangeApplier::Create(store_, RangeOf(kRange + 1), ApplyMode::kIngest, {}, {.offset = 10}),
              Fails(Code::kProtocol));
}

TEST_F(PartialFileTest, WhoBeginsAnewBeginsWithNothing) {
  Begin(ReadFile(Grown(SomeEntries(1000))), 5000);
  const auto applier = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
  ASSERT_THAT(applier->OpenTaken(), IsOk());
  EXPECT_EQ(applier->taken_bytes(), 0U);
  EXPECT_TRUE(store_->PartialFiles().empty());
}

TEST_F(PartialFileTest, NothingIsLeftOfAFileThatIsWrongOrOfAJobThatIsOver) {
  {
    const auto applier = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
    ASSERT_THAT(applier->OpenTaken(), IsOk());
    ASSERT_THAT(applier->AddPiece(100, 1), IsOk());
    EXPECT_THAT(applier->Finish(0, 0, Digest()), Fails(Code::kProtocol));
  }
  EXPECT_TRUE(store_->PartialFiles().empty());
  Begin(ReadFile(Grown(SomeEntries(1000))), 5000);
  ASSERT_THAT(store_->DropRecords(), IsOk());
  ASSERT_THAT(store_->Close(), IsOk());
  EXPECT_FALSE(std::filesystem::exists(path_ + "/.kvbatch"));
}

TEST_F(PartialFileTest, ARangeGoesOnBehindItsGraftAndBehindWhatWasPutOverIt) {
  Entries entries = SomeEntries(1000);
  const auto over = [&](RangeApplier* applier, size_t index) {
    char buffer[200];
    BatchBuilder builder(buffer, sizeof(buffer));
    ASSERT_TRUE(builder.Put(0, entries[index].first, "over"));
    Frame frame = FrameOfBatch(builder.Finish());
    ASSERT_THAT(applier->Apply(&frame), IsOk());
    entries[index].second = "over";
  };
  const auto resumed = [&] {
    const Cursor graft = Must(store_->Grafts()).at(0);
    return Must(RangeApplier::Create(store_, RangeOf(kRange), ApplyMode::kIngest, graft, {.grafted = true}));
  };
  {
    const auto applier = ApplierFor(store_, ApplyMode::kIngest, RangeOf(kRange));
    ASSERT_THAT(Take(applier.get(), Grown(entries), Told(entries, true)), IsOk());
  }
  Reopen();
  EXPECT_FALSE(Must(store_->Grafts()).at(0).complete) << "nothing stands over it yet";
  Digest digest;
  {
    const auto applier = resumed();
    EXPECT_THAT(applier->OpenTaken(), Fails(Code::kProtocol, "takes no file"));
  }
  {
    // Over any key of the file, its first one too.
    const auto applier = resumed();
    over(applier.get(), 0);
    over(applier.get(), 10);
    digest = applier->applied().digest;
    ASSERT_THAT(applier->Flush(), IsOk());
    EXPECT_FALSE(applier->TakeDurable()) << "no cursor before the end of the range";
  }
  Reopen();
  const Cursor graft = Must(store_->Grafts()).at(0);
  EXPECT_TRUE(graft.complete);
  EXPECT_EQ(graft.last_key, entries[10].first);
  EXPECT_EQ(graft.digest, digest);
  const auto applier = resumed();
  EXPECT_FALSE(applier->applied().complete);
  over(applier.get(), 20);
  ASSERT_THAT(applier->Finish(1000, 1, applier->applied().digest), IsOk());
  ASSERT_THAT(applier->Drain(), IsOk());
  EXPECT_EQ(FinishedEntries(store_), entries);
}

TEST(WalDeletionsTest, EachDeletedKeyStandsThereOnce) {
  const TempDir directory;
  const std::string path = directory / "store";
  {
    OwnedStore store(path, {FamilyNamed("default"), FamilyNamed("other"), FamilyNamed("odd")});
    const auto erase = [&store](const std::string& key, const std::string& family) {
      Check(store->Delete(rocksdb::WriteOptions(), store.family(family), key));
    };
    store.Put("a", "1");
    erase("b", "default");
    erase("a", "default");
    Check(store->SingleDelete(rocksdb::WriteOptions(), store.family("other"), "z"));
    erase("b", "default");
    Check(store->DeleteRange(rocksdb::WriteOptions(), store.family("odd"), "a", "b"));
  }
  const auto store = OpenSource(path);
  const auto* found = Must(store->DeletedInWal(Must(store->Family("default"))));
  EXPECT_TRUE(found->plain);
  EXPECT_EQ(found->keys, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(Must(store->DeletedInWal(Must(store->Family("other"))))->keys.size(), 1U);
  EXPECT_TRUE(Must(store->MemtablesArePlain("other")));
  EXPECT_FALSE(Must(store->MemtablesArePlain("odd")));
}

#endif  // KVBATCH_TABLE_ITERATORS

}  // namespace
}  // namespace kvbatch::testing
