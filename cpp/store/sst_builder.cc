#include "store/sst_builder.h"

#include <rocksdb/file_system.h>

#include <utility>

#include "batch/batch_format.h"
#include "store/rocksdb_status.h"
#include "store/sst_writing.h"

namespace kvbatch {

namespace {

// Keys and values that one call adds at most, however well they compress: a stop is heeded between two calls.
constexpr uint64_t kStepBytes = 8 << 20;

class AppendedFile final : public rocksdb::FSWritableFile {
 public:
  explicit AppendedFile(std::string* bytes) : bytes_(bytes) {}

  using rocksdb::FSWritableFile::Append;
  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& /*options*/,
                           rocksdb::IODebugContext* /*debug*/) override {
    bytes_->append(data.data(), data.size());
    size_ += data.size();
    return rocksdb::IOStatus::OK();
  }
  rocksdb::IOStatus Close(const rocksdb::IOOptions& /*options*/, rocksdb::IODebugContext* /*debug*/) override {
    return rocksdb::IOStatus::OK();
  }
  rocksdb::IOStatus Flush(const rocksdb::IOOptions& /*options*/, rocksdb::IODebugContext* /*debug*/) override {
    return rocksdb::IOStatus::OK();
  }
  rocksdb::IOStatus Sync(const rocksdb::IOOptions& /*options*/, rocksdb::IODebugContext* /*debug*/) override {
    return rocksdb::IOStatus::OK();
  }
  uint64_t GetFileSize(const rocksdb::IOOptions& /*options*/, rocksdb::IODebugContext* /*debug*/) override {
    return size_;
  }

 private:
  std::string* const bytes_;
  uint64_t size_ = 0;
};

// Whatever is written goes to the end of one string.
class AppendingFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  explicit AppendingFileSystem(std::string* bytes) : FileSystemWrapper(rocksdb::FileSystem::Default()), bytes_(bytes) {}

  const char* Name() const override { return "kvbatch.AppendingFileSystem"; }
  rocksdb::IOStatus NewWritableFile(const std::string& /*name*/, const rocksdb::FileOptions& /*options*/,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* /*debug*/) override {
    *file = std::make_unique<AppendedFile>(bytes_);
    return rocksdb::IOStatus::OK();
  }

 private:
  std::string* const bytes_;
};

rocksdb::EnvOptions Unbuffered() {
  rocksdb::EnvOptions options;
  options.writable_file_max_buffer_size = 0;
  return options;
}

rocksdb::Options WithEnv(rocksdb::Options options, rocksdb::Env* env) {
  options.env = env;
  return options;
}

}  // namespace

Result<std::unique_ptr<SstBuilder>> SstBuilder::Create(std::shared_ptr<SourceStore> store,
                                                       rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                                                       const ColumnFamilyDescription& target, uint64_t file_bytes) {
  if (Status status = CheckComparator(target); !status.ok()) {
    return status;
  }
  if (target.comparator != family->GetComparator()->Name()) {
    return Status(Code::kRefused, "column family \"" + target.name + "\": comparator: theirs " + target.comparator +
                                      ", ours " + family->GetComparator()->Name());
  }
  if (auto compression = ParseCompression(target.compression); !compression.ok()) {
    return compression.status();
  }
  return std::unique_ptr<SstBuilder>(new SstBuilder(std::move(store), family, std::move(bounds), target, file_bytes));
}

SstBuilder::SstBuilder(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                       const ColumnFamilyDescription& target, uint64_t file_bytes)
    : store_(std::move(store)),
      entries_(*store_, family, std::move(bounds)),
      file_bytes_(file_bytes),
      env_(rocksdb::NewCompositeEnv(std::make_shared<AppendingFileSystem>(&built_))),
      writer_(Unbuffered(), WithEnv(SstOptions(target), env_.get()), /*column_family=*/nullptr,
              /*invalidate_page_cache=*/false) {}

SstBuilder::~SstBuilder() = default;

Result<BuiltPiece> SstBuilder::Build(size_t piece_bytes) {
  if (!failed_.ok()) {
    return failed_;
  }
  position_.offset += piece_.size();
  built_.erase(0, piece_.size());
  piece_ = {};
  if (position_.ends_file) {
    position_ = BuiltPiece();
    finished_ = false;
  }
  if (!finished_) {
    failed_ = Fill(piece_bytes);
    if (!failed_.ok()) {
      return failed_;
    }
  }
  if (finished_ || built_.size() >= piece_bytes) {
    piece_ = std::string_view(built_).substr(0, piece_bytes);
  }
  position_.length = piece_.size();
  position_.ends_file = finished_ && piece_.size() == built_.size();
  position_.ends_range = !entries_.Valid() && finished_ == position_.ends_file;
  return position_;
}

Status SstBuilder::Fill(size_t piece_bytes) {
  const uint64_t step_end = position_.raw_bytes + kStepBytes;
  bool full = false;
  while (entries_.Valid() && !full && built_.size() < piece_bytes && position_.raw_bytes < step_end) {
    if (!open_) {
      if (Status status = FromSource(writer_.Open(std::string()), "begin an SST file"); !status.ok()) {
        return status;
      }
      open_ = true;
    }
    entries_.Load();
    const Record record{entries_.is_entity() ? RecordKind::kEntity : RecordKind::kPut, 0, entries_.key(),
                        entries_.value()};
    // Nothing is written but memory: what is wrong is the entry.
    if (Status status = FromSource(AddRecord(&writer_, record, &scratch_), "read the store"); !status.ok()) {
      return status;
    }
    ++position_.entries;
    position_.raw_bytes += record.key.size() + record.value.size();
    full = writer_.FileSize() >= file_bytes_;
    entries_.Next();
  }
  if (Status status = entries_.status(); !status.ok()) {
    return status;
  }
  return open_ && (full || !entries_.Valid()) ? Finish() : Status::Ok();
}

Status SstBuilder::Finish() {
  rocksdb::ExternalSstFileInfo info;
  open_ = false;
  finished_ = true;
  const auto status = writer_.Finish(&info);
  position_.last_key = std::move(info.largest_key);
  return FromSource(status, "end an SST file");
}

}  // namespace kvbatch
