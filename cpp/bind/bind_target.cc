#include <pybind11/native_enum.h>

#include <set>

#include "bind/bind_store.h"
#include "store/range_applier.h"
#include "store/target_store.h"

namespace kvbatch::bind {

namespace {

using TargetHandle = std::shared_ptr<TargetStore>;
using Key = std::optional<Bytes>;

void RegisterTargetStore(py::module_& module) {
  py::class_<ImportedFile>(module, "ImportedFile", "A whole SST file of another store's column family.")
      .def(py::init([](Text name, uint64_t file_bytes, const TablePlace& place) {
             return ImportedFile{std::move(name.value), file_bytes, place};
           }),
           py::arg("name"), py::arg("file_bytes"), py::arg("place"));

  py::class_<TargetHealth>(module, "TargetHealth", "The worst of a store's column families; a trigger of 0 is none.")
      .def_readonly("l0_files", &TargetHealth::l0_files)
      .def_readonly("immutable_memtables", &TargetHealth::immutable_memtables)
      .def_readonly("pending_compaction_bytes", &TargetHealth::pending_compaction_bytes)
      .def_readonly("delayed_write_rate", &TargetHealth::delayed_write_rate,
                    "Bytes a second; 0: writers are not slowed.")
      .def_readonly("write_stopped", &TargetHealth::write_stopped)
      .def_readonly("l0_slowdown_trigger", &TargetHealth::l0_slowdown_trigger)
      .def_readonly("l0_stop_trigger", &TargetHealth::l0_stop_trigger)
      .def_readonly("soft_pending_compaction_bytes", &TargetHealth::soft_pending_compaction_bytes)
      .def_readonly("hard_pending_compaction_bytes", &TargetHealth::hard_pending_compaction_bytes);

  py::class_<TargetStore, TargetHandle>(module, "TargetStore", py::release_gil_before_calling_cpp_dtor(),
                                        "A RocksDB directory that a job writes into, with the job's records.")
      .def(py::init([](const Text& path, bool create, uint64_t sst_file_bytes,
                       const std::optional<ColumnFamilyDescription>& default_family, uint64_t max_memory) {
             TargetOptions options;
             options.create = create;
             options.sst_file_bytes = sst_file_bytes;
             options.max_memory = max_memory;
             options.default_family = default_family.value_or(options.default_family);
             return Get([&] { return TargetStore::Open(path.value, options); });
           }),
           py::arg("path"), py::kw_only(), py::arg("create") = true,
           py::arg("sst_file_bytes") = TargetOptions().sst_file_bytes, py::arg("default_family") = std::nullopt,
           py::arg("max_memory") = 0,
           "A store that does not exist yet gets `default_family`'s traits. Raises UsageError, RefusedError or "
           "TargetError.")
      .def_property_readonly("path", [](const TargetStore& store) { return Text{store.path()}; })
      .def_property_readonly("column_families", &TargetStore::Families)
      .def_property_readonly(
          "identity", [](const TargetStore& store) { return Get([&] { return store.Identity(); }); },
          "RocksDB's id of this store.")
      .def(
          "ensure_family",
          [](TargetStore& store, const ColumnFamilyDescription& family) {
            return Get([&] { return store.EnsureFamily(family); });
          },
          py::arg("column_family"), "Its id; made where it does not exist. RefusedError for another comparator.")
      .def(
          "import_family",
          [](TargetStore& store, const ColumnFamilyDescription& family, const Text& directory,
             const std::vector<ImportedFile>& files,
             bool move) { Run([&] { return store.ImportFamily(family, directory.value, files, move); }); },
          py::arg("column_family"), py::arg("directory"), py::arg("files"), py::kw_only(), py::arg("move"),
          "The family, made of all the files that it has in another store, moved out of `directory` or copied. Raises "
          "RefusedError for the default family; CorruptionError for files that do not make one up.")
      .def(
          "family_id",
          [](const TargetStore& store, const Text& name) { return Get([&] { return store.FamilyId(name.value); }); },
          py::arg("name"))
      .def(
          "has_data",
          [](const TargetStore& store, const Text& name, Key start, Key end) {
            const auto from = Plain(std::move(start));
            const auto to = Plain(std::move(end));
            return Get([&] { return store.HasData(name.value, from, to); });
          },
          py::arg("name"), py::arg("start") = std::nullopt, py::arg("end") = std::nullopt,
          "Whether the family holds an entry in [start, end).")
      .def_property_readonly("has_records", &TargetStore::HasRecords, "Whether a job's records are in it.")
      .def(
          "get_record",
          [](const TargetStore& store, const Bytes& key) -> Key {
            auto value = Get([&] { return store.GetRecord(key.value); });
            return value ? Key(Bytes{*value}) : std::nullopt;
          },
          py::arg("key"))
      .def(
          "put_record",
          [](TargetStore& store, const Bytes& key, const Bytes& value) {
            Run([&] { return store.PutRecord(key.value, value.value); });
          },
          py::arg("key"), py::arg("value"), "Durable when it returns.")
      .def("cursors", [](const TargetStore& store) { return Get([&] { return store.Cursors(); }); })
      .def(
          "grafts", [](const TargetStore& store) { return Get([&] { return store.Grafts(); }); },
          "Of ranges whose own file is in the store while what stands over it may be missing.")
      .def(
          "partial_files",
          [](const TargetStore& store, const std::set<uint32_t>& built) {
            return WithoutGil([&] { return store.PartialFiles(built); });
          },
          py::arg("built") = std::set<uint32_t>(),
          "What earlier appliers have left of files; reads it. Of the ranges in `built`, whose files the sender makes, "
          "without the end, which would not come out the same again.")
      .def(
          "drop_records", [](TargetStore& store) { Run([&] { return store.DropRecords(); }); },
          "From here on the directory is an ordinary store.")
      .def(
          "write", [](TargetStore& store, Frame& frame) { Run([&] { return store.Write(&frame); }); }, py::arg("frame"),
          "Validates the batch and writes it with the WAL on, not synced.")
      .def(
          "write_batch",
          [](TargetStore& store, const Bytes& batch) { Run([&] { return store.WriteBatch(batch.value); }); },
          py::arg("batch"), "As `write`, for a batch that came in no frame.")
      .def("sync_wal", [](TargetStore& store) { Run([&] { return store.SyncWal(); }); })
      .def(
          "health", [](const TargetStore& store) { return Get([&] { return store.Health(); }); },
          "How near it is to making writers wait.")
      .def("flush", [](TargetStore& store) { Run([&] { return store.Flush(); }); })
      .def("close", [](TargetStore& store) { Run([&] { return store.Close(); }); });
}

void RegisterPartialFile(py::module_& module) {
  py::class_<PartialFile>(module, "PartialFile", "The first pieces of a file of a range whose sender went away.")
      .def(py::init<uint32_t, uint64_t, uint32_t>(), py::arg("range"), py::arg("length"), py::arg("crc32c"))
      .def_readonly("range", &PartialFile::range)
      .def_readonly("length", &PartialFile::length)
      .def_readonly("crc32c", &PartialFile::crc32c);
}

void RegisterRangeApplier(py::module_& module) {
  py::native_enum<ApplyMode>(module, "ApplyMode", "enum.IntEnum", "How a range is written.")
      .value("INGEST", ApplyMode::kIngest)
      .value("WRITE", ApplyMode::kWrite)
      .finalize();
  py::class_<RangeApplier, Owned<RangeApplier>>(
      module, "RangeApplier", "Takes the frames of one range in order and makes them durable in a target.")
      .def(py::init([](const TargetHandle& store, uint32_t family, Key start, Key end, ApplyMode mode,
                       const Cursor& cursor, Text file, uint64_t offset, bool grafted) {
             const ApplyRange range{cursor.range, family, Plain(std::move(start)), Plain(std::move(end)),
                                    std::move(file.value)};
             return Own(Get([&] { return RangeApplier::Create(store, range, mode, cursor, {offset, grafted}); }));
           }),
           py::arg("store").none(false), py::arg("family"), py::arg("start"), py::arg("end"), py::arg("mode"),
           py::arg("cursor"), py::arg("file") = Text{}, py::kw_only(), py::arg("offset") = 0,
           py::arg("grafted") = false,
           "Goes on from `cursor`; `family` is the target's id, `file` the source's own file that is moved for the "
           "range, for messages. `offset`: with so many bytes of the file that is to come next, left by an earlier "
           "applier, which the running digest takes for one piece; ProtocolError when less was left. `grafted`: the "
           "cursor is one of `TargetStore.grafts`, and what stands over the file comes next.")
      .def(
          "apply", [](RangeApplier& applier, Frame& frame) { Run([&] { return applier.Apply(&frame); }); },
          py::arg("frame"),
          "Raises CorruptionError, and applies nothing, for a batch that is not what it claims to be.")
      .def(
          "open_file", [](RangeApplier& applier) { return Get([&] { return applier.OpenTaken(); }); },
          "The file that the pieces of a whole SST file go into, open for writing; the applier owns it.")
      .def_property_readonly("file_bytes", &RangeApplier::taken_bytes, "How much of that file has come.")
      .def(
          "add_piece",
          [](RangeApplier& applier, uint64_t length, uint32_t crc32c) {
            Run([&] { return applier.AddPiece(length, crc32c); });
          },
          py::arg("length"), py::arg("crc32c"), "The next piece stands in the file.")
      .def(
          "end_file",
          [](RangeApplier& applier, uint64_t entries, uint64_t raw_bytes, const Bytes& last_key, bool graft) {
            Run([&] { return applier.EndFile({entries, raw_bytes, last_key.value, graft}); });
          },
          py::arg("entries"), py::arg("raw_bytes"), py::arg("last_key"), py::arg("graft"),
          "The file is whole: it is checked and ingested in the background.")
      .def(
          "finish",
          [](RangeApplier& applier, uint64_t entries, uint64_t raw_bytes, const Bytes& digest) {
            const Digest expected = ParseDigest(digest);
            Run([&] { return applier.Finish(entries, raw_bytes, expected); });
          },
          py::arg("entries"), py::arg("raw_bytes"), py::arg("digest"),
          "The range is at its end; CorruptionError unless the sender's totals are what was applied.")
      .def(
          "flush", [](RangeApplier& applier) { Run([&] { return applier.Flush(); }); },
          "Makes what was applied durable without ending the range.")
      .def(
          "drain", [](RangeApplier& applier) { Run([&] { return applier.Drain(); }); },
          "Waits until everything submitted is durable.")
      .def(
          "close", [](RangeApplier& applier) { WithoutGil([&] { applier.Close(); }); },
          "Leaves the range to whoever opens it next: the first pieces of a file stay. Idempotent.")
      .def(
          "take_durable", [](RangeApplier& applier) { return WithoutGil([&] { return applier.TakeDurable(); }); },
          "The newest durable cursor if it is newer than at the last call.")
      .def_property_readonly("applied", [](const RangeApplier& applier) { return applier.applied(); })
      .def_property_readonly("unfinished_bytes", &RangeApplier::unfinished_bytes,
                             "Applied, but in no file yet that is being made durable.");
}

}  // namespace

void RegisterTarget(py::module_& module) {
  RegisterPartialFile(module);
  RegisterTargetStore(module);
  RegisterRangeApplier(module);
}

}  // namespace kvbatch::bind
