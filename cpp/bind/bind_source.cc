#include <pybind11/operators.h>

#include <set>

#include "base/checksum.h"
#include "base/file_io.h"
#include "bind/bind_store.h"
#include "store/block_memory.h"
#include "store/element_types.h"
#include "store/overlay_reader.h"
#include "store/range_digest.h"
#include "store/range_reader.h"
#include "store/sent_mark.h"
#include "store/source_store.h"
#include "store/sst_builder.h"
#include "wire/apply_batch.h"
#include "wire/batch_run.h"

KVBATCH_FAST_ENUM(kvbatch::StopReason);

namespace kvbatch::bind {

namespace {

using SourceHandle = std::shared_ptr<SourceStore>;
using Key = std::optional<Bytes>;

RangeBounds Bounds(Key start, Key end, Key after = std::nullopt) {
  return {Plain(std::move(start)), Plain(std::move(end)), Plain(std::move(after))};
}

rocksdb::ColumnFamilyHandle* FamilyOf(const SourceStore& store, const Text& name) {
  auto family = store.Family(name.value);
  RaiseIfError(family.status());
  return family.value();
}

// Stays valid as long as `buffer` lives.
SentMark* MarkIn(const py::buffer& buffer) {
  const py::buffer_info info = buffer.request(/*writable=*/true);
  if (info.size * info.itemsize != sizeof(SentMark)) {
    throw py::value_error("a mark has 16 bytes");
  }
  return static_cast<SentMark*>(info.ptr);
}

std::vector<std::string> PlainAll(std::vector<Bytes> keys) {
  std::vector<std::string> plain;
  plain.reserve(keys.size());
  for (Bytes& key : keys) {
    plain.push_back(std::move(key.value));
  }
  return plain;
}

void RegisterSourceStore(py::module_& module) {
  py::class_<ColumnFamilyFigures>(module, "ColumnFamilyFigures", "Estimates from table properties and memtables.")
      .def_readonly("entries", &ColumnFamilyFigures::entries)
      .def_readonly("raw_bytes", &ColumnFamilyFigures::raw_bytes, "Keys and values, uncompressed.")
      .def_readonly("file_bytes", &ColumnFamilyFigures::file_bytes)
      .def_readonly("files", &ColumnFamilyFigures::files)
      .def_readonly("memtable_entries", &ColumnFamilyFigures::memtable_entries)
      .def_readonly("merge_operands", &ColumnFamilyFigures::merge_operands);

  py::class_<TablePlace>(module, "TablePlace", "Where an SST file stands in its column family.")
      .def(py::init([](int level, uint64_t smallest_sequence, uint64_t largest_sequence, uint64_t epoch, Bytes smallest,
                       Bytes largest) {
             return TablePlace{level, smallest_sequence,         largest_sequence,
                               epoch, std::move(smallest.value), std::move(largest.value)};
           }),
           py::arg("level"), py::arg("smallest_sequence"), py::arg("largest_sequence"), py::arg("epoch"),
           py::arg("smallest"), py::arg("largest"))
      .def(py::self == py::self)
      .def_readonly("level", &TablePlace::level)
      .def_readonly("smallest_sequence", &TablePlace::smallest_sequence)
      .def_readonly("largest_sequence", &TablePlace::largest_sequence)
      .def_readonly("epoch", &TablePlace::epoch, "Orders the files of level 0; 0: their sequence numbers do.")
      .def_property_readonly(
          "smallest", [](const TablePlace& place) { return Bytes{place.smallest}; }, "Internal key, as `largest`.")
      .def_property_readonly("largest", [](const TablePlace& place) { return Bytes{place.largest}; });

  py::class_<TableFile>(module, "TableFile", "One SST file of a column family; both ends of its keys included.")
      .def_property_readonly(
          "name", [](const TableFile& table) { return Text{table.name}; }, "Empty when it lies in another directory.")
      .def_property_readonly("smallest", [](const TableFile& table) { return Bytes{table.smallest}; })
      .def_property_readonly("largest", [](const TableFile& table) { return Bytes{table.largest}; })
      .def_readonly("file_bytes", &TableFile::file_bytes)
      .def_readonly("entries", &TableFile::entries)
      .def_readonly("raw_bytes", &TableFile::raw_bytes, "Keys and values, uncompressed.")
      .def_readonly("plain", &TableFile::plain, "Puts and deletions of single keys, nothing else.")
      .def_readonly("graftable", &TableFile::graftable, "Can be moved as it is.")
      .def_readonly("blobs", &TableFile::blobs, "Values of it stand in blob files.")
      .def_readonly("place", &TableFile::place);

  py::class_<EntryRun>(module, "EntryRun", "A run of entries and the sum of their digests.")
      .def_readonly("entries", &EntryRun::entries)
      .def_readonly("raw_bytes", &EntryRun::raw_bytes)
      .def_property_readonly("digest", [](const EntryRun& run) { return DigestBytes(run.digest); })
      .def_property_readonly(
          "last_key", [](const EntryRun& run) { return Bytes{run.last_key}; },
          "Last key of a full run; empty for the run that ends the range.");

  py::class_<SourceStore::FileMemory>(module, "FileMemory", "What files take while they are read, in bytes.")
      .def_readonly("shared_bytes", &SourceStore::FileMemory::shared_bytes, "Of all readers together.")
      .def_readonly("reader_bytes", &SourceStore::FileMemory::reader_bytes, "Of each reader.")
      .def_readonly("merged", &SourceStore::FileMemory::merged, "How many files a reader merges.");

  py::class_<SourceStore, SourceHandle>(module, "SourceStore", py::release_gil_before_calling_cpp_dtor(),
                                        "A RocksDB directory opened read-only; nothing in it changes.")
      .def(py::init([](const Text& path, const std::vector<Text>& column_families, uint64_t max_memory,
                       uint64_t reserved_bytes) {
             std::vector<std::string> names;
             for (const Text& name : column_families) {
               names.push_back(name.value);
             }
             return Get([&] { return SourceStore::Open(path.value, names, {max_memory, reserved_bytes}); });
           }),
           py::arg("path"), py::arg("column_families") = std::vector<Text>(), py::kw_only(), py::arg("max_memory") = 0,
           py::arg("reserved_bytes") = 0,
           "Raises UsageError, RefusedError or SourceError. UsageError also where its WAL takes more than `max_memory` "
           "without `reserved_bytes`; 0 is no bound.")
      .def_property_readonly("path", [](const SourceStore& store) { return Text{store.path()}; })
      // Copies: references would keep the store open for as long as anybody has one of them.
      .def_property_readonly("column_families", [](const SourceStore& store) { return store.families(); })
      .def_property_readonly(
          "identity", [](const SourceStore& store) { return Get([&] { return store.Identity(); }); },
          "RocksDB's id of this store.")
      .def_property_readonly(
          "read_limiter", [](const SourceStore& store) { return store.reads().limiter; },
          "What reading the store's tables waits for.")
      .def_property_readonly(
          "bytes_read", [](const SourceStore& store) { return store.reads().bytes.load(); },
          "Of its tables, compressed as they are; without what is sent of them as it is.")
      .def_property_readonly("memtable_bytes", &SourceStore::memtable_bytes, "What is in memory of its WAL.")
      .def(
          "memory_for_files", [](const SourceStore& store) { return Get([&] { return store.MemoryForFiles(); }); },
          "What its files take while they are read, beyond what every stream has for it.")
      .def_property_readonly("latest_sequence", &SourceStore::LatestSequence)
      .def(
          "figures",
          [](const SourceStore& store, const Text& family) { return Get([&] { return store.Figures(family.value); }); },
          py::arg("column_family"))
      .def(
          "first_and_last_key",
          [](const SourceStore& store, const Text& family) -> std::optional<std::pair<Bytes, Bytes>> {
            auto keys = Get([&] { return store.FirstAndLastKey(family.value); });
            if (!keys) {
              return std::nullopt;
            }
            return std::pair(Bytes{keys->first}, Bytes{keys->second});
          },
          py::arg("column_family"))
      .def(
          "seek",
          [](const SourceStore& store, const Text& family, const Bytes& key) -> Key {
            auto found = Get([&] { return store.Seek(family.value, key.value); });
            return found ? Key(Bytes{*found}) : std::nullopt;
          },
          py::arg("column_family"), py::arg("key"), "The first key at or behind `key`.")
      .def(
          "tables",
          [](const SourceStore& store, const Text& family) {
            auto* handle = FamilyOf(store, family);
            return Get([&]() -> Result<std::vector<TableFile>> {
              auto layout = store.Tables(handle);
              return layout.ok() ? Result(layout.value()->files) : layout.status();
            });
          },
          py::arg("column_family"), "The SST files of a family in the order of their smallest keys.")
      .def(
          "table",
          [](const SourceStore& store, const Text& family, const Text& file) {
            return Get([&] { return store.Table(family.value, file.value); });
          },
          py::arg("column_family"), py::arg("name"), "The file of that name. Raises UsageError when there is none.")
      .def(
          "recorded_crc32c",
          [](const SourceStore& store, const Text& file) {
            return Get([&] { return store.RecordedCrc32c(file.value); });
          },
          py::arg("file"),
          "The crc32c that an SST or blob file of the directory had when RocksDB wrote it; None where nothing says.")
      .def(
          "memtables_are_plain",
          [](const SourceStore& store, const Text& family) {
            return Get([&] { return store.MemtablesArePlain(family.value); });
          },
          py::arg("column_family"), "Whether memtables hold puts and deletions of single keys only, or nothing.")
      .def(
          "approximate_sizes",
          [](const SourceStore& store, const Text& family, const Bytes& start, std::vector<Bytes> keys) {
            const auto plain = PlainAll(std::move(keys));
            return Get([&] { return store.ApproximateSizes(family.value, start.value, plain); });
          },
          py::arg("column_family"), py::arg("start"), py::arg("keys"),
          "Estimated stored bytes between `start` and each key.")
      .def(
          "digest_range",
          [](const SourceStore& store, const Text& family, Key start, Key end, uint64_t run_entries) {
            auto* handle = FamilyOf(store, family);
            return Get(
                [&] { return DigestRange(store, handle, Bounds(std::move(start), std::move(end)), run_entries); });
          },
          py::arg("column_family"), py::arg("start"), py::arg("end"), py::arg("run_entries") = 0,
          "One EntryRun for each `run_entries` entries of [start, end); one for all when 0.")
      .def(
          "list_entries",
          [](const SourceStore& store, const Text& family, Key start, Key end, size_t max_key_bytes, Key after) {
            auto* handle = FamilyOf(store, family);
            auto listing = Get([&] {
              return ListEntries(store, handle, Bounds(std::move(start), std::move(end), std::move(after)),
                                 max_key_bytes);
            });
            std::vector<std::pair<Bytes, Bytes>> entries;
            entries.reserve(listing.entries.size());
            for (auto& [key, digest] : listing.entries) {
              entries.emplace_back(Bytes{std::move(key)}, DigestBytes(digest));
            }
            return std::pair(std::move(entries), listing.complete);
          },
          py::arg("column_family"), py::arg("start"), py::arg("end"), py::arg("max_key_bytes"),
          py::arg("after") = std::nullopt,
          "([(key, digest)], whether the end was reached) from the start of the range, or from behind `after`, on; at "
          "least one entry if there is one.")
      .def(
          "pack_repair",
          [](const SourceStore& store, const Text& family, std::vector<Bytes> keys, size_t first,
             uint32_t target_family, Frame& frame, size_t batch_bytes, Codec codec) {
            auto* handle = FamilyOf(store, family);
            const auto plain = PlainAll(std::move(keys));
            return Get(
                [&] { return PackRepair(store, handle, plain, first, target_family, &frame, batch_bytes, codec); });
          },
          py::arg("column_family"), py::arg("keys"), py::arg("first"), py::arg("target_family"), py::arg("frame"),
          py::arg("batch_bytes"), py::arg("codec"),
          "Packs what the source holds for keys[first:], deletes where it holds nothing; returns how many keys.");
}

void RegisterApplyBatch(py::module_& module) {
  py::class_<ElementTypes, Owned<ElementTypes>>(module, "ElementTypes",
                                                "Of which type the elements of a Kvrocks directory are.")
      .def(py::init([](const SourceHandle& store, bool slot_encoded) {
             auto* metadata = FamilyOf(*store, Text{"metadata"});
             return Own(WithoutGil([&] { return std::make_unique<ElementTypes>(store, metadata, slot_encoded); }));
           }),
           py::arg("store").none(false), py::arg("slot_encoded"),
           "Looks for metadata in the store's column family of that name.");
  py::class_<SentBatch>(module, "SentBatch", "A batch that was sent to a Kvrocks server.")
      .def_readonly("length", &SentBatch::length, "What the server answers.")
      .def_readonly("entries", &SentBatch::entries)
      .def_readonly("raw_bytes", &SentBatch::raw_bytes, "Keys and values.")
      .def_property_readonly("last_key", [](const SentBatch& sent) { return Bytes{sent.last_key}; });
  module.def(
      "send_apply_batch",
      [](Connection& connection, Frame& frame, const Bytes& log_data, const std::set<uint32_t>& column_families,
         std::optional<ElementTypes*> types) {
        ElementTypes* const known = types.value_or(nullptr);
        return Get([&] { return SendApplyBatch(&connection, &frame, log_data.value, column_families, known); });
      },
      py::arg("connection"), py::arg("frame"), py::arg("log_data"), py::arg("column_families"),
      py::arg("types") = std::nullopt,
      "Sends the batch in the frame to a Kvrocks server, with `log_data` as its log record unless that is empty, or "
      "with "
      "those of `types`. CorruptionError, and nothing sent, unless it holds plain values of these column families "
      "alone.");
}

void RegisterRangeReader(py::module_& module) {
  module.def(
      "record_sent", [](const py::buffer& mark, uint64_t start, uint64_t end) { MarkIn(mark)->Record(start, end); },
      py::arg("mark"), py::arg("start"), py::arg("end"),
      "The bytes of a range from `start` to `end` are about to be sent.");
  py::native_enum<StopReason>(module, "StopReason", "enum.IntEnum", "Why RangeReader.fill stopped.")
      .value("FULL", StopReason::kFull)
      .value("END", StopReason::kEnd)
      .value("LARGE_ENTRY", StopReason::kLargeEntry)
      .finalize();
  KeepMembers<StopReason>(module.attr("StopReason"));
  module.attr("READ_BESIDE_BYTES") = kReadBeside;
  py::class_<FillResult>(module, "FillResult")
      .def_readonly("stop", &FillResult::stop)
      .def_readonly("entries", &FillResult::entries)
      .def_readonly("raw_bytes", &FillResult::raw_bytes, "Keys and values packed.")
      .def_readonly("needed_bytes", &FillResult::needed_bytes,
                    "With LARGE_ENTRY: the batch size it takes, for fill_large; reading may show that it takes more.");
  py::class_<BatchRun>(module, "BatchRun", "Batches that were put in one call.")
      .def(py::init([](const FillResult& next) { return BatchRun{.frames = 1, .next = next}; }), py::arg("next"),
           "A run of one batch.")
      .def_readonly("frames", &BatchRun::frames)
      .def_readonly("entries", &BatchRun::entries, "Of those behind the first, which the caller knew.")
      .def_readonly("raw_bytes", &BatchRun::raw_bytes, "As `entries`: keys and values.")
      .def_readonly("next", &BatchRun::next, "What stands in the frame now, not sent yet.");
  py::class_<RangeReader, Owned<RangeReader>>(module, "RangeReader",
                                              "Packs [start, end) of a column family into frames, one a call.")
      .def(py::init([](const SourceHandle& store, const Text& family, Key start, Key end, Key after,
                       uint32_t target_family, const Bytes& digest) {
             auto* handle = FamilyOf(*store, family);
             auto bounds = Bounds(std::move(start), std::move(end), std::move(after));
             const Digest from = ParseDigest(digest);
             return Own(WithoutGil(
                 [&] { return std::make_unique<RangeReader>(store, handle, std::move(bounds), target_family, from); }));
           }),
           py::arg("store").none(false), py::arg("column_family"), py::arg("start"), py::arg("end"), py::kw_only(),
           py::arg("after") = std::nullopt, py::arg("target_family") = 0,
           py::arg("digest") = Bytes{std::string(16, '\0')})
      .def(
          "fill",
          [](RangeReader& reader, Frame& frame, size_t batch_bytes, Codec codec) {
            return Get([&] { return reader.Fill(&frame, batch_bytes, codec); });
          },
          py::arg("frame"), py::arg("batch_bytes"), py::arg("codec") = Codec::kNone,
          "Packs the next batch. Raises SourceError naming a damaged file.")
      .def(
          "fill_large",
          [](RangeReader& reader, Frame& frame, size_t needed_bytes, Codec codec) {
            return Get([&] { return reader.FillLarge(&frame, needed_bytes, codec); });
          },
          py::arg("frame"), py::arg("needed_bytes"), py::arg("codec") = Codec::kNone,
          "The answer to LARGE_ENTRY, once more if it comes again: waits for all the memory that such an entry takes.")
      .def(
          "send_run",
          [](RangeReader& reader, Connection& connection, FramesInFlight& in_flight, Frame& frame, size_t batch_bytes,
             Codec codec, uint32_t frames, const py::buffer& mark, uint64_t sent_bytes) {
            auto* const sent = MarkIn(mark);
            return Get([&] {
              return SendRun(&reader, &connection, &in_flight, &frame, batch_bytes, codec, frames, sent, sent_bytes);
            });
          },
          py::arg("connection"), py::arg("in_flight"), py::arg("frame"), py::arg("batch_bytes"), py::arg("codec"),
          py::arg("frames"), py::arg("mark"), py::arg("sent_bytes"),
          "Sends the batch that stands in `frame`, packs the next one into it, and so on to the range's last, `frames` "
          "at most; adds them to `in_flight`. `mark` is the range's in the sent log, which has the first batch "
          "already; "
          "`sent_bytes` is where that one ends.")
      .def_property_readonly(
          "read_seconds",
          [](const RangeReader& reader) { return std::chrono::duration<double>(reader.read_time()).count(); },
          "Reading and packing in all calls so far.")
      .def_property_readonly(
          "compress_seconds",
          [](const RangeReader& reader) { return std::chrono::duration<double>(reader.compress_time()).count(); },
          "Compressing in all calls so far.")
      .def_property_readonly("last_key", [](const RangeReader& reader) { return Bytes{reader.last_key()}; })
      .def_property_readonly(
          "digest", [](const RangeReader& reader) { return DigestBytes(reader.digest()); },
          "Running digest of the batches, 16 bytes.");
}

void RegisterOverlayReader(py::module_& module) {
  py::class_<OverlayReader, Owned<OverlayReader>>(module, "OverlayReader",
                                                  "Packs what stands over a grafted file into frames, one a call.")
      .def(py::init([](const SourceHandle& store, const Text& family, const Text& file, Key start, Key end,
                       uint32_t target_family, const Bytes& digest, Key after) {
             auto* handle = FamilyOf(*store, family);
             const auto bounds = Bounds(std::move(start), std::move(end), std::move(after));
             const Digest from = ParseDigest(digest);
             return Own(Get([&]() -> Result<std::unique_ptr<OverlayReader>> {
               auto base = store->Table(family.value, file.value);
               if (!base.ok()) {
                 return base.status();
               }
               return std::make_unique<OverlayReader>(store, handle, base.value(), bounds, target_family, from);
             }));
           }),
           py::arg("store").none(false), py::arg("column_family"), py::arg("file"), py::arg("start"), py::arg("end"),
           py::arg("target_family"), py::arg("digest"), py::kw_only(), py::arg("after") = std::nullopt,
           "`digest`: behind the file, or behind `after`, up to which all is counted and not packed.")
      .def(
          "fill",
          [](OverlayReader& reader, Frame& frame, size_t batch_bytes, Codec codec) {
            return Get([&] { return reader.Fill(&frame, batch_bytes, codec); });
          },
          py::arg("frame"), py::arg("batch_bytes"), py::arg("codec") = Codec::kNone, "As RangeReader.fill.")
      .def(
          "fill_large",
          [](OverlayReader& reader, Frame& frame, size_t needed_bytes, Codec codec) {
            return Get([&] { return reader.FillLarge(&frame, needed_bytes, codec); });
          },
          py::arg("frame"), py::arg("needed_bytes"), py::arg("codec") = Codec::kNone, "As RangeReader.fill_large.")
      .def_property_readonly("last_key", [](const OverlayReader& reader) { return Bytes{reader.last_key()}; })
      .def_property_readonly("digest", [](const OverlayReader& reader) { return DigestBytes(reader.digest()); })
      .def_property_readonly("entries", &OverlayReader::entries, "Of the range, file and overlay together.")
      .def_property_readonly("raw_bytes", &OverlayReader::raw_bytes, "As `entries`: keys and values.")
      .def_property_readonly("skipped_bytes", &OverlayReader::skipped_bytes,
                             "Keys and values of what was counted and not packed.");
}

void RegisterSstBuilder(py::module_& module) {
  py::class_<BuiltPiece>(module, "BuiltPiece", "What one call of SstBuilder.build came to.")
      .def_readonly("offset", &BuiltPiece::offset, "In the file.")
      .def_readonly("length", &BuiltPiece::length)
      .def_readonly("entries", &BuiltPiece::entries, "Of the file so far; they may stand in pieces to come.")
      .def_readonly("raw_bytes", &BuiltPiece::raw_bytes, "Keys and values of those.")
      .def_readonly("ends_file", &BuiltPiece::ends_file, "`entries` and `raw_bytes` are all of the file.")
      .def_readonly("ends_range", &BuiltPiece::ends_range,
                    "Nothing is left behind it; without `ends_file` nothing at all since the last file.")
      .def_readonly("needed_bytes", &BuiltPiece::needed_bytes,
                    "Not 0: the next entry is a large one, of about so many bytes, for `make_room`.")
      .def_property_readonly(
          "last_key", [](const BuiltPiece& piece) { return Bytes{piece.last_key}; }, "With `ends_file`.");
  py::class_<SstBuilder, Owned<SstBuilder>>(module, "SstBuilder",
                                            "[start, end) as SST files, in pieces while they are built.")
      .def(py::init([](const SourceHandle& store, const Text& family, Key start, Key end, Key after,
                       const ColumnFamilyDescription& target, uint64_t file_bytes) {
             auto* handle = FamilyOf(*store, family);
             auto bounds = Bounds(std::move(start), std::move(end), std::move(after));
             return Own(Get([&] { return SstBuilder::Create(store, handle, std::move(bounds), target, file_bytes); }));
           }),
           py::arg("store").none(false), py::arg("column_family"), py::arg("start"), py::arg("end"), py::kw_only(),
           py::arg("after") = std::nullopt, py::arg("target"), py::arg("file_bytes"),
           "Files as `target` describes the family, of about `file_bytes` each.")
      .def(
          "build",
          [](SstBuilder& builder, size_t piece_bytes) { return Get([&] { return builder.Build(piece_bytes); }); },
          py::arg("piece_bytes"),
          "The next piece, of `piece_bytes` at most; now and then an empty one. Raises SourceError naming a damaged "
          "file.")
      .def_property_readonly(
          "last_key", [](const SstBuilder& builder) { return Bytes{builder.last_key()}; },
          "Of the entry that was added last; empty when there was none.")
      .def(
          "make_room",
          [](SstBuilder& builder, const std::shared_ptr<BufferPool>& pool, uint64_t needed_bytes) {
            Run([&] { return builder.MakeRoom(pool, needed_bytes); });
          },
          py::arg("pool").none(false), py::arg("needed_bytes"),
          "Waits for all the memory that a large entry takes, and keeps it until the file with it was handed out.")
      .def(
          "crc32c",
          [](const SstBuilder& builder, uint64_t length, uint32_t before) {
            return WithoutGil([&] { return Crc32c(builder.piece().substr(0, length), before); });
          },
          py::arg("length"), py::arg("before"),
          "Of the first `length` bytes of the piece behind those whose crc32c is `before`.")
      .def(
          "send",
          [](const SstBuilder& builder, Connection& connection, uint64_t skip) {
            return Get(
                [&] { return connection.SendPiece(builder.piece().substr(skip), builder.position().offset + skip); });
          },
          py::arg("connection"), py::arg("skip") = 0,
          "Sends the piece, without its first `skip` bytes, as a FILE frame; the crc32c of what was sent.")
      .def(
          "write",
          [](const SstBuilder& builder, int fd, uint64_t offset, uint64_t skip) {
            return Get([&]() -> Result<uint32_t> {
              const std::string_view piece = builder.piece().substr(skip);
              if (Status status = WriteAll(fd, piece, offset, "the target's file"); !status.ok()) {
                return status;
              }
              WriteBack(fd, offset, piece.size());
              return Crc32c(piece);
            });
          },
          py::arg("fd"), py::arg("offset"), py::arg("skip") = 0,
          "Writes the piece, without its first `skip` bytes, into a file; the crc32c of what was written. TargetError, "
          "NoSpaceError.");
}

}  // namespace

void RegisterSource(py::module_& module) {
  RegisterSourceStore(module);
  RegisterRangeReader(module);
  RegisterApplyBatch(module);
  RegisterOverlayReader(module);
  RegisterSstBuilder(module);
}

}  // namespace kvbatch::bind
