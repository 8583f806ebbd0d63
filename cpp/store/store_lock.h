// StoreLock: keeps writers out of a source while it is read.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "base/unique_fd.h"

namespace kvbatch {

// A shared POSIX lock on the store's LOCK file. RocksDB takes an exclusive one to write, so the two exclude each other:
// a store in use is noticed, and one that is being read cannot be opened for writing. Nothing is written.
// Locks of one process on one file are one lock, so all StoreLocks of a file share their descriptor.
class StoreLock {
 public:
  // kRefused when a process has the store open for writing. A store without a LOCK file (a checkpoint), or on a
  // file system without locks, is taken as it is.
  static Result<std::shared_ptr<StoreLock>> Acquire(const std::string& path);

  // Ok when nobody holds the store's lock in any mode, which is what a writer needs; else kRefused, saying who.
  static Status CheckFree(const std::string& path);

  explicit StoreLock(UniqueFd fd) : fd_(std::move(fd)) {}

 private:
  UniqueFd fd_;
};

}  // namespace kvbatch
