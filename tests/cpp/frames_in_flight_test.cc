#include "wire/frames_in_flight.h"

#include <thread>

#include "testing.h"

namespace kvbatch::testing {
namespace {

Digest Numbered(char number) { return ChainDigest(Digest(), std::string(1, number)); }

TEST(FramesInFlight, AnAckSpeaksForTheOldest) {
  FramesInFlight in_flight;
  for (char number = 1; number <= 5; ++number) {
    in_flight.Add(Numbered(number), 100 * static_cast<uint64_t>(number));
  }
  EXPECT_EQ(in_flight.frames(), 5U);
  EXPECT_EQ(in_flight.raw_bytes(), 1500U);
  const AcknowledgedFrames two = in_flight.Take(2).value();
  EXPECT_EQ(two.digest, Numbered(2));
  EXPECT_EQ(two.raw_bytes, 300U);
  const AcknowledgedFrames rest = in_flight.Take(3).value();
  EXPECT_EQ(rest.digest, Numbered(5));
  EXPECT_EQ(rest.raw_bytes, 1200U);
  EXPECT_EQ(in_flight.frames(), 0U);
  EXPECT_EQ(in_flight.raw_bytes(), 0U);
}

TEST(FramesInFlight, MoreThanThereAreAreNotTaken) {
  FramesInFlight in_flight;
  EXPECT_FALSE(in_flight.Take(0));
  EXPECT_FALSE(in_flight.Take(1));
  in_flight.Add(Digest(), 7);
  EXPECT_FALSE(in_flight.Take(0));
  EXPECT_FALSE(in_flight.Take(2));
  EXPECT_FALSE(in_flight.Take(SIZE_MAX));
  EXPECT_EQ(in_flight.frames(), 1U);
  EXPECT_EQ(in_flight.raw_bytes(), 7U);
}

TEST(FramesInFlight, TheAgeIsThatOfTheLastFrameTaken) {
  FramesInFlight in_flight;
  in_flight.Add(Digest(), 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  in_flight.Add(Digest(), 1);
  in_flight.Add(Digest(), 1);
  EXPECT_LT(in_flight.Take(2).value().age, std::chrono::milliseconds(50));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_GE(in_flight.Take(1).value().age, std::chrono::milliseconds(20));
}

}  // namespace
}  // namespace kvbatch::testing
