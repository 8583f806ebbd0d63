#include "store/metered_file_system.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "base/unique_fd.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

constexpr uint64_t kRate = uint64_t{500} << 20;
constexpr size_t kFileBytes = (2 << 20) + 4321;

// Calls of this thread that read, as the kernel counts them; -1 where it does not.
int64_t ReadCalls() {
  std::ifstream file("/proc/thread-self/io");
  for (std::string name; file >> name;) {
    int64_t value = 0;
    file >> value;
    if (name == "syscr:") {
      return value;
    }
  }
  return -1;
}

size_t PagesInCache(int fd, size_t size) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  std::vector<unsigned char> pages((size + page - 1) / page);
  EXPECT_EQ(::mincore(mapped, size, pages.data()), 0);
  ::munmap(mapped, size);
  return static_cast<size_t>(std::count_if(pages.begin(), pages.end(), [](unsigned char each) { return each & 1; }));
}

class MeteredFileSystemTest : public ::testing::Test {
 protected:
  MeteredFileSystemTest() {
    Random random(1);
    bytes_ = RandomBytes(random, kFileBytes);
    WriteFile(path_, bytes_);
    auto status = env_->GetFileSystem()->NewRandomAccessFile(path_, rocksdb::FileOptions(), &file_, nullptr);
    EXPECT_TRUE(status.ok()) << status.ToString();
  }

  std::string Read(uint64_t offset, size_t size) {
    std::string scratch(size, '\0');
    rocksdb::Slice result;
    const int64_t before = ReadCalls();
    const auto status = file_->Read(offset, size, rocksdb::IOOptions(), &result, scratch.data(), nullptr);
    calls_ = ReadCalls() - before;
    EXPECT_TRUE(status.ok()) << status.ToString();
    return result.ToString();
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "000007.sst";
  const std::shared_ptr<ReadMeter> meter_ = std::make_shared<ReadMeter>();
  const std::unique_ptr<rocksdb::Env> env_ = MeteredEnv(meter_);
  std::string bytes_;
  std::unique_ptr<rocksdb::FSRandomAccessFile> file_;
  int64_t calls_ = 0;
};

TEST_F(MeteredFileSystemTest, ReadsTheSameBytesWithALimitAndWithout) {
  for (const uint64_t rate : {uint64_t{0}, kRate, uint64_t{0}}) {
    meter_->limiter->SetRate(rate);
    EXPECT_EQ(Read(0, kFileBytes), bytes_);
    EXPECT_EQ(Read(12345, 1 << 20), bytes_.substr(12345, 1 << 20));
    EXPECT_EQ(Read(100, 10), bytes_.substr(100, 10));
  }
}

TEST_F(MeteredFileSystemTest, AReadPastTheEndIsShortWithALimitToo) {
  for (const uint64_t rate : {uint64_t{0}, kRate}) {
    meter_->limiter->SetRate(rate);
    EXPECT_EQ(Read(kFileBytes - 100'000, 1 << 20), bytes_.substr(kFileBytes - 100'000));
    EXPECT_EQ(Read(kFileBytes + 5, 100), "");
  }
}

TEST_F(MeteredFileSystemTest, UnderALimitALargeReadIsManySmallOnes) {
  if (ReadCalls() < 0) {
    GTEST_SKIP() << "the kernel does not count reads in /proc/thread-self/io";
  }
  Read(0, 1 << 20);
  const int64_t whole = calls_;
  meter_->limiter->SetRate(kRate);
  Read(0, 1 << 20);
  EXPECT_LE(whole, 3) << "what reading the count itself costs is in it";
  EXPECT_GE(calls_, static_cast<int64_t>((1 << 20) / meter_->limiter->read_bytes()));
}

TEST_F(MeteredFileSystemTest, AllThatIsReadCounts) {
  Read(0, 1000);
  meter_->limiter->SetRate(kRate);
  Read(0, 1 << 20);
  EXPECT_EQ(meter_->bytes.load(), 1000u + (1 << 20));
}

TEST_F(MeteredFileSystemTest, UnderALimitNothingIsReadAheadUncharged) {
  EXPECT_TRUE(file_->Prefetch(0, 1 << 20, rocksdb::IOOptions(), nullptr).ok());
  meter_->limiter->SetRate(kRate);
  EXPECT_TRUE(file_->Prefetch(0, 1 << 20, rocksdb::IOOptions(), nullptr).IsNotSupported());
}

TEST_F(MeteredFileSystemTest, ReadAheadBringsAPieceInAtTheRateAndNoMore) {
  const UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::fsync(fd.get()), 0);
  ASSERT_EQ(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
  const bool keeps_all = PagesInCache(fd.get(), kFileBytes) > 0;  // a file system in memory
  RateLimiter limiter(10 << 20);
  const auto began = std::chrono::steady_clock::now();
  ReadAhead(fd.get(), 4096, 1 << 20, &limiter);
  // The bucket is empty at first.
  EXPECT_GE(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(95));
  EXPECT_TRUE(Eventually([&] { return PagesInCache(fd.get(), kFileBytes) >= (1 << 20) / 4096; }));
  if (!keeps_all) {
    EXPECT_LE(PagesInCache(fd.get(), kFileBytes), (1 << 20) / 4096 + 1u);
  }
}

TEST(RateLimiter, WhatIsReadAtOnceGrowsWithTheRateWithinBounds) {
  EXPECT_EQ(RateLimiter(1000).read_bytes(), uint64_t{64} << 10);
  EXPECT_EQ(RateLimiter(uint64_t{50} << 20).read_bytes(), (uint64_t{50} << 20) / 800);
  EXPECT_EQ(RateLimiter(uint64_t{100} << 20).read_bytes(), (uint64_t{100} << 20) / 800);
  EXPECT_EQ(RateLimiter(uint64_t{10} << 30).read_bytes(), uint64_t{1} << 20);
}

}  // namespace
}  // namespace kvbatch::testing
