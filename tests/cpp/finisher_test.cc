#include "store/finisher.h"

#include <atomic>
#include <future>
#include <memory>

#include "testing.h"

namespace kvbatch::testing {
namespace {

// Holds tasks until it is opened.
class Gate {
 public:
  void Wait() { future_.wait(); }
  void Open() { promise_.set_value(); }

 private:
  std::promise<void> promise_;
  std::shared_future<void> future_ = promise_.get_future();
};

TEST(Finisher, RunsEachTaskOnceBeforeItIsGone) {
  for (const size_t threads : {1, 2, 5}) {
    std::vector<std::atomic<int>> runs(100);
    {
      Finisher finisher(threads);
      for (auto& run : runs) {
        finisher.Submit([&run] { ++run; });
      }
    }
    for (const auto& run : runs) {
      EXPECT_EQ(run, 1);
    }
  }
}

TEST(Finisher, NothingToDoIsNoWait) {
  for (const size_t threads : {1, 4}) {
    const Finisher finisher(threads);
  }
}

TEST(Finisher, OneThreadKeepsTheOrder) {
  std::vector<int> order;
  {
    Finisher finisher(1);
    for (int i = 0; i < 50; ++i) {
      finisher.Submit([&order, i] { order.push_back(i); });
    }
  }
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(order.at(static_cast<size_t>(i)), i);
  }
}

// Each task waits for the other, so they end only when they run at once.
TEST(Finisher, TasksRunAtOnceOnSeveralThreads) {
  Gate first;
  Gate second;
  Finisher finisher(2);
  finisher.Submit([&] {
    first.Open();
    second.Wait();
  });
  finisher.Submit([&] {
    second.Open();
    first.Wait();
  });
}

TEST(Finisher, SubmitWaitsWhileTooMuchIsQueued) {
  constexpr size_t kThreads = 2;
  Gate gate;
  std::atomic<size_t> running{0};
  std::atomic<size_t> submitted{0};
  Finisher finisher(kThreads);
  std::thread submitting([&] {
    for (size_t i = 0; i < 10; ++i) {
      finisher.Submit([&] {
        ++running;
        gate.Wait();
      });
      ++submitted;
    }
  });
  // As many as run and as many as wait; the next Submit cannot come back before the gate opens.
  EXPECT_TRUE(Eventually([&] { return submitted == 2 * kThreads && running == kThreads; }));
  EXPECT_EQ(submitted, 2 * kThreads);
  gate.Open();
  submitting.join();
  EXPECT_EQ(submitted, 10U);
}

TEST(Finisher, ATaskMaySeeWhatItsSubmitterWrote) {
  auto number = std::make_unique<int>(0);
  Finisher finisher(2);
  for (int i = 1; i <= 100; ++i) {
    std::promise<int> seen;
    *number = i;
    finisher.Submit([&] { seen.set_value(*number); });
    EXPECT_EQ(seen.get_future().get(), i);
  }
}

}  // namespace
}  // namespace kvbatch::testing
