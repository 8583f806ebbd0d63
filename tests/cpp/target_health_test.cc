#include "store/target_health.h"

#include <rocksdb/sst_file_writer.h>

#include "store_testing.h"

namespace kvbatch::testing {
namespace {

rocksdb::ColumnFamilyOptions WithTriggers(int compaction, int slowdown, int stop, uint64_t soft, uint64_t hard) {
  rocksdb::ColumnFamilyOptions options;
  options.level0_file_num_compaction_trigger = compaction;
  options.level0_slowdown_writes_trigger = slowdown;
  options.level0_stop_writes_trigger = stop;
  options.soft_pending_compaction_bytes_limit = soft;
  options.hard_pending_compaction_bytes_limit = hard;
  return options;
}

void FlushFiles(OwnedStore* store, int count, const std::string& family = rocksdb::kDefaultColumnFamilyName) {
  for (int file = 0; file < count; ++file) {
    store->Put("key", std::string(1000, 'v'), family);
    Check((*store)->Flush(rocksdb::FlushOptions(), store->family(family)));
  }
}

uint64_t FileBytes(const OwnedStore& store) {
  rocksdb::ColumnFamilyMetaData metadata;
  store->GetColumnFamilyMetaData(store.family(), &metadata);
  return metadata.size;
}

class TargetHealthTest : public ::testing::Test {
 protected:
  // A file that lies over the ones in level 0; needs no background work.
  void IngestFile(OwnedStore* store) {
    const std::string file = directory_ / "new.sst";
    rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), store->db()->GetOptions());
    Check(writer.Open(file));
    Check(writer.Put("key", std::string(1000, 'w')));
    Check(writer.Finish());
    rocksdb::IngestExternalFileOptions options;
    options.move_files = true;
    Check((*store)->IngestExternalFile({file}, options));
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
};

// Files hold nobody up then, however many there are and whatever the triggers say.
TEST_F(TargetHealthTest, WithoutAutomaticCompactionsThereAreNoTriggers) {
  auto options = WithTriggers(2, 3, 4, 1, 2);
  options.disable_auto_compactions = true;
  OwnedStore store(path_, {FamilyNamed(rocksdb::kDefaultColumnFamilyName, options)});
  FlushFiles(&store, 5);
  const TargetHealth health = MeasureHealth(store.db(), {store.family()});
  EXPECT_EQ(health.l0_files, 5U);
  EXPECT_EQ(health.pending_compaction_bytes, FileBytes(store));
  EXPECT_EQ(health.immutable_memtables, 0U);
  EXPECT_EQ(health.delayed_write_rate, 0U);
  EXPECT_FALSE(health.write_stopped);
  EXPECT_EQ(health.l0_slowdown_trigger, 0U);
  EXPECT_EQ(health.l0_stop_trigger, 0U);
  EXPECT_EQ(health.soft_pending_compaction_bytes, 0U);
  EXPECT_EQ(health.hard_pending_compaction_bytes, 0U);
}

TEST_F(TargetHealthTest, OfSeveralFamiliesTheMostFilesAndTheLeastTriggersCount) {
  OwnedStore store(path_, {FamilyNamed(rocksdb::kDefaultColumnFamilyName, WithTriggers(10, 30, 40, 1 << 20, 4 << 20)),
                           FamilyNamed("other", WithTriggers(10, 20, 50, 2 << 20, 3 << 20))});
  FlushFiles(&store, 1);
  FlushFiles(&store, 3, "other");
  const TargetHealth one = MeasureHealth(store.db(), {store.family()});
  EXPECT_EQ(one.l0_files, 1U);
  EXPECT_EQ(one.pending_compaction_bytes, 0U);
  EXPECT_EQ(one.l0_slowdown_trigger, 30U);
  EXPECT_EQ(one.l0_stop_trigger, 40U);
  const TargetHealth both = MeasureHealth(store.db(), {store.family(), store.family("other")});
  EXPECT_EQ(both.l0_files, 3U);
  EXPECT_EQ(both.l0_slowdown_trigger, 20U);
  EXPECT_EQ(both.l0_stop_trigger, 40U);
  EXPECT_EQ(both.soft_pending_compaction_bytes, uint64_t{1} << 20);
  EXPECT_EQ(both.hard_pending_compaction_bytes, uint64_t{3} << 20);
  EXPECT_EQ(both.delayed_write_rate, 0U);
  EXPECT_FALSE(both.write_stopped);
}

TEST_F(TargetHealthTest, WritersThatAreSlowedAndStoppedAreSeen) {
  OwnedStore store(path_, {FamilyNamed(rocksdb::kDefaultColumnFamilyName, WithTriggers(2, 3, 5, 0, 0))});
  FlushFiles(&store, 1);
  // What is due is seen, and not done.
  Check(store->PauseBackgroundWork());
  IngestFile(&store);
  IngestFile(&store);
  const TargetHealth slowed = MeasureHealth(store.db(), {store.family()});
  EXPECT_EQ(slowed.l0_files, 3U);
  EXPECT_EQ(slowed.pending_compaction_bytes, FileBytes(store));
  EXPECT_GT(slowed.delayed_write_rate, 0U);
  EXPECT_FALSE(slowed.write_stopped);
  IngestFile(&store);
  IngestFile(&store);
  const TargetHealth stopped = MeasureHealth(store.db(), {store.family()});
  EXPECT_EQ(stopped.l0_files, 5U);
  EXPECT_TRUE(stopped.write_stopped);
  Check(store->ContinueBackgroundWork());
}

}  // namespace
}  // namespace kvbatch::testing
