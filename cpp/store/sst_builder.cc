#include "store/sst_builder.h"

#include <rocksdb/file_system.h>

#include <algorithm>
#include <utility>

#include "frame/large_entry.h"
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
      family_(family),
      bounds_(std::move(bounds)),
      file_bytes_(file_bytes),
      env_(rocksdb::NewCompositeEnv(std::make_shared<AppendingFileSystem>(&built_))),
      writer_(Unbuffered(), WithEnv(SstOptions(target), env_.get()), /*column_family=*/nullptr,
              /*invalidate_page_cache=*/false) {}

SstBuilder::~SstBuilder() = default;

Status SstBuilder::MakeRoom(const std::shared_ptr<BufferPool>& pool, uint64_t needed_bytes) {
  lease_.Release();
  room_ = 0;
  auto lease = pool->Acquire(0, kLargeEntryCopies * needed_bytes);
  if (!lease.ok()) {
    return lease.status();
  }
  lease_ = lease.Take();
  room_ = needed_bytes;
  return Status::Ok();
}

void SstBuilder::DropHandedOut() {
  handed_out_ += position_.length;
  position_.offset += position_.length;
  position_.length = 0;
  // Seldom, so that what is left is not moved for every piece.
  if (handed_out_ >= built_.size() - handed_out_) {
    built_.erase(0, handed_out_);
    handed_out_ = 0;
  }
  if (position_.ends_file) {
    position_ = BuiltPiece();
    finished_ = false;
    if (room_ > 0) {
      // Its memory too, which a string keeps.
      std::string().swap(built_);
      lease_.Release();
      room_ = 0;
      Close();
    }
  }
}

Result<BuiltPiece> SstBuilder::Build(size_t piece_bytes) {
  if (!failed_.ok()) {
    return failed_;
  }
  DropHandedOut();
  if (!finished_) {
    failed_ = Fill(piece_bytes);
    if (!failed_.ok()) {
      return failed_;
    }
  }
  const size_t there = built_.size() - handed_out_;
  position_.length = finished_ || there >= piece_bytes ? std::min(there, piece_bytes) : 0;
  position_.ends_file = finished_ && position_.length == there;
  position_.ends_range = ended_ && finished_ == position_.ends_file;
  position_.needed_bytes = finished_ ? 0 : needed_bytes_;
  return position_;
}

Status SstBuilder::Add(const Record& record) {
  if (!open_) {
    if (Status status = FromSource(writer_.Open(std::string()), "begin an SST file"); !status.ok()) {
      return status;
    }
    open_ = true;
  }
  // Nothing is written but memory: what is wrong is the entry.
  if (Status status = FromSource(AddRecord(&writer_, record, &scratch_), "read the store"); !status.ok()) {
    return status;
  }
  ++position_.entries;
  position_.raw_bytes += record.key.size() + record.value.size();
  if (!added_key_) {
    added_key_.emplace();
  }
  added_key_->assign(record.key);
  return Status::Ok();
}

Status SstBuilder::AddEntries(size_t piece_bytes) {
  const uint64_t step_end = position_.raw_bytes + kStepBytes;
  if (!entries_) {
    entries_ = std::make_unique<EntryIterator>(*store_, family_, bounds_, room_ == 0);
  }
  while (entries_->Valid()) {
    if (built_.size() - handed_out_ >= piece_bytes || position_.raw_bytes >= step_end) {
      return Status::Ok();
    }
    entries_->Load();
    const Record record{entries_->is_entity() ? RecordKind::kEntity : RecordKind::kPut, 0, entries_->key(),
                        entries_->value()};
    const uint64_t bytes = record.key.size() + record.value.size();
    if (bytes >= kLargeEntryBytes) {
      if (Status status = store_->CheckKey(record.key); !status.ok()) {
        return status;
      }
    }
    if (bytes >= kLargeEntryBytes && bytes > room_) {
      needed_bytes_ = bytes;
      return Status::Ok();
    }
    if (Status status = Add(record); !status.ok()) {
      return status;
    }
    if (bytes >= kLargeEntryBytes) {
      // It ends its file, so that the memory that RocksDB has for it comes back, and the reader's own before.
      Close();
      return Finish();
    }
    entries_->Next();
    if (writer_.FileSize() >= file_bytes_) {
      break;
    }
  }
  if (Status status = entries_->status(); !status.ok()) {
    return status;
  }
  ended_ = !entries_->Valid();
  return open_ ? Finish() : Status::Ok();
}

Status SstBuilder::Fill(size_t piece_bytes) {
  if (needed_bytes_ > room_) {
    return Status::Ok();
  }
  needed_bytes_ = 0;
  try {
    const BlockMemory::Scope scope(&blocks_, room_);
    if (Status status = AddEntries(piece_bytes); !status.ok()) {
      return status;
    }
  } catch (const NoRoomForBlock& no_room) {
    needed_bytes_ = no_room.needed();
  }
  if (needed_bytes_ > 0) {
    Close();
  }
  return Status::Ok();
}

void SstBuilder::Close() {
  if (added_key_) {
    bounds_.after = added_key_;
  }
  entries_.reset();
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
