#include "base/unique_fd.h"

#include <fcntl.h>

#include <cerrno>

#include "testing.h"

namespace kvbatch::testing {
namespace {

int Open() {
  const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  EXPECT_GE(fd, 0);
  return fd;
}

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0 || errno != EBADF; }

TEST(UniqueFd, ClosesWhatItHolds) {
  const int fd = Open();
  {
    const UniqueFd owner(fd);
    EXPECT_TRUE(owner.valid());
    EXPECT_EQ(owner.get(), fd);
  }
  EXPECT_FALSE(IsOpen(fd));
}

TEST(UniqueFd, EmptyHoldsNothing) {
  UniqueFd owner;
  EXPECT_FALSE(owner.valid());
  EXPECT_EQ(owner.get(), -1);
  owner.Reset();
  EXPECT_FALSE(owner.valid());
}

TEST(UniqueFd, MoveConstructionLeavesTheOtherEmpty) {
  const int fd = Open();
  UniqueFd first(fd);
  {
    const UniqueFd second(std::move(first));
    EXPECT_FALSE(first.valid());  // NOLINT(bugprone-use-after-move)
    EXPECT_EQ(second.get(), fd);
    EXPECT_TRUE(IsOpen(fd));
  }
  EXPECT_FALSE(IsOpen(fd));
}

TEST(UniqueFd, MoveAssignmentClosesTheOldOne) {
  const int old_fd = Open();
  const int new_fd = Open();
  UniqueFd target(old_fd);
  UniqueFd source(new_fd);
  target = std::move(source);
  EXPECT_FALSE(IsOpen(old_fd));
  EXPECT_TRUE(IsOpen(new_fd));
  EXPECT_EQ(target.get(), new_fd);
  EXPECT_FALSE(source.valid());  // NOLINT(bugprone-use-after-move)
}

TEST(UniqueFd, SelfMoveKeepsTheDescriptor) {
  const int fd = Open();
  UniqueFd owner(fd);
  UniqueFd& same = owner;
  owner = std::move(same);
  EXPECT_EQ(owner.get(), fd);
  EXPECT_TRUE(IsOpen(fd));
}

TEST(UniqueFd, ReleaseGivesUpWithoutClosing) {
  const int fd = Open();
  {
    UniqueFd owner(fd);
    EXPECT_EQ(owner.Release(), fd);
    EXPECT_FALSE(owner.valid());
  }
  EXPECT_TRUE(IsOpen(fd));
  ::close(fd);
}

TEST(UniqueFd, ResetToTheSameKeepsItOpen) {
  const int fd = Open();
  UniqueFd owner(fd);
  owner.Reset(fd);
  EXPECT_EQ(owner.get(), fd);
  EXPECT_TRUE(IsOpen(fd));
}

TEST(UniqueFd, ResetClosesTheOldAndTakesTheNew) {
  const int old_fd = Open();
  const int new_fd = Open();
  UniqueFd owner(old_fd);
  owner.Reset(new_fd);
  EXPECT_FALSE(IsOpen(old_fd));
  EXPECT_TRUE(IsOpen(new_fd));
}

// A second close would hit whoever got the number in between.
TEST(UniqueFd, NeverClosesTwice) {
  const int fd = Open();
  UniqueFd somebody_else;
  {
    UniqueFd owner(fd);
    owner.Reset();
    somebody_else.Reset(Open());
    ASSERT_EQ(somebody_else.get(), fd);
    owner.Reset();
  }
  EXPECT_TRUE(IsOpen(fd));
}

}  // namespace
}  // namespace kvbatch::testing
