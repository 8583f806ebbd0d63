// Status: the outcome of every fallible operation of the core. The core never throws and never sees Python; the
// bindings turn a Status into the exception of python/kvbatch/errors.py that has the same name.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace kvbatch {

enum class Code {
  kOk,
  kUsage,       // the caller asked for something that makes no sense
  kRefused,     // would overwrite, does not match, in use by somebody else
  kSource,      // the source store cannot be read
  kTarget,      // the target store cannot be written
  kNoSpace,     // the target's disk is full: the job can go on once there is room
  kProtocol,    // the peer does not speak this protocol, or not in this order
  kCorruption,  // bytes that fail their checksum or their structure
  kTransport,   // the connection broke or timed out; worth another try
  kClosed,      // the peer ended the conversation at a frame boundary
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status Ok() { return {}; }

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

  // The same status with "prefix: " before its message, for the caller that knows which range or file it was.
  Status Within(std::string_view prefix) const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// Maps an errno of a socket or file call. `what` names the call and its object, e.g. "send to 10.0.0.1:7720".
Status FromErrno(Code code, std::string_view what, int error_number);

// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status::Ok() : std::get<Status>(state_); }
  T& value() { return std::get<T>(state_); }
  const T& value() const { return std::get<T>(state_); }
  T Take() { return std::move(std::get<T>(state_)); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace kvbatch
