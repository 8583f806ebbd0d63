#include "store/store_lock.h"

#include <fcntl.h>
#include <sys/wait.h>

#include <csignal>

#include "store_testing.h"

namespace kvbatch::testing {
namespace {

constexpr char kPathVariable[] = "KVBATCH_TEST_HELD_STORE";

// Makes this program, when HoldingProcess starts it again, open the store, say so on standard output and stay.
class HoldingEnvironment final : public ::testing::Environment {
 public:
  void SetUp() override {
    const char* path = std::getenv(kPathVariable);
    if (path == nullptr) {
      return;
    }
    try {
      const OwnedStore store(path);
      std::puts("held");
      std::fflush(stdout);
      while (::getppid() != 1) {
        ::usleep(100'000);
      }
    } catch (const std::runtime_error& error) {
      std::puts(error.what());
    }
    std::_Exit(1);
  }
};
[[maybe_unused]] const auto* const holding_environment = ::testing::AddGlobalTestEnvironment(new HoldingEnvironment());

class ChildProcess {
 public:
  ~ChildProcess() { End(); }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  void End() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(std::exchange(pid_, -1), nullptr, 0);
    }
  }
  pid_t pid() const { return pid_; }

 protected:
  ChildProcess() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) {
      throw std::runtime_error("pipe");
    }
    from_child_.Reset(fds[0]);
    to_parent_.Reset(fds[1]);
  }
  // Reads until the child says `word`, or ends.
  bool Says(const std::string& word) {
    to_parent_.Reset();
    std::string said;
    char part[256];
    for (ssize_t got = 0; said.find(word) == std::string::npos; said.append(part, static_cast<size_t>(got))) {
      got = ::read(from_child_.get(), part, sizeof(part));
      if (got <= 0) {
        return false;
      }
    }
    return true;
  }

  UniqueFd from_child_;
  UniqueFd to_parent_;
  pid_t pid_ = -1;
};

// Another process that has the store open for writing with RocksDB. This program again, because RocksDB's threads do
// not survive a fork without exec.
class HoldingProcess : public ChildProcess {
 public:
  explicit HoldingProcess(const std::string& path) {
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(to_parent_.get(), STDOUT_FILENO);
      ::setenv(kPathVariable, path.c_str(), 1);
      ::execl("/proc/self/exe", "core_tests", "--gtest_brief=1", nullptr);
      ::_exit(127);
    }
    if (!Says("held")) {
      throw std::runtime_error("the child did not open " + path);
    }
  }
};

// Another process that has a POSIX lock of this type on the store's LOCK file, as a reader of ours would.
class LockingProcess : public ChildProcess {
 public:
  LockingProcess(const std::string& path, short type) {
    const std::string file = path + "/LOCK";
    pid_ = ::fork();
    if (pid_ == 0) {
      const int fd = ::open(file.c_str(), O_RDWR);
      struct flock lock{};
      lock.l_type = type;
      lock.l_whence = SEEK_SET;
      if (::fcntl(fd, F_SETLK, &lock) != 0 || ::write(to_parent_.get(), "locked", 6) != 6) {
        ::_exit(1);
      }
      while (true) {
        ::pause();
      }
    }
    if (!Says("locked")) {
      throw std::runtime_error("the child did not lock " + file);
    }
  }
};

class StoreLockTest : public ::testing::Test {
 protected:
  StoreLockTest() { OwnedStore(path_).Put("key", "value"); }

  std::string Text(pid_t pid) const { return path_ + " is in use: process " + std::to_string(pid); }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
};

TEST_F(StoreLockTest, AStoreAtRestIsFree) {
  EXPECT_THAT(StoreLock::CheckFree(path_), IsOk());
  EXPECT_THAT(StoreLock::Acquire(path_), IsOk());
  EXPECT_THAT(StoreLock::CheckFree(path_), IsOk()) << "the lock was let go";
}

TEST_F(StoreLockTest, AStoreWithoutALockFileIsTakenAsItIs) {
  std::filesystem::remove(path_ + "/LOCK");
  EXPECT_THAT(StoreLock::CheckFree(path_), IsOk());
  const auto lock = StoreLock::Acquire(path_);
  EXPECT_THAT(lock, IsOk());
  EXPECT_FALSE(std::filesystem::exists(path_ + "/LOCK"));
}

TEST_F(StoreLockTest, AnotherProcessThatWritesIsNamed) {
  HoldingProcess holder(path_);
  EXPECT_THAT(StoreLock::Acquire(path_), Fails(Code::kRefused, Text(holder.pid()) + " has it open for writing"));
  EXPECT_THAT(StoreLock::CheckFree(path_), Fails(Code::kRefused, Text(holder.pid()) + " has it open for writing"));
  EXPECT_THAT(SourceStore::Open(path_, {}), Fails(Code::kRefused, Text(holder.pid())));
  EXPECT_THAT(TargetStore::Open(path_, {}), Fails(Code::kRefused, Text(holder.pid())));
  holder.End();
  EXPECT_THAT(StoreLock::CheckFree(path_), IsOk()) << "a killed owner holds nothing";
  EXPECT_THAT(SourceStore::Open(path_, {}), IsOk());
}

TEST_F(StoreLockTest, AnotherProcessThatReadsKeepsWritersOutOnly) {
  LockingProcess reader(path_, F_RDLCK);
  EXPECT_THAT(StoreLock::Acquire(path_), IsOk());
  EXPECT_THAT(StoreLock::CheckFree(path_), Fails(Code::kRefused, Text(reader.pid()) + " is reading it. It was left"));
  EXPECT_THAT(TargetStore::Open(path_, {}), Fails(Code::kRefused, Text(reader.pid())));
  reader.End();
  EXPECT_THAT(StoreLock::CheckFree(path_), IsOk());
}

TEST_F(StoreLockTest, ThisProcessThatWritesIsNamed) {
  const OwnedStore owner(path_);
  EXPECT_THAT(StoreLock::Acquire(path_), Fails(Code::kRefused, "this process has it open for writing"));
  EXPECT_THAT(StoreLock::CheckFree(path_), Fails(Code::kRefused, "this process has it open for writing"));
}

// Closing any descriptor of a file drops the process's own locks on it.
TEST_F(StoreLockTest, AskingDoesNotTakeTheLockFromThisProcessesOwnStore) {
  const auto target = OpenTarget(path_);
  EXPECT_THAT(StoreLock::CheckFree(path_), Fails(Code::kRefused));
  EXPECT_THAT(StoreLock::Acquire(path_), Fails(Code::kRefused));
  EXPECT_THAT(SourceStore::Open(path_, {}), Fails(Code::kRefused));
  EXPECT_THAT(TargetStore::Open(path_, {}), Fails(Code::kRefused));
  EXPECT_THROW(LockingProcess(path_, F_WRLCK), std::runtime_error) << "another process got the lock";
}

TEST_F(StoreLockTest, LocksOfThisProcessAreOneLock) {
  auto first = Must(StoreLock::Acquire(path_));
  const auto second = Must(StoreLock::Acquire(path_));
  EXPECT_EQ(first, second);
  first.reset();
  EXPECT_THROW(LockingProcess(path_, F_WRLCK), std::runtime_error) << "the second one still holds";
  EXPECT_THAT(StoreLock::CheckFree(path_), Fails(Code::kRefused, "this process is reading it"));
}

TEST_F(StoreLockTest, ALockThatIsHeldKeepsRocksdbFromWriting) {
  const auto lock = Must(StoreLock::Acquire(path_));
  EXPECT_THROW(HoldingProcess{path_}, std::runtime_error);
  EXPECT_THAT(TargetStore::Open(path_, {}), Fails(Code::kRefused, "this process is reading it"));
}

TEST_F(StoreLockTest, TwoReadersOfOneStoreKeepItLockedUntilTheLastGoes) {
  auto first = OpenSource(path_);
  auto second = OpenSource(path_);
  first.reset();
  EXPECT_THROW(LockingProcess(path_, F_WRLCK), std::runtime_error);
  second.reset();
  EXPECT_NO_THROW(LockingProcess(path_, F_WRLCK));
}

TEST_F(StoreLockTest, AnotherPathToTheStoreIsTheSameStore) {
  const std::string link = directory_ / "link";
  std::filesystem::create_directory_symlink(path_, link);
  const auto lock = Must(StoreLock::Acquire(path_));
  EXPECT_THAT(StoreLock::CheckFree(link), Fails(Code::kRefused));
  EXPECT_EQ(Must(StoreLock::Acquire(link)), lock);
}

TEST_F(StoreLockTest, NothingIsWritten) {
  const auto before = TraceOf(path_);
  {
    const auto lock = Must(StoreLock::Acquire(path_));
    EXPECT_THAT(StoreLock::CheckFree(path_), Fails(Code::kRefused));
  }
  EXPECT_THAT(StoreLock::CheckFree(path_), IsOk());
  EXPECT_EQ(TraceOf(path_), before);
}

}  // namespace
}  // namespace kvbatch::testing
