// Translation of RocksDB's statuses into ours, at the one boundary between the two.
#pragma once

#include <rocksdb/slice.h>
#include <rocksdb/status.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/status.h"

namespace kvbatch {

// A damaged source: `said` names the file.
inline Status DamagedSource(std::string said) {
  said.resize(said.find_last_not_of(". \n") + 1);
  said += ". Mend that file or restore it in place";
  return Status(Code::kSource, std::move(said));
}

// A failed read of a source. Corruption and I/O errors name the file in RocksDB's own message.
inline Status FromSource(const rocksdb::Status& status, std::string_view what) {
  if (status.ok()) {
    return Status::Ok();
  }
  std::string said = std::string(what) + ": " + status.ToString();
  return status.IsCorruption() ? DamagedSource(std::move(said)) : Status(Code::kSource, std::move(said));
}

// A failed write of a target. A full disk is told apart: the job can go on once there is room.
inline Status FromTarget(const rocksdb::Status& status, std::string_view what) {
  if (status.ok()) {
    return Status::Ok();
  }
  const std::string said = status.ToString();
  // Where RocksDB wraps one status in another, as that of its OPTIONS file, its words alone are left.
  const auto says = [&said](int error) { return said.find(std::generic_category().message(error)) != said.npos; };
  const bool no_space = status.IsNoSpace() || status.subcode() == rocksdb::Status::SubCode::kNoSpace ||
                        status.subcode() == rocksdb::Status::SubCode::kSpaceLimit || says(ENOSPC) || says(EDQUOT);
  return Status(no_space ? Code::kNoSpace : Code::kTarget, std::string(what) + ": " + said);
}

inline std::string_view View(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }
inline rocksdb::Slice ToSlice(std::string_view view) { return {view.data(), view.size()}; }

}  // namespace kvbatch
