#include "wire/apply_batch.h"

#include <array>

#include "batch/batch_builder.h"
#include "testing.h"
#include "wire_testing.h"

namespace kvbatch::testing {
namespace {

constexpr uint32_t kFamily = 1;

class ApplyBatchTest : public ::testing::Test {
 protected:
  // A batch that `add` fills, in the frame.
  template <typename Add>
  std::string Pack(Add add) {
    EXPECT_THAT(frame_.Reserve(4096, Codec::kNone), IsOk());
    BatchBuilder builder(frame_.raw(), 4096);
    add(&builder);
    const std::string batch(builder.Finish());
    frame_.SetRaw(batch.size(), builder.count());
    return batch;
  }

  std::string PackTwo() {
    return Pack([](BatchBuilder* builder) {
      builder->Put(kFamily, "a", "first");
      builder->Put(kFamily, "bc", "second");
    });
  }

  Result<SentBatch> Send(std::string_view log_data, const std::set<uint32_t>& families = {kFamily}) {
    return SendApplyBatch(&connection_, &frame_, log_data, families);
  }

  // All that has arrived.
  std::string Arrived() {
    std::array<char, 8192> bytes;
    const ssize_t size = ::recv(sockets_.second.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    return size > 0 ? std::string(bytes.data(), static_cast<size_t>(size)) : std::string();
  }

  const std::shared_ptr<BufferPool> pool_ = BufferPool::Create(1 << 20);
  Frame frame_{pool_};
  Sockets sockets_ = LocalPair();
  Connection connection_{std::move(sockets_.first), "server", FrameLimits()};
};

std::string Command(const std::string& batch) {
  return "*2\r\n$10\r\nAPPLYBATCH\r\n$" + std::to_string(batch.size()) + "\r\n" + batch + "\r\n";
}

TEST_F(ApplyBatchTest, ABatchIsOneCommand) {
  const std::string batch = PackTwo();
  const SentBatch sent = Must(Send({}));
  EXPECT_EQ(Arrived(), Command(batch));
  EXPECT_EQ(sent.length, batch.size());
  EXPECT_EQ(sent.entries, 2U);
  EXPECT_EQ(sent.raw_bytes, 14U);
  EXPECT_EQ(sent.last_key, "bc");
}

TEST_F(ApplyBatchTest, ALogRecordStandsBeforeTheOthersAndIsNotCounted) {
  const std::string batch = PackTwo();
  std::string longer = batch;
  longer.insert(kBatchHeaderSize, "\x03\x03\x33\x20\x37");  // `3 7`
  const SentBatch sent = Must(Send("3 7"));
  EXPECT_EQ(Arrived(), Command(longer));
  EXPECT_EQ(sent.length, longer.size());
  EXPECT_EQ(sent.entries, 2U);
}

TEST_F(ApplyBatchTest, WhatWasSentIsCountedWithAllThatIsAroundIt) {
  const std::string batch = PackTwo();
  EXPECT_THAT(Send({}), IsOk());
  EXPECT_EQ(connection_.bytes_sent(), Command(batch).size());
}

TEST_F(ApplyBatchTest, AnotherColumnFamilyIsNotSent) {
  PackTwo();
  EXPECT_THAT(Send({}, {0, 2}), Fails(Code::kCorruption, "names column family id 1"));
  EXPECT_EQ(Arrived(), "");
}

TEST_F(ApplyBatchTest, WhatIsNoPutIsNotSent) {
  Pack([](BatchBuilder* builder) { builder->Delete(kFamily, "a"); });
  EXPECT_THAT(Send({}), Fails(Code::kCorruption, "is not a put"));
  EXPECT_EQ(Arrived(), "");
}

TEST_F(ApplyBatchTest, ABatchThatIsDamagedIsNotSent) {
  const std::string batch = PackTwo();
  for (size_t cut = 1; cut < batch.size(); ++cut) {
    frame_.SetRaw(cut, 2);
    EXPECT_THAT(Send("1"), Fails(Code::kCorruption, "batch"));
  }
  frame_.SetRaw(batch.size(), 2);
  ++frame_.raw()[kBatchCountOffset];
  EXPECT_THAT(Send("1"), Fails(Code::kCorruption, "its header counts 3"));
  EXPECT_EQ(Arrived(), "");
}

TEST_F(ApplyBatchTest, APeerThatIsGoneIsATransportError) {
  PackTwo();
  sockets_.second = UniqueFd();
  EXPECT_THAT(Send({}), Fails(Code::kTransport, "server"));
}

}  // namespace
}  // namespace kvbatch::testing
