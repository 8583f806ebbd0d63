#include "store/element_types.h"

#include <array>
#include <utility>

#include "store/rocksdb_status.h"

namespace kvbatch {

namespace {

constexpr std::string_view kNone = "0";
// By type, those that have elements in `default`.
constexpr std::array<std::string_view, 12> kLogs = {kNone, kNone, "2",   "3 7", "4",   "5",
                                                    "6",   "7",   kNone, "9",   kNone, "11"};
constexpr size_t kVersionSize = 8;
// A seek costs about as much as so many steps.
constexpr int kSteps = 8;

uint32_t BigEndian32(std::string_view bytes) {
  uint32_t value = 0;
  for (const char byte : bytes.substr(0, 4)) {
    value = value << 8 | static_cast<uint8_t>(byte);
  }
  return value;
}

}  // namespace

ElementTypes::ElementTypes(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* metadata, bool slot_encoded)
    : store_(std::move(store)), family_(metadata), slot_bytes_(slot_encoded ? 2 : 0) {}

Result<std::string_view> ElementTypes::LogOf(std::string_view subkey) {
  if (!last_prefix_.empty() && subkey.starts_with(last_prefix_)) {
    return last_log_;
  }
  // u8 length of namespace, namespace, [u16 slot], u32 length of user key, user key, u64 version, …
  const size_t head = subkey.empty() ? 0 : 1 + static_cast<uint8_t>(subkey[0]) + slot_bytes_;
  if (head == 0 || subkey.size() < head + 4) {
    return kNone;
  }
  const size_t length = BigEndian32(subkey.substr(head));
  if (subkey.size() - head - 4 < kVersionSize || subkey.size() - head - 4 - kVersionSize < length) {
    return kNone;
  }
  wanted_.assign(subkey.substr(0, head));
  wanted_.append(subkey.substr(head + 4, length));
  auto found = Find(subkey.substr(head + 4 + length, kVersionSize));
  if (found.ok()) {
    last_prefix_.assign(subkey.substr(0, head + 4 + length + kVersionSize));
    last_log_ = found.value();
  }
  return found;
}

Result<std::string_view> ElementTypes::Find(std::string_view version) {
  const BlockMemory::Scope scope(&blocks_, 0);
  try {
    Seek();
    if (!metadata_->Valid()) {
      return metadata_->status().ok() ? Result(kNone) : FromSource(metadata_->status(), "read the store");
    }
    if (View(metadata_->key()) != wanted_) {
      return kNone;
    }
    // u8 flags (bit 7: 64-bit, bits 0 to 3: the type), u64 or u32 expire, u64 version, …
    const std::string_view value = View(metadata_->value());
    const auto flags = static_cast<uint8_t>(value.empty() ? 0 : value[0]);
    const size_t version_at = (flags & 0x80) != 0 ? 9 : 5;
    const size_t type = flags & 0x0F;
    const bool belongs = value.size() >= version_at && value.substr(version_at, kVersionSize) == version;
    return belongs && type < kLogs.size() ? kLogs[type] : kNone;
  } catch (const NoRoomForBlock&) {
    metadata_.reset();
    return kNone;
  }
}

void ElementTypes::Seek() {
  if (!metadata_) {
    rocksdb::ReadOptions options;
    options.total_order_seek = true;
    options.fill_cache = false;
    metadata_.reset(store_->db()->NewIterator(options, family_));
  } else if (metadata_->Valid() && View(metadata_->key()) <= wanted_) {
    for (int step = 0; step < kSteps && metadata_->Valid() && View(metadata_->key()) < wanted_; ++step) {
      metadata_->Next();
    }
    if (metadata_->Valid() && View(metadata_->key()) >= wanted_) {
      return;
    }
  }
  metadata_->Seek(ToSlice(wanted_));
}

}  // namespace kvbatch
