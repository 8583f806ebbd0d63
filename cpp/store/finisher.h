// Finisher: a few threads that make finished SST files durable while their streams go on.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kvbatch {

class Finisher {
 public:
  explicit Finisher(size_t threads);
  // Runs what was submitted, then stops.
  ~Finisher();

  Finisher(const Finisher&) = delete;
  Finisher& operator=(const Finisher&) = delete;

  // Queues a task; waits while as many tasks as threads are queued already, which bounds the files under way.
  void Submit(std::function<void()> task);

 private:
  void Run();

  const size_t queue_limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvbatch
