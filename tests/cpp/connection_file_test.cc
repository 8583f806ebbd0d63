#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <thread>

#include "base/checksum.h"
#include "base/file_checksum.h"
#include "target_testing.h"
#include "wire/connection.h"
#include "wire_testing.h"

namespace kvbatch::testing {
namespace {

FrameLimits WithFiles() {
  FrameLimits limits;
  limits.max_file_bytes = 64 << 20;
  return limits;
}

// A file on each side of a connection.
class ConnectionFileTest : public ::testing::TestWithParam<bool> {
 protected:
  ConnectionFileTest() : ConnectionFileTest(GetParam() ? TcpPair() : LocalPair()) {}
  explicit ConnectionFileTest(Sockets sockets)
      : left_(std::move(sockets.first), "left", FrameLimits()),
        right_(std::move(sockets.second), "right", WithFiles()) {
    ::signal(SIGPIPE, SIG_IGN);
  }

  UniqueFd Source(const std::string& bytes) {
    WriteFile(source_, bytes);
    return UniqueFd(::open(source_.c_str(), O_RDONLY | O_CLOEXEC));
  }

  const TempDir directory_;
  const std::string source_ = directory_ / "source.sst";
  const std::string target_ = directory_ / "target.sst";
  const UniqueFd taken_{::open(target_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  const std::shared_ptr<BufferPool> pool_ = BufferPool::Create(64 << 20);
  Connection left_;
  Connection right_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, ConnectionFileTest, ::testing::Bool(),
                         [](const auto& instance) { return instance.param ? "Tcp" : "Local"; });

TEST_P(ConnectionFileTest, AFileArrivesInPiecesOfAnySize) {
  Random random(19);
  const std::string bytes = RandomBytes(random, 9'000'001);
  const UniqueFd source = Source(bytes);
  const std::vector<uint64_t> pieces{1, 4095, 4096, 70'000, 3'000'000, 1 << 20, 1};
  std::thread sender([&] {
    left_.SetRoute(77, 1, 5);
    uint64_t offset = 0;
    for (size_t i = 0; offset < bytes.size(); ++i) {
      const uint64_t length = std::min<uint64_t>(pieces[i % pieces.size()], bytes.size() - offset);
      EXPECT_EQ(Must(left_.SendFile(source.get(), offset, length, "source.sst")),
                Crc32c(std::string_view(bytes).substr(offset, length)));
      offset += length;
    }
    EXPECT_THAT(left_.SendControl(FrameType::kRangeEnd, 1, 5, "{}"), IsOk());
  });
  Frame frame(pool_);
  uint64_t offset = 0;
  while (true) {
    ASSERT_THAT(right_.Receive(&frame), IsOk());
    if (frame.header().type != FrameType::kFile) {
      break;
    }
    EXPECT_EQ(frame.header().range, 5U);
    EXPECT_EQ(frame.header().job, 77U);
    EXPECT_TRUE(frame.payload().empty());
    EXPECT_EQ(Must(frame.OpenRaw()), "");
    const uint64_t before = right_.bytes_received();
    ASSERT_THAT(right_.ReceiveFile(taken_.get(), offset, "target.sst"), IsOk());
    offset += right_.bytes_received() - before;
  }
  sender.join();
  EXPECT_EQ(frame.header().type, FrameType::kRangeEnd);
  EXPECT_EQ(offset, bytes.size());
  EXPECT_TRUE(ReadFile(target_) == bytes);
  EXPECT_EQ(left_.bytes_sent(), right_.bytes_received());
}

// Its receiver cannot tell whether a piece came from a file or from memory.
TEST_P(ConnectionFileTest, APieceInMemoryIsAPieceOfAFile) {
  Random random(20);
  const std::string bytes = RandomBytes(random, 3'000'001);
  const UniqueFd source = Source(bytes);
  std::thread sender([&] {
    left_.SetRoute(77, 1, 5);
    EXPECT_EQ(Must(left_.SendPiece(std::string_view(bytes).substr(0, 1'500'000), 0)),
              Crc32c(std::string_view(bytes).substr(0, 1'500'000)));
    EXPECT_THAT(left_.SendFile(source.get(), 1'500'000, 1, "source.sst"), IsOk());
    EXPECT_THAT(left_.SendPiece(std::string_view(bytes).substr(1'500'001), 1'500'001), IsOk());
  });
  Frame frame(pool_);
  for (const uint64_t offset : {0, 1'500'000, 1'500'001}) {
    ASSERT_THAT(right_.Receive(&frame), IsOk());
    EXPECT_EQ(frame.header().range, 5U);
    EXPECT_EQ(frame.header().job, 77U);
    EXPECT_THAT(right_.ReceiveFile(taken_.get(), offset, "target.sst"), IsOk());
  }
  sender.join();
  EXPECT_TRUE(ReadFile(target_) == bytes);
  EXPECT_EQ(left_.frames_sent(), 3U);
}

TEST_P(ConnectionFileTest, APieceThatComesSlowlyArrivesToo) {
  const std::string bytes = Repetitive(300'000);
  const UniqueFd source = Source(bytes);
  Sockets inner = LocalPair();
  // What left sends is passed on in small parts with pauses, so that the low-water mark is not reached for long.
  Connection slow(std::move(inner.first), "slow", FrameLimits());
  Connection far(std::move(inner.second), "far", WithFiles());
  ASSERT_THAT(far.SetTimeout(5000), IsOk());
  std::thread sender([&] { EXPECT_THAT(slow.SendFile(source.get(), 0, bytes.size(), "source.sst"), IsOk()); });
  Frame frame(pool_);
  ASSERT_THAT(far.Receive(&frame), IsOk());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_THAT(far.ReceiveFile(taken_.get(), 0, "target.sst"), IsOk());
  sender.join();
  EXPECT_TRUE(ReadFile(target_) == bytes);
}

TEST_P(ConnectionFileTest, NothingElseIsReceivedBeforeThePiece) {
  const UniqueFd source = Source("four");
  ASSERT_THAT(left_.SendFile(source.get(), 0, 4, "source.sst"), IsOk());
  Frame frame(pool_);
  EXPECT_THAT(right_.ReceiveFile(taken_.get(), 0, "target.sst"), Fails(Code::kUsage));
  ASSERT_THAT(right_.Receive(&frame), IsOk());
  EXPECT_THAT(right_.Receive(&frame), Fails(Code::kUsage));
  EXPECT_THAT(right_.ReceiveFile(taken_.get(), 1, "target.sst"), Fails(Code::kProtocol, "byte 0 of target.sst"));
  EXPECT_THAT(right_.ReceiveFile(taken_.get(), 0, "target.sst"), IsOk());
}

TEST_P(ConnectionFileTest, AFileThatIsShorterThanItWasIsTheSourcesFault) {
  const UniqueFd source = Source("short");
  EXPECT_THAT(left_.SendFile(source.get(), 0, 6, "000007.sst"), Fails(Code::kSource, "000007.sst"));
  EXPECT_EQ(left_.bytes_sent(), 0U);
}

TEST_P(ConnectionFileTest, APeerThatEndsInsideAPieceIsATransportError) {
  const std::string bytes(1000, 'x');
  FrameHeader header;
  header.type = FrameType::kFile;
  header.payload_length = 2000;
  std::string encoded(kFrameHeaderSize, '\0');
  EncodeFrameHeader(header, encoded.data());
  Sockets sockets = TcpPair();
  Connection connection(std::move(sockets.second), "peer", WithFiles());
  ASSERT_EQ(::write(sockets.first.get(), (encoded + bytes).data(), encoded.size() + bytes.size()), 1064);
  sockets.first.Reset();
  Frame frame(pool_);
  ASSERT_THAT(connection.Receive(&frame), IsOk());
  EXPECT_THAT(connection.ReceiveFile(taken_.get(), 0, "target.sst"), Fails(Code::kTransport, "inside a frame"));
}

TEST_P(ConnectionFileTest, ASilentPeerTimesOutInsideAPiece) {
  FrameHeader header;
  header.type = FrameType::kFile;
  header.payload_length = 5 << 20;
  std::string encoded(kFrameHeaderSize, '\0');
  EncodeFrameHeader(header, encoded.data());
  Sockets sockets = TcpPair();
  Connection connection(std::move(sockets.second), "peer", WithFiles());
  ASSERT_THAT(connection.SetTimeout(300), IsOk());
  ASSERT_EQ(::write(sockets.first.get(), encoded.data(), encoded.size()), 64);
  Frame frame(pool_);
  ASSERT_THAT(connection.Receive(&frame), IsOk());
  EXPECT_THAT(connection.ReceiveFile(taken_.get(), 0, "target.sst"), Fails(Code::kTransport, "within the time-out"));
}

TEST_P(ConnectionFileTest, AChangedByteIsNoticed) {
  FrameHeader header;
  header.type = FrameType::kFile;
  header.payload_length = 3;
  header.payload_crc32c = Crc32c("abc");
  std::string encoded(kFrameHeaderSize, '\0');
  EncodeFrameHeader(header, encoded.data());
  encoded += "abd";
  Sockets sockets = TcpPair();
  Connection connection(std::move(sockets.second), "peer", WithFiles());
  ASSERT_EQ(::write(sockets.first.get(), encoded.data(), encoded.size()), 67);
  Frame frame(pool_);
  ASSERT_THAT(connection.Receive(&frame), IsOk());
  EXPECT_THAT(connection.ReceiveFile(taken_.get(), 0, "target.sst"), Fails(Code::kCorruption, "target.sst"));
}

TEST_P(ConnectionFileTest, AFileThatCannotBeWrittenIsTheTargetsFault) {
  const UniqueFd source = Source("four");
  ASSERT_THAT(left_.SendFile(source.get(), 0, 4, "source.sst"), IsOk());
  Frame frame(pool_);
  ASSERT_THAT(right_.Receive(&frame), IsOk());
  const UniqueFd unwritable(::open(target_.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_THAT(right_.ReceiveFile(unwritable.get(), 0, "target.sst"), Fails(Code::kTarget, "target.sst"));
}

TEST(FrameFormatFile, WhatIsNoPieceOfAFileIsRefused) {
  FrameHeader good;
  good.type = FrameType::kFile;
  good.raw_length = 1'000'000;
  good.payload_length = 4096;
  const auto decoded = [](const FrameHeader& header, const FrameLimits& limits) {
    std::string bytes(kFrameHeaderSize, '\0');
    EncodeFrameHeader(header, bytes.data());
    return DecodeFrameHeader(bytes, limits);
  };
  ASSERT_THAT(decoded(good, WithFiles()), IsOk());
  EXPECT_EQ(decoded(good, WithFiles()).value(), good);
  EXPECT_THAT(decoded(good, FrameLimits()), Fails(Code::kProtocol, "the limit is 0"));
  for (const auto& spoil : std::vector<std::function<void(FrameHeader*)>>{
           [](FrameHeader* header) { header->payload_length = 0; },
           [](FrameHeader* header) { header->payload_length = (64 << 20) + 1; },
           [](FrameHeader* header) { header->payload_length = ~uint64_t{0}; },
           [](FrameHeader* header) { header->raw_length = uint64_t{1} << 63; },
           [](FrameHeader* header) { header->raw_length = (uint64_t{1} << 63) - 4096; },
           [](FrameHeader* header) { header->codec = Codec::kLz4; },
           [](FrameHeader* header) { header->entries = 1; },
       }) {
    FrameHeader bad = good;
    spoil(&bad);
    EXPECT_THAT(decoded(bad, WithFiles()), Fails(Code::kProtocol));
  }
}

TEST(FileChecksum, IsThatOfTheBytesWhereverTheyStand) {
  const TempDir directory;
  Random random(23);
  const std::string bytes = RandomBytes(random, 200'000);
  WriteFile(directory / "file", bytes);
  const UniqueFd fd(::open((directory / "file").c_str(), O_RDONLY | O_CLOEXEC));
  for (const auto& [offset, length] : std::vector<std::pair<uint64_t, uint64_t>>{
           {0, 200'000}, {0, 0}, {1, 1}, {4095, 2}, {4096, 4096}, {8191, 100'000}, {199'999, 1}, {200'000, 0}}) {
    EXPECT_EQ(Must(FileCrc32c(fd.get(), offset, length, Code::kSource, "read it")),
              Crc32c(std::string_view(bytes).substr(offset, length)));
  }
  EXPECT_THAT(FileCrc32c(fd.get(), 199'999, 2, Code::kSource, "read it"), Fails(Code::kSource, "ends at byte 200000"));
  EXPECT_THAT(FileCrc32c(-1, 0, 2, Code::kTarget, "read it"), Fails(Code::kTarget, "read it"));
}

// A mapping whose file is cut while it is read is a SIGBUS, which must not end the process.
TEST(FileChecksum, AFileThatIsCutWhileItIsReadIsAnError) {
  const TempDir directory;
  const std::string path = directory / "file";
  constexpr uint64_t kSize = 48 << 20;
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  std::atomic<bool> over = false;
  std::thread cutter([&] {
    while (!over) {
      (void)::ftruncate(fd.get(), kSize);
      (void)::ftruncate(fd.get(), 4096);
    }
  });
  size_t errors = 0;
  for (int i = 0; i < 200; ++i) {
    const auto crc = FileCrc32c(fd.get(), 0, kSize, Code::kSource, "read it");
    errors += crc.ok() ? 0 : 1;
  }
  over = true;
  cutter.join();
  EXPECT_GT(errors, 0U);
}

TEST(FileChecksum, ADigestOfPiecesDependsOnEachOfTheirTraits) {
  const Digest digest = ChainFilePiece(Digest(), 1, 2, 3);
  EXPECT_EQ(digest, ChainFilePiece(Digest(), 1, 2, 3));
  EXPECT_FALSE(digest == ChainFilePiece(Digest(), 0, 2, 3));
  EXPECT_FALSE(digest == ChainFilePiece(Digest(), 1, 0, 3));
  EXPECT_FALSE(digest == ChainFilePiece(Digest(), 1, 2, 0));
  EXPECT_FALSE(digest == ChainFilePiece(digest, 1, 2, 3));
}

}  // namespace
}  // namespace kvbatch::testing
