#include <pybind11/numpy.h>

#include "bind/bind_store.h"
#include "store/entry_pages.h"
#include "store/family_shape.h"

namespace kvbatch::bind {

namespace {

// A view of what `owner` holds; it keeps it alive.
template <typename Item, typename Element>
py::array_t<Item> ArrayOf(const py::object& owner, const Element* data, std::vector<py::ssize_t> shape) {
  py::array_t<Item> view(std::move(shape), reinterpret_cast<const Item*>(data), owner);
  py::detail::array_proxy(view.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return view;
}

template <typename Item>
py::array_t<Item> Moved(std::vector<Item> items) {
  auto* owned = new std::vector<Item>(std::move(items));
  const py::capsule owner(owned, [](void* vector) { delete static_cast<std::vector<Item>*>(vector); });
  return py::array_t<Item>(static_cast<py::ssize_t>(owned->size()), owned->data(), owner);
}

py::ssize_t Count(size_t number) { return static_cast<py::ssize_t>(number); }

// What Python sees of a page: it has to know how long the heads are.
struct BoundPage {
  EntryPage page;
  size_t head_bytes;
};

template <typename Column>
py::cpp_function Property(Column column) {
  return py::cpp_function([column](const py::object& self) { return column(self, self.cast<const BoundPage&>()); });
}

void RegisterPages(py::module_& module) {
  py::class_<BoundPage>(module, "EntryPage", "Entries as arrays that nobody changes.")
      .def("__len__", [](const BoundPage& bound) { return bound.page.entries(); })
      .def(
          "key",
          [](const BoundPage& bound, size_t index) {
            const EntryPage& page = bound.page;
            if (index >= page.entries()) {
              throw py::index_error("the page has " + std::to_string(page.entries()) + " entries");
            }
            const auto begin = static_cast<size_t>(page.key_offsets[index]);
            return Bytes{page.keys.substr(begin, static_cast<size_t>(page.key_offsets[index + 1]) - begin)};
          },
          py::arg("index"))
      .def_property_readonly("keys", Property([](const py::object& self, const BoundPage& bound) {
                               return ArrayOf<uint8_t>(self, bound.page.keys.data(), {Count(bound.page.keys.size())});
                             }),
                             "All keys, one behind the other.")
      .def_property_readonly("key_offsets", Property([](const py::object& self, const BoundPage& bound) {
                               return ArrayOf<int64_t>(self, bound.page.key_offsets.data(),
                                                       {Count(bound.page.key_offsets.size())});
                             }),
                             "n + 1: where each key begins in `keys`, and where the last ends.")
      .def_property_readonly("value_sizes", Property([](const py::object& self, const BoundPage& bound) {
                               return ArrayOf<int64_t>(self, bound.page.value_sizes.data(),
                                                       {Count(bound.page.entries())});
                             }))
      .def_property_readonly("value_heads", Property([](const py::object& self, const BoundPage& bound) {
                               return ArrayOf<uint8_t>(self, bound.page.value_heads.data(),
                                                       {Count(bound.page.entries()), Count(bound.head_bytes)});
                             }),
                             "n × head_bytes: how each value begins, and zeros behind one that is shorter.");

  py::class_<EntryPages, Owned<EntryPages>>(module, "EntryPages", "The entries of [start, end), a page a call.")
      .def(py::init([](const std::shared_ptr<SourceStore>& store, const Text& family, std::optional<Bytes> start,
                       std::optional<Bytes> end, size_t head_bytes, size_t max_entries, size_t max_key_bytes) {
             if (max_entries == 0 || max_key_bytes == 0) {
               throw py::value_error("a page holds at least one entry");
             }
             auto handle = store->Family(family.value);
             RaiseIfError(handle.status());
             RangeBounds bounds{Plain(std::move(start)), Plain(std::move(end)), std::nullopt};
             return Own(WithoutGil([&] {
               return std::make_unique<EntryPages>(store, handle.value(), std::move(bounds), head_bytes,
                                                   PageSize{max_entries, max_key_bytes});
             }));
           }),
           py::arg("store").none(false), py::arg("column_family"), py::arg("start") = std::nullopt,
           py::arg("end") = std::nullopt, py::kw_only(), py::arg("head_bytes") = 0,
           py::arg("max_entries") = PageSize().entries, py::arg("max_key_bytes") = PageSize().key_bytes,
           "A page ends with the entry that reaches one of its bounds. Raises UsageError.")
      .def(
          "next",
          [](EntryPages& pages) -> std::optional<BoundPage> {
            auto page = Get([&] { return pages.Next(); });
            return page ? std::optional(BoundPage{std::move(*page), pages.head_bytes()}) : std::nullopt;
          },
          "None at the end. Raises SourceError.");

  using Places = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;
  static_assert(sizeof(KeyParts) == 4 * sizeof(int64_t));
  module.def(
      "digest_key_parts",
      [](const py::array_t<uint8_t, py::array::c_style>& keys, const Places& parts) {
        if (keys.ndim() != 1 || parts.ndim() != 2 || parts.shape(1) != 4) {
          throw py::value_error("keys are one dimension of bytes, parts are n × 4 places in them");
        }
        const std::string_view bytes(reinterpret_cast<const char*>(keys.data()), static_cast<size_t>(keys.size()));
        const std::span<const KeyParts> places(reinterpret_cast<const KeyParts*>(parts.data()),
                                               static_cast<size_t>(parts.shape(0)));
        auto digests = Get([&] { return DigestKeyParts(bytes, places); });
        return std::pair(Moved(std::move(digests.low)), Moved(std::move(digests.high)));
      },
      py::arg("keys"), py::arg("parts"),
      "The xxh3-128 of two parts of each key, one behind the other: low and high, n each. `parts`: n × 4, where the "
      "first begins and ends in `keys`, where the second does. Raises UsageError for parts that are not there.");
}

void RegisterShape(py::module_& module) {
  py::class_<LevelShape>(module, "LevelShape", "The SST files of a level.")
      .def_readonly("level", &LevelShape::level)
      .def_readonly("files", &LevelShape::files)
      .def_readonly("bytes", &LevelShape::bytes);
  py::class_<FamilyShape>(module, "FamilyShape", "What a column family is stored in.")
      .def_readonly("id", &FamilyShape::id)
      .def_readonly("levels", &FamilyShape::levels, "Those that have files.")
      .def_readonly("blob_files", &FamilyShape::blob_files)
      .def_readonly("blob_bytes", &FamilyShape::blob_bytes);
  module.def(
      "family_shape",
      [](const SourceStore& store, const Text& family) {
        auto handle = store.Family(family.value);
        RaiseIfError(handle.status());
        return WithoutGil([&] { return ShapeOf(store.db(), handle.value()); });
      },
      py::arg("store"), py::arg("column_family"), "Raises UsageError when there is no such family.");
}

}  // namespace

void RegisterEntryPages(py::module_& module) {
  RegisterPages(module);
  RegisterShape(module);
}

}  // namespace kvbatch::bind
