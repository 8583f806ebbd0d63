// Conversions that every binding file needs: statuses to exceptions, byte strings, names.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/checksum.h"
#include "base/status.h"
#include "bind/fast_enum.h"
#include "codec/codec.h"
#include "frame/frame_format.h"

KVBATCH_FAST_ENUM(kvbatch::Codec);
KVBATCH_FAST_ENUM(kvbatch::FrameType);

namespace kvbatch::bind {

namespace py = pybind11;

// Raises the exception of kvbatch.errors that belongs to the status. Needs the GIL.
void RaiseIfError(const Status& status);

// CPU time that this process has spent in the core, that is in WithoutGil, summed over its threads.
std::chrono::nanoseconds CoreCpuTime();

// Adds the CPU time of its thread from here to the end of its scope.
class CoreCpuTimer {
 public:
  CoreCpuTimer();
  ~CoreCpuTimer();
  CoreCpuTimer(const CoreCpuTimer&) = delete;
  CoreCpuTimer& operator=(const CoreCpuTimer&) = delete;

 private:
  const std::chrono::nanoseconds start_;
};

// Runs `work`, which touches no Python object, without the GIL.
template <typename Work>
auto WithoutGil(Work&& work) {
  const py::gil_scoped_release release;
  const CoreCpuTimer timer;
  return std::forward<Work>(work)();
}

// Runs `work` without the GIL and raises if it fails.
template <typename Work>
void Run(Work&& work) {
  RaiseIfError(WithoutGil(std::forward<Work>(work)));
}

// Runs `work` without the GIL; its value, or its exception.
template <typename Work>
auto Get(Work&& work) {
  auto result = WithoutGil(std::forward<Work>(work));
  RaiseIfError(result.status());
  return result.Take();
}

// Holds what Python alone owns and what takes its time to go: a reader unpins blocks, an applier gives up a file.
template <typename T>
struct DeleteWithoutGil {
  void operator()(T* object) const {
    WithoutGil([object] { delete object; });
  }
};

template <typename T>
using Owned = std::unique_ptr<T, DeleteWithoutGil<T>>;

template <typename T>
Owned<T> Own(std::unique_ptr<T> object) {
  return Owned<T>(object.release());
}

// A Python `bytes`: keys, values, payloads.
struct Bytes {
  std::string value;
};

// A Python `str` whose bytes are UTF-8 with surrogateescape, as os.fsencode does it: paths and column family names,
// both arbitrary bytes.
struct Text {
  std::string value;
};

inline std::optional<std::string> Plain(std::optional<Bytes> bytes) {
  return bytes ? std::optional<std::string>(std::move(bytes->value)) : std::nullopt;
}

inline Bytes DigestBytes(const Digest& digest) {
  const auto bytes = digest.Bytes();
  return {std::string(bytes.data(), bytes.size())};
}

// ValueError unless `bytes` has 16 bytes.
Digest ParseDigest(const Bytes& bytes);

}  // namespace kvbatch::bind

namespace pybind11::detail {

template <>
struct type_caster<kvbatch::bind::Bytes> {
  PYBIND11_TYPE_CASTER(kvbatch::bind::Bytes, const_name("bytes"));

  bool load(handle source, bool /*convert*/) {
    char* data = nullptr;
    Py_ssize_t size = 0;
    if (!source || !PyBytes_Check(source.ptr()) || PyBytes_AsStringAndSize(source.ptr(), &data, &size) != 0) {
      return false;
    }
    value.value.assign(data, static_cast<size_t>(size));
    return true;
  }

  static handle cast(const kvbatch::bind::Bytes& source, return_value_policy /*policy*/, handle /*parent*/) {
    return PyBytes_FromStringAndSize(source.value.data(), static_cast<Py_ssize_t>(source.value.size()));
  }
};

template <>
struct type_caster<kvbatch::bind::Text> {
  PYBIND11_TYPE_CASTER(kvbatch::bind::Text, const_name("str"));

  bool load(handle source, bool /*convert*/) {
    if (!source || !PyUnicode_Check(source.ptr())) {
      return false;
    }
    const auto encoded = reinterpret_steal<object>(PyUnicode_AsEncodedString(source.ptr(), "utf-8", "surrogateescape"));
    if (!encoded) {
      throw error_already_set();
    }
    value.value.assign(PyBytes_AS_STRING(encoded.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(encoded.ptr())));
    return true;
  }

  static handle cast(const kvbatch::bind::Text& source, return_value_policy /*policy*/, handle /*parent*/) {
    return PyUnicode_DecodeUTF8(source.value.data(), static_cast<Py_ssize_t>(source.value.size()), "surrogateescape");
  }
};

}  // namespace pybind11::detail
