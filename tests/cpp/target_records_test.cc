// What a TargetStore writes: the job's records, batches, and the cursor in the batch's own write.
#include <algorithm>
#include <set>

#include "batch/wide_columns.h"
#include "store/target_store.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

class TargetRecordsTest : public ::testing::Test {
 protected:
  static Cursor CursorOf(uint32_t range, uint64_t entries) {
    Cursor cursor;
    cursor.range = range;
    cursor.entries = entries;
    cursor.last_key = Numbered("key", entries);
    return cursor;
  }

  std::shared_ptr<TargetStore> Killed() {
    CopyDirectory(path_, copy_);
    return OpenTarget(copy_);
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
  const std::string copy_ = directory_ / "copy";
};

TEST_F(TargetRecordsTest, AStoreWithoutAJobHasNoRecords) {
  const auto store = OpenTarget(path_);
  EXPECT_FALSE(store->HasRecords());
  EXPECT_EQ(Must(store->GetRecord("job")), std::nullopt);
  EXPECT_TRUE(Must(store->Cursors()).empty());
  EXPECT_THAT(store->DropRecords(), IsOk());
  EXPECT_EQ(FamilyNamesOf(path_), std::vector<std::string>{"default"}) << "asking made a family";
}

TEST_F(TargetRecordsTest, SurviveAKill) {
  const auto store = OpenTarget(path_);
  const std::string value("with \0 and more", 15);
  ASSERT_THAT(store->PutRecord("job", "first"), IsOk());
  ASSERT_THAT(store->PutRecord("job", value), IsOk());
  const auto copy = Killed();
  EXPECT_TRUE(copy->HasRecords());
  EXPECT_EQ(Must(copy->GetRecord("job")), value);
  EXPECT_EQ(Must(copy->GetRecord("other")), std::nullopt);
  EXPECT_EQ(copy->Families().size(), 1U) << "the reserved family is not one to move or to verify";
}

TEST_F(TargetRecordsTest, CursorsComeInTheOrderOfTheirRanges) {
  const auto store = OpenTarget(path_);
  // Between and around the cursors in the order of keys.
  for (const char* other : {"cursor.", "cursor0", "a", "job", "z"}) {
    ASSERT_THAT(store->PutRecord(other, "no cursor"), IsOk());
  }
  for (const uint32_t range : {65536U, 1U, 256U, 0xffffffffU, 0U, 2U}) {
    ASSERT_THAT(store->PutRecord(EncodeCursorKey(range), EncodeCursor(CursorOf(range, range))), IsOk());
  }
  const auto cursors = Must(store->Cursors());
  ASSERT_EQ(cursors.size(), 6U);
  const uint32_t expected[] = {0, 1, 2, 256, 65536, 0xffffffff};
  for (size_t i = 0; i < cursors.size(); ++i) {
    EXPECT_EQ(cursors[i], CursorOf(expected[i], expected[i]));
  }
}

TEST_F(TargetRecordsTest, AMalformedCursorIsNotTakenForProgress) {
  const std::string good = EncodeCursor(CursorOf(1, 5));
  const struct {
    std::string key, value;
  } cases[] = {
      {EncodeCursorKey(1), ""},
      {EncodeCursorKey(1), good.substr(0, 20)},
      {EncodeCursorKey(1), "\x02" + good.substr(1)},
      {std::string(kCursorPrefix), good},
      {EncodeCursorKey(1) + "x", good},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    const auto store = OpenTarget(directory_ / std::to_string(i));
    ASSERT_THAT(store->PutRecord(EncodeCursorKey(0), good), IsOk());
    ASSERT_THAT(store->PutRecord(cases[i].key, cases[i].value), IsOk());
    EXPECT_THAT(store->Cursors(), Fails(Code::kCorruption, "cursor")) << "case " << i;
  }
}

TEST_F(TargetRecordsTest, WithoutThemTheDirectoryIsAnOrdinaryStore) {
  auto store = OpenTarget(path_);
  const Entries entries = SomeEntries(30);
  ASSERT_THAT(ApplyEntries(ApplierFor(store, ApplyMode::kWrite).get(), entries), IsOk());
  ASSERT_EQ(Must(store->Cursors()).size(), 1U);
  ASSERT_THAT(store->DropRecords(), IsOk());
  EXPECT_FALSE(store->HasRecords());
  EXPECT_THAT(store->DropRecords(), IsOk()) << "a second time is nothing";
  // The WAL still holds the cursor of the family that is gone.
  CopyDirectory(path_, copy_);
  EXPECT_EQ(FamilyNamesOf(copy_), std::vector<std::string>{"default"});
  EXPECT_EQ(EntriesAsOwner(copy_), entries);
  ASSERT_THAT(store->Close(), IsOk());
  EXPECT_EQ(EntriesAsOwner(path_), entries);

  store = OpenTarget(path_);
  EXPECT_FALSE(store->HasRecords());
  ASSERT_THAT(store->PutRecord("job", "the next"), IsOk());
  EXPECT_TRUE(Must(store->Cursors()).empty()) << "of the job before";
  EXPECT_EQ(FinishedEntries(store), entries);
}

TEST_F(TargetRecordsTest, EveryKindOfRecordIsWrittenAsRocksdbWouldDoIt) {
  const auto store = OpenTarget(path_);
  ColumnFamilyDescription traits = Traits("sums");
  traits.merge_operator = "uint64add";
  const uint32_t id = Must(store->EnsureFamily(traits));
  Frame before = FrameOfBatch(BatchOf({{"a", "1"}, {"b", "2"}, {"c", "3"}, {"d", "4"}, {"e", LittleEndian(40)}}, id));
  ASSERT_THAT(store->Write(&before), IsOk());

  std::string entity;
  SerializeEntity({{"", "plain"}, {"name", "value"}}, &entity);
  std::string buffer(1000, '\0');
  BatchBuilder builder(buffer.data(), buffer.size());
  builder.Delete(id, "a");
  builder.SingleDelete(id, "b");
  builder.DeleteRange(id, "c", "e");
  builder.Merge(id, "e", LittleEndian(2));
  builder.PutLogData("a remark");
  builder.PutEntity(id, "f", entity);
  builder.Put(0, "g", "in the default family");
  Frame frame = FrameOfBatch(builder.Finish());
  ASSERT_THAT(store->Write(&frame), IsOk());
  EXPECT_FALSE(store->HasRecords()) << "no cursor was given";
  ASSERT_THAT(store->Close(), IsOk());

  rocksdb::ColumnFamilyOptions options;
  options.merge_operator = AddingOperator();
  const OwnedStore owner(path_, {FamilyNamed("sums", options)});
  EXPECT_EQ(AllEntries(owner.db(), owner.family("sums")), (Entries{{"e", LittleEndian(42)}, {"f", "plain"}}));
  rocksdb::PinnableWideColumns columns;
  Check(owner->GetEntity(rocksdb::ReadOptions(), owner.family("sums"), "f", &columns));
  EXPECT_EQ(columns.columns(), (rocksdb::WideColumns{{"", "plain"}, {"name", "value"}}));
  EXPECT_EQ(AllEntries(owner.db(), owner.family()), (Entries{{"g", "in the default family"}}));
}

using MakeBatch = std::string (*)(uint32_t family);

struct BadBatch {
  const char* name;
  MakeBatch make;
};

void PrintTo(const BadBatch& bad, std::ostream* out) { *out << bad.name; }

std::string Built(void (*add)(BatchBuilder*, uint32_t), uint32_t family) {
  std::string buffer(1000, '\0');
  BatchBuilder builder(buffer.data(), buffer.size());
  builder.Put(family, "good", "comes first");
  add(&builder, family);
  return std::string(builder.Finish());
}

std::string WithCount(std::string batch, char count) {
  batch[kBatchCountOffset] = count;
  return batch;
}

const BadBatch kBadBatches[] = {
    {"Empty", [](uint32_t) { return std::string(); }},
    {"ShorterThanItsHeader", [](uint32_t) { return std::string(11, '\0'); }},
    {"Truncated",
     [](uint32_t id) {
       std::string batch = BatchOf({{"a", "1"}, {"b", "2"}}, id);
       batch.pop_back();
       return batch;
     }},
    {"CutBehindTheFirstRecord", [](uint32_t id) { return WithCount(BatchOf({{"a", "1"}}, id), 2); }},
    {"CountTooLow", [](uint32_t id) { return WithCount(BatchOf({{"a", "1"}, {"b", "2"}}, id), 1); }},
    {"GarbageBehind", [](uint32_t id) { return BatchOf({{"a", "1"}}, id) + "\x7f"; }},
    {"UnknownTag",
     [](uint32_t id) {
       return WithCount(BatchOf({{"a", "1"}}, id) +
                            "\x30"
                            "abc",
                        2);
     }},
    {"UnknownFamily", [](uint32_t) { return BatchOf({{"a", "1"}}, 77); }},
    {"FamilyPast32Bits",
     [](uint32_t) {
       return WithCount(std::string(12, '\0') +
                            "\x05\xff\xff\xff\xff\xff\x01"
                            "a",
                        1);
     }},
    {"MalformedEntity",
     [](uint32_t id) { return Built([](auto* b, uint32_t f) { b->PutEntity(f, "e", "\x01\x05"); }, id); }},
    // RocksDB takes these two into its WAL before it refuses them, and then refuses every later write.
    {"RangeDeletionFromBackToFront",
     [](uint32_t id) { return Built([](auto* b, uint32_t f) { b->DeleteRange(f, "z", "a"); }, id); }},
    {"MergeWithoutAnOperator",
     [](uint32_t id) { return Built([](auto* b, uint32_t f) { b->Merge(f, "m", "operand"); }, id); }},
};

// The traits that a job asks for are not those that a store of others was opened with.
TEST_F(TargetRecordsTest, AMergeNeedsTheOperatorOfTheStoreAndNotOfTheJob) {
  {
    OwnedStore(path_, {FamilyNamed("family")}).Put("before", "1", "family");
  }
  const auto store = OpenTarget(path_);
  ColumnFamilyDescription traits = Traits("family");
  traits.merge_operator = "uint64add";
  const uint32_t id = Must(store->EnsureFamily(traits));
  Frame bad = FrameOfBatch(Built([](auto* b, uint32_t f) { b->Merge(f, "m", "operand"); }, id));
  EXPECT_THAT(store->Write(&bad), ::testing::AnyOf(Fails(Code::kCorruption), Fails(Code::kRefused)));
  Frame next = FrameOfBatch(BatchOf({{"later", "2"}}, id));
  EXPECT_THAT(store->Write(&next), IsOk());
  EXPECT_EQ(FinishedEntries(Killed(), "family"), (Entries{{"before", "1"}, {"later", "2"}}));
}

class TargetHostileWriteTest : public TargetRecordsTest, public ::testing::WithParamInterface<BadBatch> {};

INSTANTIATE_TEST_SUITE_P(Batches, TargetHostileWriteTest, ::testing::ValuesIn(kBadBatches),
                         [](const auto& bad) { return std::string(bad.param.name); });

TEST_P(TargetHostileWriteTest, LeavesTheStoreAsItWasAndWritable) {
  const auto store = OpenTarget(path_);
  const uint32_t id = Must(store->EnsureFamily(Traits("family")));
  const Cursor cursor = CursorOf(1, 1);
  Frame first = FrameOfBatch(BatchOf({{"before", "1"}}, id));
  ASSERT_THAT(store->Write(&first), IsOk());
  ASSERT_THAT(store->PutRecord(EncodeCursorKey(1), EncodeCursor(cursor)), IsOk());

  Frame bad = FrameOfBatch(GetParam().make(id));
  EXPECT_THAT(store->Write(&bad), ::testing::AnyOf(Fails(Code::kCorruption), Fails(Code::kRefused)));
  EXPECT_EQ(Must(store->Cursors()), std::vector<Cursor>{cursor});

  Frame next = FrameOfBatch(BatchOf({{"later", "2"}}, id));
  EXPECT_THAT(store->Write(&next), IsOk());
  const auto copy = Killed();
  EXPECT_EQ(FinishedEntries(copy, "family"), (Entries{{"before", "1"}, {"later", "2"}}));
}

TEST_F(TargetRecordsTest, TheReservedFamilyIsNotWritableFromOutside) {
  const auto store = OpenTarget(path_);
  const Cursor cursor = CursorOf(1, 7);
  ASSERT_THAT(store->PutRecord(EncodeCursorKey(1), EncodeCursor(cursor)), IsOk());
  // Ids are given in order, so the reserved family has the next one.
  for (uint32_t id = 1; id < 5; ++id) {
    Frame frame = FrameOfBatch(BatchOf({{EncodeCursorKey(1), EncodeCursor(CursorOf(1, 999))}}, id));
    EXPECT_THAT(store->Write(&frame), Fails(Code::kCorruption, "column family id " + std::to_string(id)));
  }
  EXPECT_EQ(Must(store->Cursors()), std::vector<Cursor>{cursor});
}

TEST_F(TargetRecordsTest, ACompressedFrameIsOpenedAndADamagedOneRefused) {
  const auto store = OpenTarget(path_);
  const Entries entries = {{"a", Repetitive(5000)}, {"b", Repetitive(3000)}};
  Frame good = FrameOf(SharedPool(), BatchOf(entries), 2, Codec::kLz4);
  ASSERT_EQ(good.header().codec, Codec::kLz4);
  ASSERT_THAT(store->Write(&good), IsOk());
  Frame longer = FrameOf(SharedPool(), BatchOf(entries), 2, Codec::kLz4);
  Frame received(SharedPool());
  FrameHeader header = longer.header();
  ++header.raw_length;
  ASSERT_THAT(received.ReserveFor(header), IsOk());
  std::copy(longer.payload().begin(), longer.payload().end(), received.payload_buffer());
  EXPECT_THAT(store->Write(&received), Fails(Code::kCorruption));
  EXPECT_EQ(FinishedEntries(store), entries);
}

// Cuts the WAL at many places, as a crash of the machine can: the data is there exactly when its cursor is.
TEST_F(TargetRecordsTest, ACursorIsInTheSameWriteAsItsData) {
  const auto store = OpenTarget(path_);
  ASSERT_THAT(store->PutRecord("job", "1"), IsOk());
  const Entries entries = SomeEntries(9, 30);
  const auto applier = ApplierFor(store, ApplyMode::kWrite);
  ASSERT_THAT(ApplyInBatches(applier.get(), entries, 3), IsOk());
  CopyDirectory(path_, copy_);
  auto logs = FilesEndingWith(copy_, ".log");
  ASSERT_FALSE(logs.empty());
  const std::string log = *std::max_element(logs.begin(), logs.end());
  const uintmax_t size = std::filesystem::file_size(log);
  ASSERT_GT(size, 300U);
  std::set<uint64_t> seen;
  const std::string cut = directory_ / "cut";
  for (uintmax_t left = 0; left <= size; left = left == size ? size + 1 : std::min(size, left + 61)) {
    CopyDirectory(copy_, cut);
    std::filesystem::resize_file(cut + log.substr(copy_.size()), left);
    const auto target = OpenTarget(cut);
    const auto cursors = Must(target->Cursors());
    const uint64_t applied = cursors.empty() ? 0 : cursors[0].entries;
    seen.insert(applied);
    EXPECT_EQ(FinishedEntries(target), Prefix(entries, applied)) << left << " of " << size << " bytes";
  }
  EXPECT_EQ(seen, (std::set<uint64_t>{0, 3, 6, 9}));
}

}  // namespace
}  // namespace kvbatch::testing
