// The store bindings are four files; bind_store.cc calls the other three.
#pragma once

#include "bind/convert.h"

namespace kvbatch::bind {

void RegisterSource(py::module_& module);
void RegisterTarget(py::module_& module);
void RegisterEntryPages(py::module_& module);

}  // namespace kvbatch::bind
