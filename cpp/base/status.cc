#include "base/status.h"

#include <cerrno>
#include <system_error>

namespace kvbatch {

Status Status::Within(std::string_view prefix) const {
  if (ok()) {
    return *this;
  }
  return Status(code_, std::string(prefix) + ": " + message_);
}

Status FromErrno(Code code, std::string_view what, int error_number) {
  if (code == Code::kTarget && (error_number == ENOSPC || error_number == EDQUOT)) {
    code = Code::kNoSpace;
  }
  return Status(code, std::string(what) + ": " + std::generic_category().message(error_number));
}

}  // namespace kvbatch
