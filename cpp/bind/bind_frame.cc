#include "bind/convert.h"
#include "frame/frame.h"
#include "frame/large_entry.h"

namespace kvbatch::bind {

void RegisterFrame(py::module_& module) {
  py::native_enum<FrameType>(module, "FrameType", "enum.IntEnum", "What a frame carries.")
      .value("HELLO", FrameType::kHello)
      .value("WELCOME", FrameType::kWelcome)
      .value("REQUEST", FrameType::kRequest)
      .value("REPLY", FrameType::kReply)
      .value("ERROR", FrameType::kError)
      .value("RANGE_BEGIN", FrameType::kRangeBegin)
      .value("DATA", FrameType::kData)
      .value("RANGE_END", FrameType::kRangeEnd)
      .value("ACK", FrameType::kAck)
      .value("DRAIN", FrameType::kDrain)
      .value("FILE", FrameType::kFile)
      .value("FILE_END", FrameType::kFileEnd)
      .value("HEARTBEAT", FrameType::kHeartbeat)
      .finalize();
  KeepMembers<FrameType>(module.attr("FrameType"));
  module.attr("PROTOCOL_VERSION") = kProtocolVersion;
  module.attr("HEADER_BYTES") = kFrameHeaderSize;

  py::class_<FrameLimits>(module, "FrameLimits", "The lengths a receiver accepts, in bytes.")
      .def(py::init([](uint64_t max_data_bytes, uint64_t max_control_bytes, uint64_t max_file_bytes) {
             return FrameLimits{max_data_bytes, max_control_bytes, max_file_bytes};
           }),
           py::arg("max_data_bytes") = FrameLimits().max_data_bytes,
           py::arg("max_control_bytes") = FrameLimits().max_control_bytes,
           py::arg("max_file_bytes") = FrameLimits().max_file_bytes)
      .def_readonly("max_data_bytes", &FrameLimits::max_data_bytes)
      .def_readonly("max_control_bytes", &FrameLimits::max_control_bytes)
      .def_readonly("max_file_bytes", &FrameLimits::max_file_bytes, "Of a piece of a file, which takes no memory.");

  py::class_<FrameHeader>(module, "FrameHeader", "The 64 bytes before every payload; see docs/wire-format.md.")
      .def(py::init([](FrameType type, Codec codec, uint64_t job, uint32_t stream, uint32_t range, uint64_t sequence,
                       uint32_t entries, uint32_t payload_crc32c, uint64_t raw_length, uint64_t payload_length) {
             return FrameHeader{type,    codec,          job,        stream,        range, sequence,
                                entries, payload_crc32c, raw_length, payload_length};
           }),
           py::kw_only(), py::arg("type"), py::arg("codec") = Codec::kNone, py::arg("job") = 0, py::arg("stream") = 0,
           py::arg("range") = 0, py::arg("sequence") = 0, py::arg("entries") = 0, py::arg("payload_crc32c") = 0,
           py::arg("raw_length") = 0, py::arg("payload_length") = 0)
      .def("encode",
           [](const FrameHeader& header) {
             std::string bytes(kFrameHeaderSize, '\0');
             EncodeFrameHeader(header, bytes.data());
             return Bytes{bytes};
           })
      .def_static(
          "decode",
          [](const Bytes& bytes, const FrameLimits& limits) {
            auto header = DecodeFrameHeader(bytes.value, limits);
            RaiseIfError(header.status());
            return header.Take();
          },
          py::arg("bytes"), py::arg("limits") = FrameLimits(), "Raises ProtocolError or CorruptionError.")
      .def(
          "__eq__", [](const FrameHeader& a, const FrameHeader& b) { return a == b; }, py::is_operator())
      .def_readonly("type", &FrameHeader::type)
      .def_readonly("codec", &FrameHeader::codec)
      .def_readonly("job", &FrameHeader::job)
      .def_readonly("stream", &FrameHeader::stream)
      .def_readonly("range", &FrameHeader::range)
      .def_readonly("sequence", &FrameHeader::sequence)
      .def_readonly("entries", &FrameHeader::entries)
      .def_readonly("payload_crc32c", &FrameHeader::payload_crc32c)
      .def_readonly("raw_length", &FrameHeader::raw_length)
      .def_readonly("payload_length", &FrameHeader::payload_length);

  py::class_<BufferPool, std::shared_ptr<BufferPool>>(
      module, "BufferPool", "Reusable frame memory, never more than `max_bytes`; whoever wants more waits.")
      .def(py::init([](size_t max_bytes) { return BufferPool::Create(max_bytes); }), py::arg("max_bytes"))
      .def(
          "close", [](BufferPool& pool) { WithoutGil([&] { pool.Close(); }); },
          "Wakes everybody who waits, with ClosedError.")
      .def_property("max_bytes", &BufferPool::max_bytes, &BufferPool::SetMaxBytes,
                    "Can be changed at any time: with less than is leased, nobody gets anything until enough is back.")
      .def_property_readonly("leased_bytes", &BufferPool::leased_bytes)
      .def_property_readonly("waiting", &BufferPool::waiting, "Threads that wait for memory now.")
      .def_property_readonly(
          "waited_seconds", [](const BufferPool& pool) { return std::chrono::duration<double>(pool.waited()).count(); },
          "All threads together, waits that last included.");

  module.attr("LARGE_ENTRY_BYTES") = kLargeEntryBytes;
  module.def("largest_entry", &LargestEntry, py::arg("max_memory"), "The largest that a budget takes, in bytes.");
  module.def("memory_for_entry", &MemoryForEntry, py::arg("entry_bytes"), "The least budget that takes it, in bytes.");

  py::class_<Frame>(module, "Frame", "A header and a payload in pooled memory; used by one thread at a time.")
      .def(py::init<std::shared_ptr<BufferPool>>(), py::arg("pool").none(false))
      .def(
          "release", [](Frame& frame) { WithoutGil([&] { frame.Release(); }); }, "Gives its memory back to the pool.")
      .def(
          "payload", [](const Frame& frame) { return Bytes{std::string(frame.payload())}; },
          "A copy of the payload as it is on the wire; for control frames.")
      .def(
          "raw", [](Frame& frame) { return Bytes{std::string(Get([&] { return frame.OpenRaw(); }))}; },
          "A copy of the payload, decompressed. Raises CorruptionError.")
      .def_property_readonly("type", [](const Frame& frame) { return frame.header().type; })
      .def_property_readonly("codec", [](const Frame& frame) { return frame.header().codec; })
      .def_property_readonly("range", [](const Frame& frame) { return frame.header().range; })
      .def_property_readonly("sequence", [](const Frame& frame) { return frame.header().sequence; })
      .def_property_readonly("entries", [](const Frame& frame) { return frame.header().entries; })
      .def_property_readonly("raw_length", [](const Frame& frame) { return frame.header().raw_length; })
      .def_property_readonly("payload_length", [](const Frame& frame) { return frame.header().payload_length; });
}

}  // namespace kvbatch::bind
