#include "base/checksum.h"
#include "base/file_checksum.h"
#include "base/file_io.h"
#include "base/process_memory.h"
#include "base/rate_limiter.h"
#include "bind/convert.h"

namespace kvbatch::bind {

void RegisterBase(py::module_& module) {
  module.def(
      "crc32c",
      [](const py::buffer& data) {
        const auto view = data.request();
        const std::string_view bytes(static_cast<const char*>(view.ptr),
                                     static_cast<size_t>(view.size * view.itemsize));
        return WithoutGil([&] { return Crc32c(bytes); });
      },
      py::arg("data"), "CRC-32C (RFC 3720, B.4) of a contiguous buffer.");
  module.def(
      "return_large_memory", &ReturnLargeMemory, py::arg("bytes"),
      "Has the C library give back to the system at once what is as large when it is freed; for the whole process.");
  module.def("combine_crc32c", &CombineCrc32c, py::arg("first"), py::arg("second"), py::arg("second_length"),
             "CRC-32C of two parts, one behind the other, from those of each.");
  module.def("xxh3_64", [](const Bytes& data) { return Xxh3Short(data.value); }, py::arg("data"), "XXH3, 64 bits.");
  module.def(
      "entry_digest",
      [](const Bytes& key, const Bytes& value, bool is_entity) {
        return DigestBytes(EntryDigest(key.value, value.value, is_entity ? 1 : 0));
      },
      py::arg("key"), py::arg("value"), py::arg("is_entity") = false,
      "Digest of one entry, 16 bytes: xxh3-128 of the value seeded with xxh3-64 of the key.");
  module.def(
      "sum_digests",
      [](const std::vector<Bytes>& digests) {
        Digest sum;
        for (const Bytes& digest : digests) {
          sum += ParseDigest(digest);
        }
        return DigestBytes(sum);
      },
      py::arg("digests"), "Sum modulo 2^128 of 16-byte digests: the digest of the union of their entries.");
  module.def(
      "file_crc32c",
      [](int fd, uint64_t offset, uint64_t length, const Text& file) {
        return Get([&] { return FileCrc32c(fd, offset, length, Code::kSource, "read " + file.value); });
      },
      py::arg("fd"), py::arg("offset"), py::arg("length"), py::arg("file"),
      "CRC-32C of a piece of a file, over the page cache. SourceError, naming `file`, when it cannot be read.");
  module.def(
      "chain_file_piece",
      [](const Bytes& digest, uint64_t offset, uint64_t length, uint32_t crc32c) {
        return DigestBytes(ChainFilePiece(ParseDigest(digest), offset, length, crc32c));
      },
      py::arg("digest"), py::arg("offset"), py::arg("length"), py::arg("crc32c"),
      "The running digest behind a piece of a file, from the one before it.");
  py::class_<RateLimiter, std::shared_ptr<RateLimiter>>(
      module, "RateLimiter",
      "A token bucket of bytes that threads share; it holds a tenth of a second, 64 KiB at least.")
      .def(py::init<uint64_t>(), py::arg("bytes_per_second") = 0, "0: no limit.")
      .def_property(
          "bytes_per_second", &RateLimiter::rate,
          [](RateLimiter& limiter, uint64_t rate) { WithoutGil([&] { limiter.SetRate(rate); }); },
          "Holds from when it is set, for those who wait too; 0: no limit.")
      .def(
          "charge", [](RateLimiter& limiter, uint64_t bytes) { WithoutGil([&] { limiter.Charge(bytes); }); },
          py::arg("bytes"), "Waits until so many bytes may pass.")
      .def_property_readonly(
          "waited_seconds",
          [](const RateLimiter& limiter) { return std::chrono::duration<double>(limiter.waited()).count(); },
          "What all threads together waited so far.")
      .def_property_readonly("waiting", &RateLimiter::waiting, "Threads that wait at this moment.");
  module.def(
      "read_ahead",
      [](int fd, uint64_t offset, uint64_t length, RateLimiter& limiter) {
        WithoutGil([&] { ReadAhead(fd, offset, length, &limiter); });
      },
      py::arg("fd"), py::arg("offset"), py::arg("length"), py::arg("limiter"),
      "Charges a piece of a file to `limiter`; under a limit the piece is on its way into the page cache then, "
      "evenly.");
  module.def(
      "write_back",
      [](int fd, uint64_t offset, uint64_t length) { WithoutGil([&] { WriteBack(fd, offset, length); }); },
      py::arg("fd"), py::arg("offset"), py::arg("length"),
      "Has the disk begin with a piece of a file that was written, best of 1 MiB, and waits while more than 4 MiB of "
      "the file are on their way.");
  module.def(
      "core_cpu_seconds", [] { return std::chrono::duration<double>(CoreCpuTime()).count(); },
      "CPU time that this process has spent in the core, without the GIL, summed over its threads.");
}

}  // namespace kvbatch::bind
