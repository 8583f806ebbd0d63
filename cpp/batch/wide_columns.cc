#include "batch/wide_columns.h"

#include "base/coding.h"

namespace kvbatch {

namespace {

constexpr uint32_t kEntityVersion = 1;

void AppendVarint32(std::string* out, uint32_t value) {
  char bytes[kMaxVarint32Length];
  out->append(bytes, static_cast<size_t>(EncodeVarint32(bytes, value) - bytes));
}

}  // namespace

void SerializeEntity(const std::vector<WideColumn>& columns, std::string* out) {
  AppendVarint32(out, kEntityVersion);
  AppendVarint32(out, static_cast<uint32_t>(columns.size()));
  for (const auto& [name, value] : columns) {
    AppendVarint32(out, static_cast<uint32_t>(name.size()));
    out->append(name);
    AppendVarint32(out, static_cast<uint32_t>(value.size()));
  }
  for (const auto& column : columns) {
    out->append(column.second);
  }
}

bool DecodeEntity(std::string_view entity, std::vector<WideColumn>* columns) {
  columns->clear();
  uint32_t version;
  uint32_t count;
  if (!ConsumeVarint32(&entity, &version) || version != kEntityVersion || !ConsumeVarint32(&entity, &count)) {
    return false;
  }
  // Two bytes a column is the least it can take: a count beyond that never takes memory.
  if (count > entity.size() / 2) {
    return false;
  }
  std::vector<uint32_t> sizes;
  sizes.reserve(count);
  uint64_t total = 0;
  for (uint32_t i = 0; i < count; ++i) {
    std::string_view name;
    uint32_t size;
    if (!ConsumeLengthPrefixed(&entity, &name) || !ConsumeVarint32(&entity, &size)) {
      return false;
    }
    if (!columns->empty() && columns->back().first >= name) {
      return false;
    }
    columns->emplace_back(name, std::string_view());
    sizes.push_back(size);
    total += size;
  }
  if (total != entity.size()) {
    return false;
  }
  for (uint32_t i = 0; i < count; ++i) {
    (*columns)[i].second = entity.substr(0, sizes[i]);
    entity.remove_prefix(sizes[i]);
  }
  return true;
}

bool ReadEntity(std::string_view entity, bool* is_entity, std::string_view* value) {
  std::vector<WideColumn> columns;
  if (!DecodeEntity(entity, &columns)) {
    return false;
  }
  *is_entity = columns.size() != 1 || !columns.front().first.empty();
  *value = *is_entity ? entity : columns.front().second;
  return true;
}

bool IsWellFormedEntity(std::string_view entity) {
  std::vector<WideColumn> columns;
  return DecodeEntity(entity, &columns);
}

}  // namespace kvbatch
