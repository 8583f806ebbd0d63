#include "store/target_store.h"

#include <rocksdb/utilities/options_util.h>
#include <sys/stat.h>

#include "store/rocksdb_status.h"
#include "store/store_lock.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

class OtherComparator final : public rocksdb::Comparator {
 public:
  const char* Name() const override { return "example.Other"; }
  int Compare(const rocksdb::Slice& a, const rocksdb::Slice& b) const override { return a.compare(b); }
  void FindShortestSeparator(std::string* /*start*/, const rocksdb::Slice& /*limit*/) const override {}
  void FindShortSuccessor(std::string* /*key*/) const override {}
};

class TargetStoreTest : public ::testing::Test {
 protected:
  const TempDir directory_;
  const std::string path_ = directory_ / "store";
  const std::string copy_ = directory_ / "copy";
  const std::string spool_ = path_ + "/.kvbatch";
};

TEST(FromTarget, KnowsAFullDiskByWhatIsSaidOfItWhereRocksDbWrapsIt) {
  const auto wrapped = [](const char* said) {
    return FromTarget(rocksdb::Status::IOError("Unable to persist options.", said), "open x");
  };
  EXPECT_THAT(wrapped("IO error: No space left on device: OPTIONS-7.dbtmp"), Fails(Code::kNoSpace, "open x"));
  EXPECT_THAT(wrapped("IO error: Disk quota exceeded: OPTIONS-7.dbtmp"), Fails(Code::kNoSpace, "open x"));
  EXPECT_THAT(wrapped("IO error: Input/output error: OPTIONS-7.dbtmp"), Fails(Code::kTarget, "open x"));
}

TEST_F(TargetStoreTest, MakesAnOrdinaryStoreWhereThereIsNone) {
  auto store = OpenTarget(path_);
  EXPECT_EQ(store->path(), path_);
  EXPECT_FALSE(store->HasRecords());
  ASSERT_EQ(store->Families().size(), 1U);
  EXPECT_EQ(store->Families()[0].name, "default");
  EXPECT_EQ(Must(store->FamilyId("default")), 0U);
  EXPECT_THAT(store->Close(), IsOk());
  EXPECT_EQ(EntriesAsOwner(path_), Entries());
  EXPECT_THAT(FamilyNamesOf(path_), ::testing::ElementsAre("default"));
  EXPECT_FALSE(std::filesystem::exists(spool_));
}

TEST_F(TargetStoreTest, DoesNotMakeOneWhenToldNotTo) {
  TargetOptions options;
  options.create = false;
  EXPECT_THAT(TargetStore::Open(path_, options), Fails(Code::kUsage, path_));
  EXPECT_FALSE(std::filesystem::exists(path_));
  std::filesystem::create_directory(path_);
  EXPECT_THAT(TargetStore::Open(path_, options), Fails(Code::kUsage, path_));
  EXPECT_TRUE(std::filesystem::is_empty(path_));
}

TEST_F(TargetStoreTest, OpensAStoreOfOthersWithAllItsFamilies) {
  {
    OwnedStore owner(path_, {FamilyNamed("one"), FamilyNamed("t w\xc3\xb6")});
    owner.Put("a", "1", "one");
    owner.Put("b", "2", "t w\xc3\xb6");
  }
  const auto store = OpenTarget(path_);
  EXPECT_EQ(store->Families().size(), 3U);
  EXPECT_TRUE(Must(store->HasData("one", std::nullopt, std::nullopt)));
  EXPECT_NE(Must(store->FamilyId("one")), Must(store->FamilyId("t w\xc3\xb6")));
  EXPECT_THAT(store->FamilyId("two"), Fails(Code::kUsage, "two"));
  EXPECT_EQ(FinishedEntries(store, "t w\xc3\xb6"), (Entries{{"b", "2"}}));
}

TEST_F(TargetStoreTest, AnOrderThatIsNotKnownIsRefusedAndNothingIsTouched) {
  OtherComparator comparator;
  rocksdb::ColumnFamilyOptions options;
  options.comparator = &comparator;
  OwnedStore(path_, {FamilyNamed("odd", options)}).Put("k", "v", "odd");
  const auto before = TraceOf(path_);
  EXPECT_THAT(TargetStore::Open(path_, {}), Fails(Code::kRefused, "example.Other"));
  EXPECT_EQ(TraceOf(path_), before);

  TargetOptions target;
  target.default_family.comparator = "example.Other";
  EXPECT_THAT(TargetStore::Open(copy_, target), Fails(Code::kRefused, "example.Other"));
  EXPECT_FALSE(std::filesystem::exists(copy_));
}

TEST_F(TargetStoreTest, ADamagedStoreIsNotTheSourcesFault) {
  for (const std::string damaged : {"CURRENT", "MANIFEST-"}) {
    for (const std::string content : {"", "not what RocksDB wrote"}) {
      const std::string path = directory_ / (damaged + std::to_string(content.size()));
      {
        OwnedStore(path).Put("k", "v");
      }
      for (const auto& entry : std::filesystem::directory_iterator(path)) {
        if (entry.path().filename().string().starts_with(damaged)) {
          WriteFile(entry.path(), content);
        }
      }
      EXPECT_THAT(TargetStore::Open(path, {}), ::testing::AnyOf(Fails(Code::kTarget), Fails(Code::kRefused)))
          << damaged << ": " << content;
    }
  }
}

TEST_F(TargetStoreTest, IdentityIsTheStoresOwnAndStays) {
  auto store = OpenTarget(path_);
  const std::string identity = Must(store->Identity());
  EXPECT_FALSE(identity.empty());
  EXPECT_NE(Must(OpenTarget(copy_)->Identity()), identity);
  EXPECT_THAT(store->Close(), IsOk());
  EXPECT_EQ(Must(OpenTarget(path_)->Identity()), identity);
}

TEST_F(TargetStoreTest, LeftoversInTheSpoolGoWhenItIsOpened) {
  {
    OwnedStore(path_).Put("k", "v");
  }
  std::filesystem::create_directories(spool_ + "/deeper");
  WriteFile(spool_ + "/0.sst", "half a file");
  WriteFile(spool_ + "/deeper/x", "x");
  const auto store = OpenTarget(path_);
  EXPECT_TRUE(std::filesystem::is_empty(spool_));
  EXPECT_EQ(FinishedEntries(store), (Entries{{"k", "v"}}));
  EXPECT_FALSE(std::filesystem::exists(spool_));
}

TEST_F(TargetStoreTest, HasDataKnowsTheBoundsOfARange) {
  {
    OwnedStore owner(path_, {FamilyNamed("empty"), FamilyNamed("deleted")});
    owner.Put("b", "");
    owner.Put("d", "");
    owner.Put("x", "", "deleted");
    Check(owner->Delete(rocksdb::WriteOptions(), owner.family("deleted"), "x"));
  }
  const auto store = OpenTarget(path_);
  using Bound = std::optional<std::string>;
  const struct {
    Bound start, end;
    bool expected;
  } cases[] = {
      {std::nullopt, std::nullopt, true},
      {std::nullopt, "b", false},
      {std::nullopt, std::string("b\0", 2), true},
      {"b", "c", true},
      {"c", "d", false},
      {"c", "d1", true},
      {"d", std::nullopt, true},
      {"e", std::nullopt, false},
      {"", "", false},
  };
  for (const auto& [start, end, expected] : cases) {
    EXPECT_EQ(Must(store->HasData("default", start, end)), expected)
        << start.value_or("first") << " to " << end.value_or("last");
  }
  EXPECT_FALSE(Must(store->HasData("empty", std::nullopt, std::nullopt)));
  EXPECT_FALSE(Must(store->HasData("deleted", std::nullopt, std::nullopt)));
  EXPECT_THAT(store->HasData("missing", std::nullopt, std::nullopt), Fails(Code::kUsage, "missing"));
}

TEST_F(TargetStoreTest, MergeOperandsAreDataEvenWhereNobodyCanMergeThem) {
  rocksdb::ColumnFamilyOptions options;
  options.merge_operator = FailingMergeOperator("example.Unknown");
  {
    const OwnedStore owner(path_, {FamilyNamed("sums", options)});
    Check(owner->Merge(rocksdb::WriteOptions(), owner.family("sums"), "k", "operand"));
  }
  EXPECT_TRUE(Must(OpenTarget(path_)->HasData("sums", std::nullopt, std::nullopt)));
}

TEST_F(TargetStoreTest, FlushLeavesNothingInTheWal) {
  const auto store = OpenTarget(path_);
  const uint32_t other = Must(store->EnsureFamily(Traits("other")));
  const Entries entries = SomeEntries(50);
  for (const uint32_t family : {uint32_t{0}, other}) {
    Frame frame = FrameOfBatch(BatchOf(entries, family));
    ASSERT_THAT(store->Write(&frame), IsOk());
  }
  ASSERT_THAT(store->Flush(), IsOk());
  CopyDirectory(path_, copy_);
  for (const auto& log : FilesEndingWith(copy_, ".log")) {
    std::filesystem::remove(log);
  }
  EXPECT_EQ(EntriesAsOwner(copy_), entries);
  EXPECT_EQ(EntriesAsOwner(copy_, "other"), entries);
}

TEST_F(TargetStoreTest, FilesStayWhereTheyAreWhileAJobRuns) {
  const auto store = OpenTarget(path_);
  // RocksDB would start to compact at four.
  constexpr size_t kFiles = 10;
  for (size_t i = 0; i < kFiles; ++i) {
    Frame frame = FrameOfBatch(BatchOf(SomeEntries(10)));
    ASSERT_THAT(store->Write(&frame), IsOk());
    ASSERT_THAT(store->Flush(), IsOk());
  }
  EXPECT_THAT(store->Close(), IsOk());
  EXPECT_EQ(FilesEndingWith(path_, ".sst").size(), kFiles);
}

TEST_F(TargetStoreTest, TakesNoRoomOnTheDiskThatItDoesNotFill) {
  auto store = OpenTarget(path_);
  EXPECT_THAT(store->PutRecord("job", "1"), IsOk());
  EXPECT_THAT(store->SyncWal(), IsOk());
  uint64_t taken = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
    struct stat of_file{};
    ASSERT_EQ(::stat(entry.path().c_str(), &of_file), 0) << entry.path();
    taken += static_cast<uint64_t>(of_file.st_blocks) * 512;
  }
  EXPECT_LT(taken, uint64_t{1} << 20);
  EXPECT_THAT(store->Close(), IsOk());
}

// Owners that load the newest OPTIONS file must not inherit what suits a job only.
TEST_F(TargetStoreTest, AFinishedStoreDoesNotTellItsOwnerToNeverCompactOrCache) {
  auto store = OpenTarget(path_);
  (void)Must(store->EnsureFamily(Traits("other")));
  EXPECT_THAT(store->PutRecord("job", "1"), IsOk());
  EXPECT_THAT(store->DropRecords(), IsOk());
  EXPECT_THAT(store->Close(), IsOk());
  rocksdb::DBOptions options;
  Families families;
  Check(rocksdb::LoadLatestOptions(rocksdb::ConfigOptions(), path_, &options, &families));
  ASSERT_EQ(families.size(), 2U);
  for (const auto& family : families) {
    EXPECT_FALSE(family.options.disable_auto_compactions) << family.name;
    const auto* table = family.options.table_factory->GetOptions<rocksdb::BlockBasedTableOptions>();
    ASSERT_NE(table, nullptr);
    EXPECT_FALSE(table->no_block_cache) << family.name;
  }
}

TEST_F(TargetStoreTest, EverythingFailsAfterClose) {
  const auto store = OpenTarget(path_);
  ASSERT_THAT(store->PutRecord(EncodeCursorKey(1), EncodeCursor({})), IsOk());
  Frame frame = FrameOfBatch(BatchOf(SomeEntries(1)));
  ASSERT_THAT(store->Close(), IsOk());
  EXPECT_THAT(store->Close(), IsOk()) << "closing again is nothing";
  EXPECT_THAT(store->Write(&frame), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(store->SyncWal(), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(store->Flush(), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(store->Identity(), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(store->EnsureFamily(Traits("new")), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(store->FamilyId("default"), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(store->HasData("default", std::nullopt, std::nullopt), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(store->PutRecord("job", ""), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(store->DropRecords(), Fails(Code::kTarget, "closed"));
  // An empty answer would read as "nothing has been applied yet".
  EXPECT_THAT(store->GetRecord("job"), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(store->Cursors(), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(RangeApplier::Create(store, {}, ApplyMode::kIngest, {}), ::testing::Not(IsOk()));
}

TEST_F(TargetStoreTest, AClosedStoreIsFreeForItsOwner) {
  const auto store = OpenTarget(path_);
  EXPECT_THAT(StoreLock::CheckFree(path_), Fails(Code::kRefused));
  ASSERT_THAT(store->Close(), IsOk());
  EXPECT_THAT(StoreLock::CheckFree(path_), IsOk());
}

}  // namespace
}  // namespace kvbatch::testing
