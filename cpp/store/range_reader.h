// RangeReader: packs the entries of a range into frames, one frame a call.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "store/entry_iterator.h"
#include "store/frame_filler.h"

namespace kvbatch {

class RangeReader final : public FrameFiller {
 public:
  // `target_family` is the id that the records carry, which is the target's. `digest` is the running digest to go on
  // from, that of the cursor when resuming.
  RangeReader(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
              uint32_t target_family, const Digest& digest);

 private:
  Status PackInto(BatchBuilder* builder, size_t room, FillResult* result) override;
  void NotePacked() override;
  void Close() override { entries_.reset(); }

  RangeBounds bounds_;  // of what was not packed yet
  std::unique_ptr<EntryIterator> entries_;
  std::string_view packed_key_;  // in the frame
};

}  // namespace kvbatch
