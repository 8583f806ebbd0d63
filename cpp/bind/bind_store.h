// The store bindings are three files; bind_store.cc calls the other two.
#pragma once

#include "bind/convert.h"

namespace kvbatch::bind {

void RegisterSource(py::module_& module);
void RegisterTarget(py::module_& module);

}  // namespace kvbatch::bind
