#include "store/ingester.h"

#include <rocksdb/sst_file_writer.h>

#include <string>
#include <thread>
#include <vector>

#include "store_testing.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

constexpr int kThreads = 8;
constexpr int kFilesEach = 10;

class IngesterTest : public ::testing::Test {
 protected:
  std::string FileOf(const std::string& key) {
    const std::string path = directory_ / (key + ".sst");
    rocksdb::SstFileWriter writer({}, rocksdb::Options());
    Check(writer.Open(path));
    Check(writer.Put(key, "value of " + key));
    Check(writer.Finish());
    return path;
  }

  std::string Read(const std::string& key, const std::string& family) {
    std::string value;
    const auto status = store_->Get(rocksdb::ReadOptions(), store_.family(family), key, &value);
    return status.ok() ? value : status.ToString();
  }

  const TempDir directory_;
  OwnedStore store_{directory_ / "store", {FamilyNamed("one"), FamilyNamed("two")}};
  Ingester ingester_{store_.db(), "the store"};
};

TEST_F(IngesterTest, AFileAloneIsOneCall) {
  const std::string file = FileOf("key");
  EXPECT_THAT(ingester_.Ingest(store_.family("one"), file, IngestKind::kBuilt), IsOk());
  EXPECT_EQ(Read("key", "one"), "value of key");
  EXPECT_EQ(ingester_.calls(), 1U);
  EXPECT_FALSE(std::filesystem::exists(file));
}

// What was ready while others were under way is known by the calls: there are fewer than files.
TEST_F(IngesterTest, FilesOfSeveralFamiliesGoInTogetherAndABadOneFailsAlone) {
  struct Moved {
    std::string key, family, path;
    bool damaged;
    Status status;
  };
  std::vector<std::vector<Moved>> moved(kThreads);
  for (int thread = 0; thread < kThreads; ++thread) {
    for (int number = 0; number < kFilesEach; ++number) {
      const std::string key = std::to_string(thread) + "-" + std::to_string(number);
      const bool damaged = thread == 0 && number % 2 == 1;
      moved[thread].push_back({key, thread % 2 == 0 ? "one" : "two", FileOf(key), damaged, Status::Ok()});
      if (damaged) {
        WriteFile(moved[thread].back().path, "this is no table, however long one looks at it");
      }
    }
  }
  std::vector<std::thread> threads;
  for (auto& mine : moved) {
    threads.emplace_back([this, &mine] {
      for (Moved& each : mine) {
        each.status = ingester_.Ingest(store_.family(each.family), each.path, IngestKind::kBuilt);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const auto& mine : moved) {
    for (const Moved& each : mine) {
      if (each.damaged) {
        EXPECT_THAT(each.status, Fails(Code::kCorruption, "ingest into the store"));
        EXPECT_TRUE(std::filesystem::exists(each.path));
      } else {
        EXPECT_THAT(each.status, IsOk());
        EXPECT_EQ(Read(each.key, each.family), "value of " + each.key);
        EXPECT_FALSE(std::filesystem::exists(each.path));
      }
    }
  }
  EXPECT_LT(ingester_.calls(), static_cast<uint64_t>(kThreads * kFilesEach - kFilesEach / 2));
}

TEST_F(IngesterTest, AFileThatIsNotThereIsTheTargetsFault) {
  EXPECT_THAT(ingester_.Ingest(store_.family("one"), directory_ / "absent.sst", IngestKind::kBuilt),
              Fails(Code::kTarget, "absent.sst"));
  EXPECT_EQ(ingester_.calls(), 0U);
}

}  // namespace
}  // namespace kvbatch::testing
