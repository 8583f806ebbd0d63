#include "wire/connection.h"

#include <pthread.h>
#include <sys/socket.h>

#include <atomic>
#include <csignal>
#include <thread>
#include <vector>

#include "base/checksum.h"
#include "testing.h"
#include "wire_testing.h"

namespace kvbatch::testing {
namespace {

// Two ends that speak frames.
class ConnectionTest : public ::testing::TestWithParam<bool> {
 protected:
  ConnectionTest() : ConnectionTest(GetParam() ? TcpPair() : LocalPair()) {}
  explicit ConnectionTest(Sockets sockets)
      : left_(std::move(sockets.first), "left", FrameLimits()),
        right_(std::move(sockets.second), "right", FrameLimits()) {}

  const std::shared_ptr<BufferPool> pool_ = BufferPool::Create(300 << 20);
  Connection left_;
  Connection right_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, ConnectionTest, ::testing::Bool(),
                         [](const auto& instance) { return instance.param ? "Tcp" : "Local"; });

TEST_P(ConnectionTest, FramesArriveAsTheyWereSent) {
  Random random(13);
  for (const Codec codec : {Codec::kNone, Codec::kLz4, Codec::kZstd}) {
    for (const std::string& raw : {std::string(), std::string("x"), Repetitive(50'000), RandomBytes(random, 3000)}) {
      Frame sent = FrameOf(pool_, raw, 3, codec);
      left_.SetRoute(0x1122334455667788, 5, 6);
      ASSERT_THAT(left_.Send(&sent), IsOk());
      Frame received(pool_);
      ASSERT_THAT(right_.Receive(&received), IsOk());
      EXPECT_EQ(received.header(), sent.header());
      EXPECT_EQ(received.header().job, 0x1122334455667788U);
      EXPECT_EQ(received.header().stream, 5U);
      EXPECT_EQ(received.header().range, 6U);
      EXPECT_EQ(Must(received.OpenRaw()), raw);
    }
  }
  EXPECT_EQ(left_.frames_sent(), 12U);
  EXPECT_EQ(left_.bytes_sent(), right_.bytes_received());
  EXPECT_GT(left_.bytes_sent(), 12 * kFrameHeaderSize);
}

TEST_P(ConnectionTest, ControlAndDataShareOneSequence) {
  Frame data = FrameOf(pool_, "data", 1);
  Frame received(pool_);
  ASSERT_THAT(left_.SendControl(FrameType::kHello, 1, 2, "{}"), IsOk());
  ASSERT_THAT(left_.Send(&data), IsOk());
  ASSERT_THAT(left_.SendControl(FrameType::kDrain, 0, 0, ""), IsOk());
  ASSERT_THAT(right_.Receive(&received), IsOk());
  EXPECT_EQ(received.header().type, FrameType::kHello);
  EXPECT_EQ(received.header().stream, 1U);
  EXPECT_EQ(received.header().range, 2U);
  EXPECT_EQ(received.payload(), "{}");
  ASSERT_THAT(right_.Receive(&received), IsOk());
  EXPECT_EQ(received.header().sequence, 1U);
  EXPECT_EQ(received.payload(), "data");
  ASSERT_THAT(right_.Receive(&received), IsOk());
  EXPECT_EQ(received.header().sequence, 2U);
  EXPECT_EQ(received.header().type, FrameType::kDrain);
  EXPECT_TRUE(received.payload().empty());
}

TEST_P(ConnectionTest, BothDirectionsAtOnce) {
  constexpr int kFrames = 200;
  const auto send = [&](Connection* connection) {
    for (int i = 0; i < kFrames; ++i) {
      Frame frame = FrameOf(pool_, std::string(20'000, static_cast<char>(i)), 1);
      ASSERT_THAT(connection->Send(&frame), IsOk());
    }
  };
  const auto receive = [&](Connection* connection) {
    Frame frame(pool_);
    for (int i = 0; i < kFrames; ++i) {
      ASSERT_THAT(connection->Receive(&frame), IsOk());
      ASSERT_EQ(frame.payload()[19'999], static_cast<char>(i));
    }
  };
  std::thread threads[] = {std::thread(send, &left_), std::thread(receive, &left_), std::thread(send, &right_),
                           std::thread(receive, &right_)};
  for (std::thread& thread : threads) {
    thread.join();
  }
}

TEST_P(ConnectionTest, LargeFramesArrive) {
  Random random(14);
  const std::string raw = RandomBytes(random, 1 << 16);
  Frame sent(pool_);
  constexpr size_t kSize = 64 << 20;
  ASSERT_THAT(sent.Reserve(kSize, Codec::kNone), IsOk());
  for (size_t at = 0; at < kSize; at += raw.size()) {
    std::memcpy(sent.raw() + at, raw.data(), raw.size());
  }
  sent.SetRaw(kSize, 1);
  std::thread sender([&] { EXPECT_THAT(left_.Send(&sent), IsOk()); });
  Frame received(pool_);
  EXPECT_THAT(right_.Receive(&received), IsOk());
  sender.join();
  EXPECT_TRUE(received.payload() == sent.payload());
  EXPECT_EQ(right_.bytes_received(), kSize + kFrameHeaderSize);
}

TEST_P(ConnectionTest, ThePeersEndBetweenFramesIsClosed) {
  ASSERT_THAT(left_.SendControl(FrameType::kAck, 0, 0, "last"), IsOk());
  left_.Shutdown();
  Frame frame(pool_);
  ASSERT_THAT(right_.Receive(&frame), IsOk());
  EXPECT_THAT(right_.Receive(&frame), Fails(Code::kClosed, "right closed the connection"));
}

TEST_P(ConnectionTest, SendingToAClosedPeerIsATransportError) {
  left_.Shutdown();
  Frame frame = FrameOf(pool_, Repetitive(1000), 1);
  Status status = Status::Ok();
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    status = right_.Send(&frame);
  }
  EXPECT_THAT(status, Fails(Code::kTransport, "right"));
}

TEST_P(ConnectionTest, ASilentPeerTimesOut) {
  ASSERT_THAT(right_.SetTimeout(50), IsOk());
  Frame frame(pool_);
  EXPECT_THAT(right_.Receive(&frame), Fails(Code::kTransport, "no byte came within the time-out"));
}

TEST_P(ConnectionTest, APeerThatTakesNothingTimesOut) {
  ASSERT_THAT(left_.SetTimeout(50), IsOk());
  Frame frame = FrameOf(pool_, std::string(32 << 20, 'x'), 1);
  EXPECT_THAT(left_.Send(&frame), Fails(Code::kTransport, "took no byte within the time-out"));
  EXPECT_EQ(left_.frames_sent(), 0U);
}

TEST_P(ConnectionTest, WaitReadableTellsBytesAndTheEnd) {
  EXPECT_FALSE(Must(right_.WaitReadable(0)));
  EXPECT_FALSE(Must(right_.WaitReadable(20)));
  ASSERT_THAT(left_.SendControl(FrameType::kAck, 0, 0, "x"), IsOk());
  EXPECT_TRUE(Must(right_.WaitReadable(10'000)));
  Frame frame(pool_);
  ASSERT_THAT(right_.Receive(&frame), IsOk());
  EXPECT_FALSE(Must(right_.WaitReadable(0)));
  left_.Shutdown();
  EXPECT_TRUE(Must(right_.WaitReadable(10'000)));
}

TEST_P(ConnectionTest, KnowsHowLongItHasHeardNothing) {
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  // Sockets of other kinds do not say.
  EXPECT_GE(left_.UnheardMilliseconds(), GetParam() ? 100 : 0);
  EXPECT_LT(left_.UnheardMilliseconds(), GetParam() ? 60'000 : 1);
  // What the peer's system took is enough, whether its program reads it or not.
  ASSERT_THAT(left_.SendControl(FrameType::kHeartbeat, 0, 0, ""), IsOk());
  for (int i = 0; i < 1000 && left_.UnheardMilliseconds() >= 100; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_LT(left_.UnheardMilliseconds(), 100);
}

TEST_P(ConnectionTest, ShutdownWakesABlockedReceive) {
  std::atomic<bool> started = false;
  std::thread receiver([&] {
    Frame frame(pool_);
    started = true;
    EXPECT_THAT(right_.Receive(&frame), Fails(Code::kClosed));
  });
  EXPECT_TRUE(Eventually([&] { return started.load(); }));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  right_.Shutdown();
  receiver.join();
}

TEST_P(ConnectionTest, ShutdownWakesABlockedSend) {
  std::thread sender([&] {
    Frame frame = FrameOf(pool_, std::string(32 << 20, 'x'), 1);
    EXPECT_THAT(left_.Send(&frame), Fails(Code::kTransport));
  });
  // Nobody reads, so that the socket's buffers fill up and the call blocks.
  EXPECT_TRUE(Must(right_.WaitReadable(10'000)));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  left_.Shutdown();
  sender.join();
}

TEST_P(ConnectionTest, TheLastWordIsHeardByAPeerThatIsStillSending) {
  std::thread sender([&] {
    Frame frame = FrameOf(pool_, std::string(32 << 20, 'x'), 1);
    EXPECT_THAT(left_.Send(&frame), IsOk());
    Frame last(pool_);
    EXPECT_THAT(left_.Receive(&last), IsOk());
    EXPECT_EQ(last.payload(), "no more");
    EXPECT_THAT(left_.Receive(&last), Fails(Code::kClosed));
    left_.Shutdown();
  });
  EXPECT_TRUE(Must(right_.WaitReadable(10'000)));
  ASSERT_THAT(right_.SendControl(FrameType::kError, 0, 0, "no more"), IsOk());
  right_.Linger(60'000);
  right_.Shutdown();
  sender.join();
}

TEST_P(ConnectionTest, APeerThatNeverClosesIsNotWaitedForForever) {
  const auto start = std::chrono::steady_clock::now();
  right_.Linger(50);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(50));
  Frame frame(pool_);
  EXPECT_THAT(left_.Receive(&frame), Fails(Code::kClosed));
}

// One end speaks frames, the other one writes what it likes.
class ConnectionFaultTest : public ::testing::Test {
 protected:
  ConnectionFaultTest() : ConnectionFaultTest(TcpPair()) {}
  explicit ConnectionFaultTest(Sockets sockets)
      : peer_(std::move(sockets.first)),
        connection_(std::move(sockets.second), "peer",
                    FrameLimits{.max_data_bytes = 1 << 20, .max_control_bytes = 1000}) {}

  static std::string Bytes(FrameHeader header, const std::string& payload) {
    header.raw_length = payload.size();
    header.payload_length = payload.size();
    return Bytes(header, payload, Crc32c(payload));
  }
  static std::string Bytes(FrameHeader header, const std::string& payload, uint32_t crc32c) {
    header.payload_crc32c = crc32c;
    std::string bytes(kFrameHeaderSize, '\0');
    EncodeFrameHeader(header, bytes.data());
    return bytes + payload;
  }

  void Write(std::string_view bytes) const {
    ASSERT_EQ(::send(peer_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  Status ReceiveAfter(std::string_view bytes, bool close = true) {
    Write(bytes);
    if (close) {
      peer_.Reset();
    }
    return connection_.Receive(&frame_);
  }

  UniqueFd peer_;
  Connection connection_;
  const std::shared_ptr<BufferPool> pool_ = BufferPool::Create(2 << 20);
  Frame frame_{pool_};
};

TEST(ConnectionFault, AnEndInsideAFrameIsATransportError) {
  FrameHeader header;
  header.raw_length = 10;
  header.payload_length = 10;
  std::string whole(kFrameHeaderSize, '\0');
  EncodeFrameHeader(header, whole.data());
  whole += "0123456789";
  for (size_t size = 1; size < whole.size(); ++size) {
    auto [peer, ours] = LocalPair();
    Connection connection(std::move(ours), "peer", FrameLimits());
    ASSERT_EQ(::send(peer.get(), whole.data(), size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
    peer.Reset();
    Frame frame(BufferPool::Create(1 << 20));
    EXPECT_THAT(connection.Receive(&frame), Fails(Code::kTransport, "inside a frame")) << "after " << size << " bytes";
  }
}

TEST_F(ConnectionFaultTest, SilenceInsideAFrameTimesOut) {
  ASSERT_THAT(connection_.SetTimeout(50), IsOk());
  EXPECT_THAT(ReceiveAfter(Bytes(FrameHeader(), "payload").substr(0, 66), false), Fails(Code::kTransport, "time-out"));
}

TEST_F(ConnectionFaultTest, BytesThatTrickleInAreNoTimeOut) {
  ASSERT_THAT(connection_.SetTimeout(200), IsOk());
  const std::string bytes = Bytes(FrameHeader(), "payload");
  std::thread writer([&] {
    for (const char byte : bytes) {
      Write({&byte, 1});
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  EXPECT_THAT(connection_.Receive(&frame_), IsOk());
  writer.join();
  EXPECT_EQ(frame_.payload(), "payload");
}

// Interrupts the calls of a thread, as a profiler does, until told to stop or for three seconds.
class Interrupter {
 public:
  explicit Interrupter(std::thread* victim) : victim_(victim) {
    struct sigaction action{};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, &before_);
    thread_ = std::thread([this] {
      for (int i = 0; i < 1500 && !done_; ++i) {
        ::pthread_kill(victim_->native_handle(), SIGUSR1);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    });
  }
  ~Interrupter() {
    done_ = true;
    thread_.join();
    victim_->join();
    ::sigaction(SIGUSR1, &before_, nullptr);
  }
  Interrupter(const Interrupter&) = delete;
  Interrupter& operator=(const Interrupter&) = delete;

 private:
  std::thread* victim_;
  std::atomic<bool> done_ = false;
  struct sigaction before_{};
  std::thread thread_;
};

TEST_F(ConnectionFaultTest, SignalsDoNotBreakAFrame) {
  const std::string bytes = Bytes(FrameHeader(), std::string(5000, 'p'));
  std::atomic<bool> done = false;
  std::thread receiver([&] {
    EXPECT_THAT(connection_.Receive(&frame_), IsOk());
    done = true;
    EXPECT_TRUE(Must(connection_.WaitReadable(10'000)));
  });
  const Interrupter interrupter(&receiver);
  for (size_t at = 0; at < bytes.size(); at += 100) {
    Write(std::string_view(bytes).substr(at, 100));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(Eventually([&] { return done.load(); }));
  Write("x");
}

TEST_F(ConnectionFaultTest, SignalsDoNotProlongWaitReadable) {
  std::atomic<bool> done = false;
  std::chrono::milliseconds waited{};
  std::thread waiter([&] {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(Must(connection_.WaitReadable(100)));
    waited = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
    done = true;
  });
  {
    const Interrupter interrupter(&waiter);
    EXPECT_TRUE(Eventually([&] { return done.load(); }));
  }
  EXPECT_LT(waited.count(), 1500);
}

TEST_F(ConnectionFaultTest, AFlippedPayloadBitIsCorruption) {
  std::string bytes = Bytes(FrameHeader(), "payload");
  bytes.back() = static_cast<char>(bytes.back() ^ 0x10);
  EXPECT_THAT(ReceiveAfter(bytes), Fails(Code::kCorruption, "frame 0 from peer fails its crc32c"));
}

TEST_F(ConnectionFaultTest, AFlippedHeaderBitIsCorruption) {
  std::string bytes = Bytes(FrameHeader(), "payload");
  bytes[20] = static_cast<char>(bytes[20] ^ 0x10);
  EXPECT_THAT(ReceiveAfter(bytes), Fails(Code::kCorruption, "header"));
}

TEST_F(ConnectionFaultTest, AFrameOutOfOrderIsAProtocolError) {
  FrameHeader header;
  header.sequence = 1;
  EXPECT_THAT(ReceiveAfter(Bytes(header, "x")), Fails(Code::kProtocol, "sequence 1 where 0 was due"));
}

TEST_F(ConnectionFaultTest, AFrameSentTwiceIsAProtocolError) {
  const std::string bytes = Bytes(FrameHeader(), "x");
  ASSERT_THAT(ReceiveAfter(bytes, false), IsOk());
  EXPECT_THAT(ReceiveAfter(bytes), Fails(Code::kProtocol, "sequence 0 where 1 was due"));
}

TEST_F(ConnectionFaultTest, AnotherProtocolIsToldByItsFirstBytesAtOnce) {
  // It waits for an answer: nothing more will come, and the connection stays open.
  EXPECT_THAT(ReceiveAfter("GET / HTTP/1.1\r\n\r\n", false), Fails(Code::kProtocol, "GET / HTTP/1.1"));
}

TEST_F(ConnectionFaultTest, AShortGreetingOfAnotherProtocolIsTold) {
  EXPECT_THAT(ReceiveAfter("PING", false), Fails(Code::kProtocol, "\"PING"));
}

TEST_F(ConnectionFaultTest, LengthsOverTheLimitTakeNoMemory) {
  FrameHeader header;
  for (const auto& [type, length] :
       {std::pair(FrameType::kData, (uint64_t{1} << 20) + 1), std::pair(FrameType::kAck, uint64_t{1001}),
        std::pair(FrameType::kData, ~uint64_t{0})}) {
    auto [peer, ours] = LocalPair();
    Connection connection(std::move(ours), "peer", FrameLimits{.max_data_bytes = 1 << 20, .max_control_bytes = 1000});
    header.type = type;
    header.raw_length = length;
    header.payload_length = length;
    const std::string bytes = Bytes(header, "", 0);
    ASSERT_EQ(::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
    EXPECT_THAT(connection.Receive(&frame_), Fails(Code::kProtocol, "limit"));
    EXPECT_EQ(pool_->leased_bytes(), 0U);
  }
}

TEST_F(ConnectionFaultTest, AFrameLargerThanThePoolIsRefused) {
  const auto small = BufferPool::Create(1000);
  Frame frame(small);
  Write(Bytes(FrameHeader(), std::string(1001, 'x')));
  EXPECT_THAT(connection_.Receive(&frame), Fails(Code::kUsage));
}

TEST_F(ConnectionFaultTest, AReceiverThatReadsSlowlyGetsEveryByte) {
  constexpr int kSmall = 4096;
  auto [raw, ours] = LocalPair();
  ASSERT_EQ(::setsockopt(ours.get(), SOL_SOCKET, SO_SNDBUF, &kSmall, sizeof(kSmall)), 0);
  Connection connection(std::move(ours), "peer", FrameLimits());
  Random random(15);
  const std::string payload = RandomBytes(random, 300'000);
  std::thread sender([&, &sending = connection] {
    for (int i = 0; i < 3; ++i) {
      Frame frame = FrameOf(pool_, payload, 1);
      EXPECT_THAT(sending.Send(&frame), IsOk());
    }
  });
  std::string received;
  char part[1777];
  while (received.size() < 3 * (kFrameHeaderSize + payload.size())) {
    const ssize_t got = ::recv(raw.get(), part, sizeof(part), 0);
    if (got <= 0) {
      ADD_FAILURE() << "the sender ended early";
      raw.Reset();
      break;
    }
    received.append(part, static_cast<size_t>(got));
  }
  sender.join();
  for (size_t i = 0; i < 3; ++i) {
    const size_t at = i * (kFrameHeaderSize + payload.size());
    EXPECT_THAT(DecodeFrameHeader(received.substr(at, kFrameHeaderSize), FrameLimits()), IsOk());
    EXPECT_TRUE(received.substr(at + kFrameHeaderSize, payload.size()) == payload);
  }
}

}  // namespace
}  // namespace kvbatch::testing
