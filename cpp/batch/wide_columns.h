// Wide-column entities: RocksDB's values with named columns, in the serialized form of batch_format.h.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvbatch {

using WideColumn = std::pair<std::string_view, std::string_view>;  // name, value

// Appends the serialized columns to `out`. The columns must be sorted by name, as RocksDB gives them.
void SerializeEntity(const std::vector<WideColumn>& columns, std::string* out);

// Decodes into views of `entity`. False when it is malformed: a wrong version, cut lengths, names out of order.
bool DecodeEntity(std::string_view entity, std::vector<WideColumn>* columns);

// What RocksDB takes an entity for: one of nothing but the default column is a plain value. `value` becomes that value,
// or the entity itself. False when it is malformed.
bool ReadEntity(std::string_view entity, bool* is_entity, std::string_view* value);

bool IsWellFormedEntity(std::string_view entity);

}  // namespace kvbatch
