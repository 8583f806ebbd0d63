#include "bind/convert.h"

#include <atomic>
#include <ctime>

namespace kvbatch::bind {

namespace {

const char* ExceptionName(Code code) {
  switch (code) {
    case Code::kUsage:
      return "UsageError";
    case Code::kRefused:
      return "RefusedError";
    case Code::kSource:
      return "SourceError";
    case Code::kTarget:
      return "TargetError";
    case Code::kNoSpace:
      return "NoSpaceError";
    case Code::kProtocol:
      return "ProtocolError";
    case Code::kCorruption:
      return "CorruptionError";
    case Code::kTransport:
      return "TransportError";
    case Code::kClosed:
      return "ClosedError";
    case Code::kOk:
      break;
  }
  return "KvbatchError";
}

std::atomic<int64_t> core_cpu_nanoseconds{0};

std::chrono::nanoseconds ThreadCpuTime() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace

std::chrono::nanoseconds CoreCpuTime() {
  return std::chrono::nanoseconds(core_cpu_nanoseconds.load(std::memory_order_relaxed));
}

CoreCpuTimer::CoreCpuTimer() : start_(ThreadCpuTime()) {}

CoreCpuTimer::~CoreCpuTimer() {
  core_cpu_nanoseconds.fetch_add((ThreadCpuTime() - start_).count(), std::memory_order_relaxed);
}

void RaiseIfError(const Status& status) {
  if (status.ok()) {
    return;
  }
  const auto type = py::module_::import("kvbatch.errors").attr(ExceptionName(status.code()));
  const auto message = py::cast(Text{status.message()});
  PyErr_SetObject(type.ptr(), message.ptr());
  throw py::error_already_set();
}

Digest ParseDigest(const Bytes& bytes) {
  if (bytes.value.size() != 16) {
    throw py::value_error("a digest has 16 bytes");
  }
  return Digest::FromBytes(bytes.value.data());
}

}  // namespace kvbatch::bind
