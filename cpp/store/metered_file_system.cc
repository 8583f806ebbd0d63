#include "store/metered_file_system.h"

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
    meter_->Charge(size);
    return FSRandomAccessFileOwnerWrapper::Read(offset, size, options, result, scratch, context);
  }

  rocksdb::IOStatus MultiRead(rocksdb::FSReadRequest* requests, size_t count, const rocksdb::IOOptions& options,
                              rocksdb::IODebugContext* context) override {
    for (size_t i = 0; i < count; ++i) {
      meter_->Charge(requests[i].len);
    }
    return FSRandomAccessFileOwnerWrapper::MultiRead(requests, count, options, context);
  }

 private:
  const std::shared_ptr<ReadMeter> meter_;
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
