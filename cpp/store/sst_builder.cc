#include "store/sst_builder.h"

#include <rocksdb/env.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "batch/batch_format.h"
#include "store/rocksdb_status.h"
#include "store/sst_writing.h"

namespace kvbatch {

namespace {

// Nothing but memory is written to, so whatever goes wrong there is a want of it.
Status FromMemory(const rocksdb::Status& status) {
  return status.ok() ? Status::Ok() : Status(Code::kNoSpace, "build an SST file in memory: " + status.ToString());
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
  UniqueFd memory(::memfd_create("kvbatch-sst", MFD_CLOEXEC));
  if (!memory.valid()) {
    return FromErrno(Code::kNoSpace, "make a file in memory", errno);
  }
  return std::unique_ptr<SstBuilder>(
      new SstBuilder(std::move(store), family, std::move(bounds), target, file_bytes, std::move(memory)));
}

SstBuilder::SstBuilder(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                       const ColumnFamilyDescription& target, uint64_t file_bytes, UniqueFd memory)
    : store_(std::move(store)),
      entries_(*store_, family, std::move(bounds)),
      file_bytes_(file_bytes),
      memory_(std::move(memory)),
      writer_(rocksdb::EnvOptions(), SstOptions(target), /*column_family=*/nullptr, /*invalidate_page_cache=*/false) {}

SstBuilder::~SstBuilder() = default;

Status SstBuilder::Open() {
  // RocksDB opens files by their names, and cuts them: that takes the pages away from this file, not from the sockets
  // that still send them. To write into those would change what the peer receives.
  if (Status status = FromMemory(writer_.Open("/proc/self/fd/" + std::to_string(memory_.get()))); !status.ok()) {
    return status;
  }
  open_ = true;
  return Status::Ok();
}

Status SstBuilder::Finish() {
  rocksdb::ExternalSstFileInfo info;
  open_ = false;
  if (Status status = FromMemory(writer_.Finish(&info)); !status.ok()) {
    return status;
  }
  file_.whole = true;
  file_.file_bytes = info.file_size;
  file_.last_key = std::move(info.largest_key);
  return Status::Ok();
}

Result<BuiltFile> SstBuilder::Build(uint64_t step_bytes) {
  if (failed_.ok()) {
    failed_ = Step(step_bytes);
  }
  if (!failed_.ok()) {
    return failed_;
  }
  return file_;
}

Status SstBuilder::Step(uint64_t step_bytes) {
  if (file_.whole) {
    file_ = BuiltFile();
  }
  const uint64_t step_end = file_.raw_bytes + step_bytes;
  bool full = false;
  for (; entries_.Valid() && !full && file_.raw_bytes < step_end; entries_.Next()) {
    if (!open_) {
      if (Status status = Open(); !status.ok()) {
        return status;
      }
    }
    entries_.Load();
    const Record record{entries_.is_entity() ? RecordKind::kEntity : RecordKind::kPut, 0, entries_.key(),
                        entries_.value()};
    if (const auto added = AddRecord(&writer_, record, &scratch_); !added.ok()) {
      return added.IsInvalidArgument() ? FromSource(added, "read the source") : FromMemory(added);
    }
    ++file_.entries;
    file_.raw_bytes += record.key.size() + record.value.size();
    full = writer_.FileSize() >= file_bytes_;
  }
  if (Status status = entries_.status(); !status.ok()) {
    return status;
  }
  file_.ends_range = !entries_.Valid();
  if (!full && !file_.ends_range) {
    return Status::Ok();
  }
  if (open_) {
    return Finish();
  }
  // The range was at its end already; nothing will ask for the file before any more.
  file_.whole = true;
  return ::ftruncate(memory_.get(), 0) == 0 ? Status::Ok() : FromErrno(Code::kNoSpace, "empty a file in memory", errno);
}

}  // namespace kvbatch
