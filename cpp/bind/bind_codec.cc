#include "bind/convert.h"
#include "codec/codec.h"

namespace kvbatch::bind {

void RegisterCodec(py::module_& module) {
  py::native_enum<Codec>(module, "Codec", "enum.IntEnum", "How a frame's payload is compressed.")
      .value("NONE", Codec::kNone)
      .value("LZ4", Codec::kLz4)
      .value("ZSTD", Codec::kZstd)
      .finalize();
  KeepMembers<Codec>(module.attr("Codec"));
}

}  // namespace kvbatch::bind
