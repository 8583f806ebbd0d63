// RangeBounds: which keys of a column family are meant, in the order of its comparator.
#pragma once

#include <optional>
#include <string>

namespace kvbatch {

// [start, end); none: the first or past the last key. `after` starts behind that key, for resuming.
struct RangeBounds {
  std::optional<std::string> start;
  std::optional<std::string> end;
  std::optional<std::string> after;
};

}  // namespace kvbatch
