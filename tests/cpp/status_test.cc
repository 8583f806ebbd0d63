#include "base/status.h"

#include <cerrno>
#include <memory>

#include "testing.h"

namespace kvbatch::testing {
namespace {

TEST(Status, IsOkUnlessSaidOtherwise) {
  EXPECT_TRUE(Status().ok());
  EXPECT_TRUE(Status::Ok().ok());
  EXPECT_EQ(Status::Ok().message(), "");
  EXPECT_FALSE(Status(Code::kTransport, "").ok());
}

TEST(Status, WithinPrefixesTheMessageAndKeepsTheCode) {
  const Status status = Status(Code::kSource, "no such file").Within("000007.sst").Within("range 3");
  EXPECT_EQ(status.code(), Code::kSource);
  EXPECT_EQ(status.message(), "range 3: 000007.sst: no such file");
}

TEST(Status, WithinLeavesOkAlone) {
  const Status status = Status::Ok().Within("range 3");
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.message(), "");
}

TEST(FromErrno, NamesTheCallAndTheReason) {
  const Status status = FromErrno(Code::kTransport, "send to 10.0.0.1:7720", EPIPE);
  EXPECT_EQ(status.code(), Code::kTransport);
  EXPECT_EQ(status.message(), "send to 10.0.0.1:7720: Broken pipe");
}

TEST(FromErrno, AFullDiskIsToldApartForTargetsOnly) {
  EXPECT_EQ(FromErrno(Code::kTarget, "write", ENOSPC).code(), Code::kNoSpace);
  EXPECT_EQ(FromErrno(Code::kTarget, "write", EDQUOT).code(), Code::kNoSpace);
  EXPECT_EQ(FromErrno(Code::kTarget, "write", EIO).code(), Code::kTarget);
  EXPECT_EQ(FromErrno(Code::kSource, "read", ENOSPC).code(), Code::kSource);
}

TEST(Result, HoldsAValueOrTheReasonForNone) {
  Result<std::unique_ptr<int>> value(std::make_unique<int>(7));
  ASSERT_TRUE(value.ok());
  EXPECT_TRUE(value.status().ok());
  EXPECT_EQ(*value.value(), 7);
  EXPECT_EQ(*value.Take(), 7);

  const Result<std::unique_ptr<int>> failure(Status(Code::kUsage, "why"));
  EXPECT_FALSE(failure.ok());
  EXPECT_THAT(failure, Fails(Code::kUsage, "why"));
}

}  // namespace
}  // namespace kvbatch::testing
