// kvbatch._core: one submodule for each folder of the core.
#include <pybind11/pybind11.h>

namespace kvbatch::bind {

void RegisterBase(pybind11::module_& module);
void RegisterBatch(pybind11::module_& module);
void RegisterCodec(pybind11::module_& module);
void RegisterFrame(pybind11::module_& module);
void RegisterWire(pybind11::module_& module);
void RegisterStore(pybind11::module_& module);

}  // namespace kvbatch::bind

PYBIND11_MODULE(_core, module) {
  namespace bind = kvbatch::bind;
  module.doc() = "The C++ core of kvbatch. One call moves one frame; every call that may wait releases the GIL.";
  auto base = module.def_submodule("base", "Checksums.");
  auto codec = module.def_submodule("codec", "Compression of frame payloads.");
  auto batch = module.def_submodule("batch", "The WriteBatch representation.");
  auto frame = module.def_submodule("frame", "Frames, their format and their memory.");
  auto wire = module.def_submodule("wire", "Frames over sockets.");
  auto store = module.def_submodule("store", "RocksDB directories as sources and targets.");
  bind::RegisterBase(base);
  bind::RegisterCodec(codec);
  bind::RegisterBatch(batch);
  bind::RegisterFrame(frame);
  bind::RegisterWire(wire);
  bind::RegisterStore(store);
}
