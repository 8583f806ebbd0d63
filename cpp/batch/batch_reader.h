// BatchReader decodes a batch record by record; ValidateBatch says whether a batch may reach a store at all.
// Both treat their input as hostile.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "base/status.h"
#include "batch/batch_format.h"

namespace kvbatch {

class BatchReader {
 public:
  // `batch` must outlive the reader and the records it gives out.
  explicit BatchReader(std::string_view batch);

  // Decodes the next record. False at the end and at the first fault; status() tells the two apart.
  bool Next(Record* record);

  // Ok, or kCorruption with the offset of the fault: a short header, an unknown tag, a cut record.
  const Status& status() const { return status_; }
  uint32_t declared_count() const { return declared_count_; }
  // Counted records (all but LogData) decoded so far.
  uint32_t counted() const { return counted_; }

 private:
  bool Fail(const char* what);

  std::string_view batch_;
  std::string_view rest_;
  Status status_;
  uint32_t declared_count_ = 0;
  uint32_t counted_ = 0;
};

struct BatchSummary {
  uint32_t records = 0;    // counted records
  uint64_t key_bytes = 0;  // keys of all records, LogData left out
  uint64_t value_bytes = 0;
  std::string_view first_key;  // of the first and the last counted record; they point into the batch
  std::string_view last_key;
};

// What a batch may hold.
struct BatchRules {
  // Column family ids that may occur. Null: any.
  const std::set<uint32_t>* column_families = nullptr;
  // Only plain values and entities. Their order is not checked here: it belongs to the column family's comparator.
  bool only_puts = false;
  // Asked about every counted record besides; what it returns ends the check. May be empty.
  std::function<Status(const Record&)> check;
};

// The full structural check that stands before every write: tags, lengths, column families, the declared count, the
// columns of entities. Returns kCorruption and names the fault.
Result<BatchSummary> ValidateBatch(std::string_view batch, const BatchRules& rules);

}  // namespace kvbatch
