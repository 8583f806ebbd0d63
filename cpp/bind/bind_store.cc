#include "bind/bind_store.h"

#include "store/cursor.h"
#include "store/sample_store.h"
#include "store/store_description.h"
#include "store/table_check.h"
#include "store/table_run.h"

namespace kvbatch::bind {

namespace {

void RegisterDescription(py::module_& module) {
  using Family = ColumnFamilyDescription;
  py::class_<Family>(module, "ColumnFamilyDescription",
                     "The traits of a column family that a copy keeps; names as RocksDB's OPTIONS file has them.")
      .def(py::init([](Text name, std::string comparator, std::string merge_operator, std::string compression,
                       std::string filter_policy, uint64_t block_size, int num_levels) {
             return Family{std::move(name.value),
                           std::move(comparator),
                           std::move(merge_operator),
                           std::move(compression),
                           std::move(filter_policy),
                           block_size,
                           num_levels};
           }),
           py::arg("name"), py::kw_only(), py::arg("comparator") = Family().comparator, py::arg("merge_operator") = "",
           py::arg("compression") = Family().compression, py::arg("filter_policy") = "",
           py::arg("block_size") = Family().block_size, py::arg("num_levels") = Family().num_levels)
      .def_property_readonly("name", [](const Family& family) { return Text{family.name}; })
      .def_readonly("comparator", &Family::comparator)
      .def_readonly("merge_operator", &Family::merge_operator)
      .def_readonly("compression", &Family::compression)
      .def_readonly("filter_policy", &Family::filter_policy)
      .def_readonly("block_size", &Family::block_size)
      .def_readonly("num_levels", &Family::num_levels);
  module.attr("RESERVED_COLUMN_FAMILY") = kReservedColumnFamily;
  module.attr("ROCKSDB_VERSION") = RocksdbVersion();
  // Whether a target takes files that a database wrote.
  module.attr("CAN_GRAFT") = static_cast<bool>(KVBATCH_TABLE_ITERATORS);
  module.def(
      "describe_store", [](const Text& path) { return Get([&] { return DescribeStore(path.value); }); },
      py::arg("path"), "The column families of a directory in the order of their ids, without opening the store.");
  module.def(
      "wal_directory", [](const Text& path) { return Text{WithoutGil([&] { return WalDirectory(path.value); })}; },
      py::arg("path"), "Where a store keeps its WAL: mostly `path` itself.");
  module.def(
      "check_table_file",
      [](const Text& path, const Text& name) { Run([&] { return CheckTableFile(path.value, name.value); }); },
      py::arg("path"), py::arg("name"),
      "Holds every block of an SST file that was moved as it is against its checksum. Raises SourceError, calling it "
      "`name`, for a damaged one; TargetError when it cannot be read.");
  module.def(
      "check_compression", [](const std::string& name) { RaiseIfError(ParseCompression(name).status()); },
      py::arg("name"), "UsageError unless SST files can be compressed with `name`.");
}

void RegisterCursor(py::module_& module) {
  py::class_<Cursor>(module, "Cursor", "What a target has durably applied of a range.")
      .def(py::init([](uint32_t range, bool complete, uint64_t entries, uint64_t raw_bytes, const Bytes& digest,
                       Bytes last_key) {
             return Cursor{range, complete, entries, raw_bytes, ParseDigest(digest), std::move(last_key.value)};
           }),
           py::arg("range"), py::kw_only(), py::arg("complete") = false, py::arg("entries") = 0,
           py::arg("raw_bytes") = 0, py::arg("digest") = Bytes{std::string(16, '\0')}, py::arg("last_key") = Bytes{})
      .def(
          "__eq__", [](const Cursor& a, const Cursor& b) { return a == b; }, py::is_operator())
      .def_readonly("range", &Cursor::range)
      .def_readonly("complete", &Cursor::complete)
      .def_readonly("entries", &Cursor::entries)
      .def_readonly("raw_bytes", &Cursor::raw_bytes)
      .def_property_readonly("digest", [](const Cursor& cursor) { return DigestBytes(cursor.digest); })
      .def_property_readonly("last_key", [](const Cursor& cursor) { return Bytes{cursor.last_key}; });
}

void RegisterSample(py::module_& module) {
  module.def(
      "write_sample_store",
      [](const Text& path, uint64_t entries, uint32_t key_bytes, uint32_t value_bytes, uint64_t seed, bool compact,
         std::string compression, bool file_checksums) {
        const SampleOptions options{entries,       key_bytes, value_bytes, seed, compact, std::move(compression),
                                    file_checksums};
        Run([&] { return WriteSampleStore(path.value, options); });
      },
      py::arg("path"), py::kw_only(), py::arg("entries") = SampleOptions().entries,
      py::arg("key_bytes") = SampleOptions().key_bytes, py::arg("value_bytes") = SampleOptions().value_bytes,
      py::arg("seed") = SampleOptions().seed, py::arg("compact") = true, py::arg("compression") = "none",
      py::arg("file_checksums") = false, "Writes a new store of made-up entries, half of each value compressible.");
}

}  // namespace

void RegisterStore(py::module_& module) {
  RegisterDescription(module);
  RegisterCursor(module);
  RegisterSource(module);
  RegisterTarget(module);
  RegisterEntryPages(module);
  RegisterSample(module);
}

}  // namespace kvbatch::bind
