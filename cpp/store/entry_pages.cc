#include "store/entry_pages.h"

#include <algorithm>
#include <utility>

#include "base/checksum.h"

namespace kvbatch {

namespace {

// Whoever wants an entry or two should not read a megabyte ahead for them.
constexpr size_t kFewEntries = 16;

}  // namespace

EntryPages::EntryPages(std::shared_ptr<SourceStore> store, rocksdb::ColumnFamilyHandle* family, RangeBounds bounds,
                       size_t head_bytes, PageSize page_size)
    : store_(std::move(store)),
      head_bytes_(head_bytes),
      page_size_(page_size),
      entries_(*store_, family, std::move(bounds), page_size.entries > kFewEntries) {}

Result<std::optional<EntryPage>> EntryPages::Next() {
  EntryPage page;
  page.key_offsets.push_back(0);
  for (; entries_.Valid() && page.entries() < page_size_.entries && page.keys.size() < page_size_.key_bytes;
       entries_.Next()) {
    entries_.Load();
    const std::string_view value = entries_.value();
    page.keys.append(entries_.key());
    page.key_offsets.push_back(static_cast<int64_t>(page.keys.size()));
    page.value_sizes.push_back(static_cast<int64_t>(value.size()));
    page.value_heads.append(value.substr(0, head_bytes_));
    page.value_heads.resize(page.entries() * head_bytes_);
  }
  if (Status status = entries_.status(); !status.ok()) {
    return status;
  }
  return page.entries() > 0 ? std::optional(std::move(page)) : std::nullopt;
}

Result<DigestColumns> DigestKeyParts(std::string_view keys, std::span<const KeyParts> parts) {
  const auto size = static_cast<int64_t>(keys.size());
  DigestColumns digests;
  digests.low.reserve(parts.size());
  digests.high.reserve(parts.size());
  const auto at = [keys](int64_t begin, int64_t end) {
    return keys.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  };
  std::string both;
  for (const KeyParts& part : parts) {
    if (part.first_begin < 0 || part.first_end < part.first_begin || part.first_end > size || part.second_begin < 0 ||
        part.second_end < part.second_begin || part.second_end > size) {
      return Status(Code::kUsage, "a part of a key is not in the keys");
    }
    both.assign(at(part.first_begin, part.first_end));
    both.append(at(part.second_begin, part.second_end));
    const Digest digest = Xxh3(both);
    digests.low.push_back(digest.low);
    digests.high.push_back(digest.high);
  }
  return digests;
}

}  // namespace kvbatch
