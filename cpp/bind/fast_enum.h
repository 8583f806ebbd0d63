// Enums that cross between the languages once a frame: pybind11 converts a native_enum by calling into Python's enum
// module, a microsecond each way; this looks the member up in a table.
#pragma once

#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>

#include <array>

namespace kvbatch::bind {

// Members by value, which is 0 to 255. Filled once, kept for the life of the process.
template <typename Enum>
inline std::array<PyObject*, 256> enum_members{};

// To be called behind native_enum<Enum>::finalize() with what it put into the module.
template <typename Enum>
void KeepMembers(const pybind11::object& type) {
  for (const pybind11::handle member : type) {
    enum_members<Enum>[pybind11::int_(member.attr("value")).template cast<size_t>()] = member.inc_ref().ptr();
  }
}

template <typename Enum>
struct FastEnumCaster {
  PYBIND11_TYPE_CASTER(Enum, pybind11::detail::const_name<Enum>());

  bool load(pybind11::handle source, bool /*convert*/) {
    if (!source || !PyLong_Check(source.ptr())) {
      return false;
    }
    const long number = PyLong_AsLong(source.ptr());
    // Any other integer, PyLong_AsLong's error included, is not the member itself.
    if (number < 0 || number > 255 || enum_members<Enum>[static_cast<size_t>(number)] != source.ptr()) {
      PyErr_Clear();
      return false;
    }
    value = static_cast<Enum>(number);
    return true;
  }

  static pybind11::handle cast(Enum source, pybind11::return_value_policy /*policy*/, pybind11::handle /*parent*/) {
    PyObject* member = enum_members<Enum>[static_cast<size_t>(source)];
    if (member == nullptr) {
      throw pybind11::value_error("a number that is no member of the enum");
    }
    return pybind11::handle(member).inc_ref();
  }
};

}  // namespace kvbatch::bind

// At global scope, visible wherever the enum is converted.
#define KVBATCH_FAST_ENUM(Enum)                                                      \
  template <>                                                                        \
  struct pybind11::detail::type_caster_enum_type_enabled<Enum> : std::false_type {}; \
  template <>                                                                        \
  struct pybind11::detail::type_caster<Enum> : kvbatch::bind::FastEnumCaster<Enum> {}
