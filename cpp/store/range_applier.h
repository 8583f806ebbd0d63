// RangeApplier: takes the frames of one range in their order and makes them durable in a target.
#pragma once

#include <rocksdb/sst_file_writer.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"
#include "frame/frame.h"
#include "store/cursor.h"
#include "store/target_store.h"

namespace kvbatch {

enum class ApplyMode {
  kIngest,  // build SST files and ingest each when it is full: for a range that is empty in the target
  kWrite    // WriteBatch with the WAL on, cursor in the same batch
};

struct ApplyRange {
  uint32_t range = 0;
  uint32_t family = 0;  // the target's id
  std::optional<std::string> start;
  std::optional<std::string> end;
  std::string file = {};  // the source's own file that is moved for it, if one is
};

// Where a range goes on besides at its cursor.
struct ApplyStart {
  uint64_t offset = 0;   // in the file that is to come next: so many of its first bytes an earlier applier has left
  bool grafted = false;  // the cursor is one of TargetStore::Grafts: what stands over the file follows
};

// What the sender says of a whole SST file.
struct TakenFile {
  uint64_t entries = 0;
  uint64_t raw_bytes = 0;
  std::string last_key;
  // A file that the source's database wrote, as it is, under the newer entries that may follow; else one that the
  // sender built for this range.
  bool graft = false;
};

// One thread calls it. What it has taken is `applied`; what survives any crash is `durable`, and TakeDurable tells of
// it. After the first error it takes nothing more; what was durable stays so.
class RangeApplier {
 public:
  // Goes on from `cursor`, which is the target's own for this range, or a fresh one. The running digest takes what was
  // left of a file for one piece. kUsage when the store has no such family, kProtocol when less was left.
  static Result<std::unique_ptr<RangeApplier>> Create(std::shared_ptr<TargetStore> store, ApplyRange range,
                                                      ApplyMode mode, Cursor cursor, ApplyStart start = {});
  // Waits for files under way; drops the unfinished one that is filled here, and leaves the pieces of one that is
  // received, unless something was wrong, to who comes next.
  ~RangeApplier();

  RangeApplier(const RangeApplier&) = delete;
  RangeApplier& operator=(const RangeApplier&) = delete;

  // Validates the frame and applies it: structure, column family, order and bounds of the keys. kCorruption when it is
  // not what it claims to be; nothing of it reaches the store then.
  Status Apply(Frame* frame);

  // A whole SST file for the range: its bytes go into the file that OpenTaken gives, AddPiece takes note of each piece
  // that stands there, EndFile makes the file the target's. kProtocol when the range is not one for files.
  Result<int> OpenTaken();
  uint64_t taken_bytes() const { return taken_bytes_; }
  Status AddPiece(uint64_t length, uint32_t crc32c);
  // In the background the file is checked against `file` and the range, ingested and recorded; kCorruption when it is
  // not what it claims to be, kSource when a graft has a damaged block. Behind a graft batches may hold deletions too,
  // and no cursor is told of before Finish: a range that stops in between goes on from TargetStore::Grafts. One that
  // stops between ingesting and recording meets its file once more, which is not ingested twice.
  Status EndFile(TakenFile file);

  // The range is at its end: what the sender counted must be what arrived, else kCorruption. Durable soon after.
  Status Finish(uint64_t entries, uint64_t raw_bytes, const Digest& digest);

  // Makes what was applied durable without ending the range: the peer went away.
  Status Flush();

  // Behind it nothing is applied any more, and the files of the spool that this one wrote are whoever's comes next: the
  // first pieces of one stay, what else there is goes. Idempotent.
  void Close();

  // Waits until everything submitted is durable and returns the first error of the background work.
  Status Drain();

  // The newest durable cursor, if it is newer than at the last call.
  std::optional<Cursor> TakeDurable();

  const Cursor& applied() const { return applied_; }

  // What was applied but is in no file yet that is being made durable: bytes of the unfinished file, or of the WAL.
  uint64_t unfinished_bytes() const;

 private:
  RangeApplier(std::shared_ptr<TargetStore> store, ApplyRange range, ApplyMode mode, Cursor cursor);
  Status ApplyFrame(Frame* frame);
  // Keeps the first error: the applier takes nothing more behind it.
  Status Latch(Status status);
  // Ends the file, or waits for the one before it, so that `bytes` more may be added.
  Status MakeRoom(uint64_t bytes);
  Status AddToFile(std::string_view batch);
  // Behind a large entry, which stands in the writer or in a memtable now: its frame gives back its memory, and what
  // has taken its place is gone before the frame's lease is, or has one of its own.
  Status SettleLarge(Frame* frame, size_t bytes);
  Status OpenWriter();
  Status Submit(bool complete);
  // Has the store's threads do `work`; what `durable` says is durable behind it.
  void RunBehind(std::function<Status()> work, std::optional<Cursor> durable);
  Status CheckTaken(const std::string& path, const TakenFile& file, const std::optional<std::string>& follows,
                    bool* ingested_before) const;
  Status KeepTaken(uint64_t offset);
  void LeaveTaken();
  Status BackgroundStatus();

  std::shared_ptr<TargetStore> store_;
  const ApplyRange range_;
  const ApplyMode mode_;
  const rocksdb::Comparator* comparator_;
  Cursor applied_;
  std::optional<std::string> follows_;  // the next batch or file must lie behind this key
  bool grafted_ = false;
  UniqueFd taken_;
  std::string taken_path_;
  uint64_t taken_bytes_ = 0;
  uint64_t unsynced_bytes_ = 0;
  std::unique_ptr<rocksdb::SstFileWriter> writer_;
  Buffer lease_;  // for what the writer keeps of large entries
  std::string file_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool under_way_ = false;
  Status background_;
  std::optional<Cursor> durable_;
};

}  // namespace kvbatch
