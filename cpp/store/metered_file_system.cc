#include "store/metered_file_system.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "store/block_memory.h"

namespace kvbatch {

namespace {

class MeteredFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  MeteredFile(std::unique_ptr<rocksdb::FSRandomAccessFile> file, std::shared_ptr<ReadMeter> meter)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), meter_(std::move(meter)) {}

  rocksdb::IOStatus Read(uint64_t offset, size_t size, const rocksdb::IOOptions& options, rocksdb::Slice* result,
                         char* scratch, rocksdb::IODebugContext* context) const override {
    BlockMemory::CheckRead(size);
    const bool limited = meter_->limiter->rate() > 0;
    if (limited_.exchange(limited, std::memory_order_relaxed) != limited) {
      // The kernel's readahead may be a hundred times what is asked for, all at once.
      target()->Hint(limited ? kRandom : hinted_.load(std::memory_order_relaxed));
    }
    return limited ? ReadEvenly(offset, size, options, result, scratch, context)
                   : ReadCharged(offset, size, options, result, scratch, context);
  }

  void Hint(AccessPattern pattern) override {
    hinted_ = pattern;
    FSRandomAccessFileOwnerWrapper::Hint(pattern);
  }

  // Under a limit nothing is read that was not charged: RocksDB reads ahead by reads of its own then.
  rocksdb::IOStatus Prefetch(uint64_t offset, size_t size, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* context) override {
    return meter_->limiter->rate() > 0 ? rocksdb::IOStatus::NotSupported()
                                       : FSRandomAccessFileOwnerWrapper::Prefetch(offset, size, options, context);
  }

  rocksdb::IOStatus MultiRead(rocksdb::FSReadRequest* requests, size_t count, const rocksdb::IOOptions& options,
                              rocksdb::IODebugContext* context) override {
    for (size_t i = 0; i < count; ++i) {
      meter_->Charge(requests[i].len);
    }
    return FSRandomAccessFileOwnerWrapper::MultiRead(requests, count, options, context);
  }

 private:
  rocksdb::IOStatus ReadCharged(uint64_t offset, size_t size, const rocksdb::IOOptions& options, rocksdb::Slice* result,
                                char* scratch, rocksdb::IODebugContext* context) const {
    meter_->Charge(size);
    return target()->Read(offset, size, options, result, scratch, context);
  }

  // In small reads, each when it may pass.
  rocksdb::IOStatus ReadEvenly(uint64_t offset, size_t size, const rocksdb::IOOptions& options, rocksdb::Slice* result,
                               char* scratch, rocksdb::IODebugContext* context) const {
    size_t done = 0;
    while (done < size) {
      const size_t wanted = std::min<size_t>(size - done, meter_->limiter->read_bytes());
      rocksdb::Slice piece;
      auto status = ReadCharged(offset + done, wanted, options, &piece, scratch + done, context);
      if (!status.ok()) {
        return status;
      }
      if (piece.data() != scratch + done) {
        std::memcpy(scratch + done, piece.data(), piece.size());
      }
      done += piece.size();
      if (piece.size() < wanted) {
        break;  // the end of the file
      }
    }
    *result = rocksdb::Slice(scratch, done);
    return rocksdb::IOStatus::OK();
  }

  const std::shared_ptr<ReadMeter> meter_;
  std::atomic<AccessPattern> hinted_{kNormal};
  mutable std::atomic<bool> limited_{false};
};

class MeteredFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  explicit MeteredFileSystem(std::shared_ptr<ReadMeter> meter)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), meter_(std::move(meter)) {}

  const char* Name() const override { return "kvbatch.MeteredFileSystem"; }

  rocksdb::IOStatus NewRandomAccessFile(const std::string& path, const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        rocksdb::IODebugContext* context) override {
    std::unique_ptr<rocksdb::FSRandomAccessFile> opened;
    auto status = FileSystemWrapper::NewRandomAccessFile(path, options, &opened, context);
    if (status.ok()) {
      *file = std::make_unique<MeteredFile>(std::move(opened), meter_);
    }
    return status;
  }

 private:
  const std::shared_ptr<ReadMeter> meter_;
};

}  // namespace

std::unique_ptr<rocksdb::Env> MeteredEnv(std::shared_ptr<ReadMeter> meter) {
  return rocksdb::NewCompositeEnv(std::make_shared<MeteredFileSystem>(std::move(meter)));
}

}  // namespace kvbatch
