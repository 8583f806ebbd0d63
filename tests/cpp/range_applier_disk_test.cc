// RangeApplier on disks that are full, small or odd.
#include <rocksdb/version.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <csignal>

#include "store/range_applier.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

// Writes of this process past this size of a file fail with EFBIG while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    struct rlimit limit = before_;
    limit.rlim_cur = bytes;
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) {
      throw std::runtime_error("setrlimit");
    }
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  struct rlimit before_{};
  sighandler_t handler_;
};

// A file system of its own, of `bytes`, where this process may mount one.
class SmallDisk {
 public:
  SmallDisk(const std::string& path, size_t bytes) : path_(path) {
    std::filesystem::create_directory(path);
    mounted_ = ::mount("tmpfs", path.c_str(), "tmpfs", 0, ("size=" + std::to_string(bytes)).c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) {
      ::umount2(path_.c_str(), MNT_DETACH);
    }
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return mounted_; }

  // Takes all room but `left` bytes until MakeRoom.
  void Fill(size_t left) {
    struct statfs information{};
    ASSERT_EQ(::statfs(path_.c_str(), &information), 0);
    const auto room = static_cast<size_t>(information.f_bavail) * static_cast<size_t>(information.f_bsize);
    ASSERT_GT(room, left);
    WriteFile(ballast(), std::string(room - left, 'x'));
  }
  void MakeRoom() { std::filesystem::remove(ballast()); }

 private:
  std::string ballast() const { return path_ + "/ballast"; }

  const std::string path_;
  bool mounted_ = false;
};

class DiskTest : public ::testing::Test {
 protected:
  // Applies until something fails.
  static Status ApplyUntilItFails(RangeApplier* applier, const Entries& entries) {
    if (Status status = ApplyInBatches(applier, entries, 20); !status.ok()) {
      return status;
    }
    return FinishAsApplied(applier);
  }

  const TempDir directory_;
};

class ApplierDiskTest : public DiskTest, public ::testing::WithParamInterface<ApplyMode> {};

INSTANTIATE_TEST_SUITE_P(Modes, ApplierDiskTest, ::testing::Values(ApplyMode::kIngest, ApplyMode::kWrite),
                         [](const auto& mode) { return mode.param == ApplyMode::kIngest ? "Ingest" : "Write"; });

constexpr uint64_t kFileBytes = 500'000;

TEST_P(ApplierDiskTest, AFullDiskIsToldApartAndTheJobGoesOnWhenThereIsRoom) {
  if (ROCKSDB_MAJOR < 9 && GetParam() == ApplyMode::kWrite) {
    GTEST_SKIP() << "RocksDB " << ROCKSDB_MAJOR
                 << ", where assertions are on, ends the process at a WAL on a full disk";
  }
  SmallDisk disk(directory_ / "disk", 32 << 20);
  if (!disk.mounted()) {
    GTEST_SKIP() << "this process may not mount a file system";
  }
  const std::string path = directory_ / "disk/store";
  const Entries entries = SomeEntries(4000, 1000);
  uint64_t durable = 0;
  {
    const auto store = OpenTarget(path, kFileBytes);
    disk.Fill(2 << 20);
    const auto applier = ApplierFor(store, GetParam());
    EXPECT_THAT(ApplyUntilItFails(applier.get(), entries), Fails(Code::kNoSpace));
    EXPECT_THAT(ApplyEntries(applier.get(), {entries.back()}), ::testing::Not(IsOk())) << "nothing more is taken";
    while (const auto cursor = applier->TakeDurable()) {
      durable = cursor->entries;
      EXPECT_FALSE(cursor->complete);
    }
  }
  EXPECT_LT(durable, entries.size());
  EXPECT_FALSE(std::filesystem::exists(path + "/.kvbatch")) << "it takes room that is missing";
  disk.MakeRoom();
  const auto store = OpenTarget(path, kFileBytes);
  const auto cursors = Must(store->Cursors());
  const Cursor cursor = cursors.empty() ? Cursor() : cursors[0];
  EXPECT_GE(cursor.entries, durable);
  const auto applier = ApplierFor(store, GetParam(), {}, cursor);
  ASSERT_THAT(ApplyInBatches(applier.get(), Suffix(entries, cursor.entries), 20), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_TRUE(FinishedEntries(store) == entries);
}

// Whoever goes on in the same process must not find the disk taken by files that failed.
TEST_F(DiskTest, AFileThatCannotBeWrittenIsNoProgressAndNotKept) {
  const auto store = OpenTarget(directory_ / "store", kFileBytes);
  const Entries entries = SomeEntries(2000, 1000);
  auto applier = ApplierFor(store, ApplyMode::kIngest);
  ASSERT_THAT(ApplyInBatches(applier.get(), Prefix(entries, 600), 20), IsOk());
  ASSERT_THAT(applier->Flush(), IsOk());
  ASSERT_THAT(applier->Drain(), IsOk());
  const Cursor before = applier->applied();
  EXPECT_EQ(applier->TakeDurable(), before);
  {
    const FileSizeLimit limit(200'000);
    EXPECT_THAT(ApplyUntilItFails(applier.get(), Suffix(entries, 600)), Fails(Code::kTarget, "store"));
    EXPECT_THAT(applier->Flush(), Fails(Code::kTarget));
    EXPECT_THAT(applier->Drain(), Fails(Code::kTarget));
    EXPECT_EQ(applier->TakeDurable(), std::nullopt);
    EXPECT_EQ(Must(store->Cursors()), std::vector<Cursor>{before});
    applier.reset();
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory_ / "store/.kvbatch"));
  applier = ApplierFor(store, ApplyMode::kIngest, {}, before);
  ASSERT_THAT(ApplyInBatches(applier.get(), Suffix(entries, 600), 20), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_TRUE(FinishedEntries(store) == entries);
}

// A file system without blocks of its own.
TEST_P(ApplierDiskTest, ATargetInMemoryWorks) {
  const std::filesystem::path shm("/dev/shm");
  if (!std::filesystem::is_directory(shm) || ::access(shm.c_str(), W_OK) != 0) {
    GTEST_SKIP() << "no writable /dev/shm";
  }
  const std::string path = shm / std::filesystem::path(directory_ / "").parent_path().filename();
  const auto store = OpenTarget(path, kFileBytes);
  const Entries entries = SomeEntries(1500, 500);
  const auto applier = ApplierFor(store, GetParam());
  ASSERT_THAT(ApplyInBatches(applier.get(), entries, 50), IsOk());
  ASSERT_THAT(FinishAsApplied(applier.get()), IsOk());
  EXPECT_TRUE(FinishedEntries(store) == entries);
  std::filesystem::remove_all(path);
}

TEST_F(DiskTest, ASpoolThatCannotBeWrittenIsTheTargetsFault) {
  const auto store = OpenTarget(directory_ / "store", kFileBytes);
  std::filesystem::remove_all(directory_ / "store/.kvbatch");
  const auto applier = ApplierFor(store, ApplyMode::kIngest);
  EXPECT_THAT(ApplyEntries(applier.get(), SomeEntries(1)), Fails(Code::kTarget, "store"));
  EXPECT_THAT(applier->Flush(), Fails(Code::kTarget));
  EXPECT_TRUE(Must(store->Cursors()).empty());
}

}  // namespace
}  // namespace kvbatch::testing
