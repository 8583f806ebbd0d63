// Writing to files.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace kvbatch {

// Writes `bytes` into the file `fd` at `offset`. kTarget and kNoSpace, naming `file`, when it cannot.
Status WriteAll(int fd, std::string_view bytes, uint64_t offset, std::string_view file);

}  // namespace kvbatch
