// Frames that a RangeApplier must not take, and what it does when it is left alone.
#include <algorithm>

#include "store/range_applier.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

constexpr uint32_t kOther = 0;

// The range [b, y) of `family`, of which "d" has been applied.
struct BadFrame {
  const char* name;
  Frame (*make)(uint32_t family);
};

void PrintTo(const BadFrame& bad, std::ostream* out) { *out << bad.name; }

Frame Keys(std::vector<std::string> keys, uint32_t family) {
  Entries entries;
  for (auto& key : keys) {
    entries.emplace_back(std::move(key), "value");
  }
  return FrameOfBatch(BatchOf(entries, family));
}

Frame Built(uint32_t family, void (*add)(BatchBuilder*, uint32_t)) {
  std::string buffer(1000, '\0');
  BatchBuilder builder(buffer.data(), buffer.size());
  builder.Put(family, "e", "good");
  add(&builder, family);
  builder.Put(family, "h", "good");
  return FrameOfBatch(builder.Finish());
}

std::string TwoEntries(uint32_t family) { return BatchOf({{"e", "1"}, {"f", "2"}}, family); }

Frame Counting(uint32_t family, uint32_t entries) { return FrameOf(SharedPool(), TwoEntries(family), entries); }

const BadFrame kBadFrames[] = {
    {"OfAnotherFamily", [](uint32_t) { return Keys({"e"}, kOther); }},
    {"OfAFamilyThatIsNotThere", [](uint32_t) { return Keys({"e"}, 99); }},
    {"PartlyOfAnotherFamily", [](uint32_t f) { return Built(f, [](auto* b, uint32_t) { b->Put(kOther, "g", ""); }); }},
    {"BeforeWhatWasApplied", [](uint32_t f) { return Keys({"c", "e"}, f); }},
    {"AgainWhatWasApplied", [](uint32_t f) { return Keys({"d", "e"}, f); }},
    {"BeforeTheRange", [](uint32_t f) { return Keys({"a"}, f); }},
    {"AtTheEndOfTheRange", [](uint32_t f) { return Keys({"e", "y"}, f); }},
    {"BehindTheRange", [](uint32_t f) { return Keys({"e", "z"}, f); }},
    {"OutOfOrder", [](uint32_t f) { return Keys({"e", "g", "f"}, f); }},
    {"WithAKeyTwice", [](uint32_t f) { return Keys({"e", "e"}, f); }},
    {"OutsideTheRangeInItsMiddle", [](uint32_t f) { return Keys({"e", "z", "f"}, f); }},
    {"BeforeTheRangeInItsMiddle", [](uint32_t f) { return Keys({"e", "a", "f"}, f); }},
    {"WhoseHeaderCountsMore", [](uint32_t f) { return Counting(f, 3); }},
    {"WhoseHeaderCountsLess", [](uint32_t f) { return Counting(f, 1); }},
    {"WhoseBatchCountsMore",
     [](uint32_t f) {
       std::string batch = TwoEntries(f);
       batch[kBatchCountOffset] = 3;
       return FrameOf(SharedPool(), batch, 3);
     }},
    {"Truncated", [](uint32_t f) { return FrameOf(SharedPool(), TwoEntries(f).substr(0, 20), 2); }},
    {"WithoutItsLastByte",
     [](uint32_t f) {
       std::string batch = TwoEntries(f);
       batch.pop_back();
       return FrameOf(SharedPool(), batch, 2);
     }},
    {"WithGarbageBehind", [](uint32_t f) { return FrameOf(SharedPool(), TwoEntries(f) + "\x7f", 2); }},
    {"WithoutABatch", [](uint32_t) { return FrameOf(SharedPool(), "", 0); }},
    {"WithADelete", [](uint32_t f) { return Built(f, [](auto* b, uint32_t id) { b->Delete(id, "f"); }); }},
    {"WithASingleDelete", [](uint32_t f) { return Built(f, [](auto* b, uint32_t id) { b->SingleDelete(id, "f"); }); }},
    {"WithARangeDelete",
     [](uint32_t f) { return Built(f, [](auto* b, uint32_t id) { b->DeleteRange(id, "f", "g"); }); }},
    {"WithAMerge", [](uint32_t f) { return Built(f, [](auto* b, uint32_t id) { b->Merge(id, "f", "1"); }); }},
    {"WithLogData", [](uint32_t f) { return Built(f, [](auto* b, uint32_t) { b->PutLogData("f"); }); }},
    {"WithAMalformedEntity",
     [](uint32_t f) { return Built(f, [](auto* b, uint32_t id) { b->PutEntity(id, "f", "\x01\x07"); }); }},
};

class BadFrameTest : public ::testing::TestWithParam<std::tuple<ApplyMode, BadFrame>> {
 protected:
  void SetUp() override {
    store_ = OpenTarget(path_);
    family_ = Must(store_->EnsureFamily(Traits("family")));
    applier_ = ApplierFor(store_, std::get<0>(GetParam()), RangeOf(1, family_, "b", "y"));
    ASSERT_THAT(ApplyEntries(applier_.get(), {{"d", "applied"}}, family_), IsOk());
  }

  Status ApplyBad() {
    Frame frame = std::get<1>(GetParam()).make(family_);
    return applier_->Apply(&frame);
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
  std::shared_ptr<TargetStore> store_;
  uint32_t family_ = 0;
  std::unique_ptr<RangeApplier> applier_;
};

INSTANTIATE_TEST_SUITE_P(Frames, BadFrameTest,
                         ::testing::Combine(::testing::Values(ApplyMode::kIngest, ApplyMode::kWrite),
                                            ::testing::ValuesIn(kBadFrames)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param) == ApplyMode::kIngest ? "Ingest" : "Write") +
                                  std::get<1>(test.param).name;
                         });

TEST_P(BadFrameTest, IsRefusedWithNothingOfItInTheStore) {
  const Cursor before = applier_->applied();
  EXPECT_THAT(ApplyBad(), Fails(Code::kCorruption));
  EXPECT_EQ(applier_->applied(), before);
  (void)applier_->Flush();
  (void)applier_->Drain();
  applier_.reset();
  // What was applied before may have become durable, nothing else.
  const auto cursors = Must(store_->Cursors());
  ASSERT_LE(cursors.size(), 1U);
  const bool durable = !cursors.empty();
  if (durable) {
    EXPECT_EQ(cursors[0], before);
  }
  EXPECT_EQ(FinishedEntries(store_, "family"), durable ? Entries({{"d", "applied"}}) : Entries());
  EXPECT_EQ(EntriesAsOwner(path_), Entries()) << "of the default family";
}

class ApplierEndTest : public ::testing::TestWithParam<ApplyMode> {
 protected:
  const TempDir directory_;
  const std::string path_ = directory_ / "store";
};

INSTANTIATE_TEST_SUITE_P(Modes, ApplierEndTest, ::testing::Values(ApplyMode::kIngest, ApplyMode::kWrite),
                         [](const auto& mode) { return mode.param == ApplyMode::kIngest ? "Ingest" : "Write"; });

TEST_P(ApplierEndTest, NothingFollowsABadFrame) {
  const auto store = OpenTarget(path_);
  uint32_t range = 0;
  for (const auto* name : {"WhoseHeaderCountsMore", "BeforeWhatWasApplied", "OfAFamilyThatIsNotThere", "WithADelete"}) {
    const auto bad = std::find_if(std::begin(kBadFrames), std::end(kBadFrames),
                                  [name](const BadFrame& frame) { return std::string_view(frame.name) == name; });
    const auto applier = ApplierFor(store, GetParam(), RangeOf(++range, 0, "b", "y"));
    ASSERT_THAT(ApplyEntries(applier.get(), {{"d", "applied"}}), IsOk());
    Frame frame = bad->make(0);
    EXPECT_THAT(applier->Apply(&frame), Fails(Code::kCorruption)) << name;
    const Cursor before = applier->applied();
    EXPECT_THAT(ApplyEntries(applier.get(), {{"k", "a good one"}}), Fails(Code::kCorruption)) << name;
    EXPECT_THAT(applier->Finish(before.entries, before.raw_bytes, before.digest), Fails(Code::kCorruption)) << name;
    EXPECT_EQ(applier->applied().entries, 1U) << name;
    (void)applier->Drain();
  }
  for (const Cursor& cursor : Must(store->Cursors())) {
    EXPECT_FALSE(cursor.complete) << "range " << cursor.range;
  }
}

TEST_P(ApplierEndTest, NothingFollowsAFinishThatFailed) {
  const auto store = OpenTarget(path_);
  const auto applier = ApplierFor(store, GetParam());
  ASSERT_THAT(ApplyEntries(applier.get(), {{"a", ""}}), IsOk());
  ASSERT_THAT(applier->Finish(2, 1, applier->applied().digest), Fails(Code::kCorruption));
  EXPECT_THAT(ApplyEntries(applier.get(), {{"b", ""}}), Fails(Code::kCorruption));
}

TEST_P(ApplierEndTest, AnAbandonedRangeLeavesNoFileBehind) {
  const auto store = OpenTarget(path_);
  auto applier = ApplierFor(store, GetParam());
  ASSERT_THAT(ApplyEntries(applier.get(), SomeEntries(100)), IsOk());
  const std::string spool = path_ + "/.kvbatch";
  if (GetParam() == ApplyMode::kIngest) {
    ASSERT_FALSE(std::filesystem::is_empty(spool)) << "this test looks in the wrong place";
  }
  applier.reset();
  EXPECT_TRUE(std::filesystem::is_empty(spool));
  if (GetParam() == ApplyMode::kIngest) {
    EXPECT_FALSE(Must(store->HasData("default", std::nullopt, std::nullopt)));
    EXPECT_TRUE(Must(store->Cursors()).empty());
  }
}

TEST_P(ApplierEndTest, SpoolFilesOfFinishedRangesAreGone) {
  const auto store = OpenTarget(path_, 10'000);
  const auto applier = ApplierFor(store, GetParam());
  ASSERT_THAT(ApplyInBatches(applier.get(), SomeEntries(300, 100), 20), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_TRUE(std::filesystem::is_empty(path_ + "/.kvbatch"));
}

// A job can be closed while a stream of it still holds its applier.
TEST_P(ApplierEndTest, AStoreClosedUnderItIsAnErrorAndNoCrash) {
  const auto store = OpenTarget(path_);
  const auto started = ApplierFor(store, GetParam(), RangeOf(1));
  const auto fresh = ApplierFor(store, GetParam(), RangeOf(2, 0, "m"));
  ASSERT_THAT(ApplyEntries(started.get(), {{"a", "1"}}), IsOk());
  ASSERT_THAT(store->Close(), IsOk());
  EXPECT_THAT(ApplyEntries(fresh.get(), {{"n", "2"}}), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(started->Flush(), Fails(Code::kTarget, "closed"));
  EXPECT_THAT(FinishAsApplied(started.get()), Fails(Code::kTarget, "closed"));
}

}  // namespace
}  // namespace kvbatch::testing
