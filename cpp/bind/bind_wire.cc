#include "bind/convert.h"
#include "wire/connection.h"
#include "wire/frames_in_flight.h"

namespace kvbatch::bind {

void RegisterWire(py::module_& module) {
  py::class_<Connection>(module, "Connection",
                         "Frames over a connected stream socket. Threads may send while another receives. "
                         "Every failure raises TransportError, ProtocolError, CorruptionError or ClosedError, and "
                         "ends the connection's use.")
      .def(py::init([](int fd, Text peer, const FrameLimits& limits) {
             return std::make_unique<Connection>(UniqueFd(fd), std::move(peer.value), limits);
           }),
           py::arg("fd"), py::arg("peer"), py::arg("limits") = FrameLimits(),
           "Takes ownership of the blocking socket `fd` (socket.detach()); `peer` names it in messages.")
      .def("set_route", &Connection::SetRoute, py::arg("job"), py::arg("stream"), py::arg("range"),
           "What the data frames sent from now on belong to: job (xxh3_64 of its id), stream and range.")
      .def("set_rate_limiter", &Connection::SetRateLimiter, py::arg("limiter"),
           "What is sent from now on waits for it, piece by piece; for the thread that sends.")
      .def(
          "send", [](Connection& connection, Frame& frame) { Run([&] { return connection.Send(&frame); }); },
          py::arg("frame"))
      .def(
          "send_control",
          [](Connection& connection, FrameType type, const Bytes& payload, uint32_t stream, uint32_t range) {
            Run([&] { return connection.SendControl(type, stream, range, payload.value); });
          },
          py::arg("type"), py::arg("payload") = Bytes{}, py::arg("stream") = 0, py::arg("range") = 0)
      .def(
          "try_send_control",
          [](Connection& connection, FrameType type, uint32_t stream) {
            return Get([&] { return connection.TrySendControl(type, stream); });
          },
          py::arg("type"), py::arg("stream") = 0,
          "Sends an empty control frame if that need not wait, for any thread; whether it was sent.")
      .def(
          "receive", [](Connection& connection, Frame& frame) { Run([&] { return connection.Receive(&frame); }); },
          py::arg("frame"), "Waits for the next frame; ClosedError when the peer is done.")
      .def(
          "send_file",
          [](Connection& connection, int fd, uint64_t offset, uint64_t length, const Text& file) {
            return Get([&] { return connection.SendFile(fd, offset, length, file.value); });
          },
          py::arg("fd"), py::arg("offset"), py::arg("length"), py::arg("file"),
          "Sends a piece of a file as one FILE frame, by sendfile; its crc32c. SourceError, naming `file`, when it "
          "cannot be read.")
      .def(
          "receive_file",
          [](Connection& connection, int fd, uint64_t offset, const Text& file) {
            return Get([&] { return connection.ReceiveFile(fd, offset, file.value); });
          },
          py::arg("fd"), py::arg("offset"), py::arg("file"),
          "Takes the payload of the FILE frame that `receive` has just told of into a file; its crc32c. "
          "TargetError or NoSpaceError when it cannot be written.")
      .def(
          "wait_readable",
          [](Connection& connection, int timeout_ms) {
            return Get([&] { return connection.WaitReadable(timeout_ms); });
          },
          py::arg("timeout_ms"), "Whether bytes, or the end, are there within `timeout_ms` (-1: wait forever).")
      .def(
          "set_timeout",
          [](Connection& connection, int64_t milliseconds) {
            Run([&] { return connection.SetTimeout(milliseconds); });
          },
          py::arg("milliseconds"), "No progress for this long is a broken connection; 0 waits forever.")
      .def("set_limits", &Connection::SetLimits, py::arg("limits"),
           "What `receive` accepts from now on; for the thread that receives.")
      .def("shutdown", &Connection::Shutdown, "Ends both directions; calls blocked in other threads return.")
      .def_property_readonly(
          "unheard_seconds",
          [](const Connection& connection) { return static_cast<double>(connection.UnheardMilliseconds()) / 1e3; },
          "Seconds since the peer's system acknowledged or sent anything; 0 where the kernel does not say.")
      .def(
          "linger",
          [](Connection& connection, int64_t milliseconds) {
            Run([&] {
              connection.Linger(milliseconds);
              return Status::Ok();
            });
          },
          py::arg("milliseconds"),
          "Sends no more and drops what the peer has under way until it closes, for `milliseconds` at most: what was "
          "sent last arrives.")
      .def_property_readonly("peer", [](const Connection& connection) { return Text{connection.peer()}; })
      .def_property_readonly("pending_file_bytes", &Connection::pending_file_bytes,
                             "Of the FILE frame that `receive` has just told of; 0 when there is none.")
      .def_property_readonly(
          "send_seconds",
          [](const Connection& connection) { return std::chrono::duration<double>(connection.send_time()).count(); },
          "Inside the calls that send: waiting for the link, once the socket's buffer is full.")
      .def_property_readonly("unread_bytes", &Connection::UnreadBytes, "What has arrived and was not received yet.")
      .def_property_readonly("bytes_sent", &Connection::bytes_sent)
      .def_property_readonly("bytes_received", &Connection::bytes_received)
      .def_property_readonly("frames_sent", &Connection::frames_sent);

  py::class_<FramesInFlight>(module, "FramesInFlight",
                             "The data frames of a connection that no ack spoke for yet; for the thread that sends.")
      .def(py::init())
      .def(
          "add",
          [](FramesInFlight& in_flight, const Bytes& digest, uint64_t raw_bytes) {
            in_flight.Add(ParseDigest(digest), raw_bytes);
          },
          py::arg("digest"), py::arg("raw_bytes"), "A frame has just left; `digest` is the running digest behind it.")
      .def(
          "take",
          [](FramesInFlight& in_flight, size_t frames) {
            const auto taken = in_flight.Take(frames);
            if (!taken) {
              throw py::value_error(std::to_string(frames) + " frames where " + std::to_string(in_flight.frames()) +
                                    " are in flight");
            }
            return std::tuple(DigestBytes(taken->digest), taken->raw_bytes, taken->age.count());
          },
          py::arg("frames"),
          "Takes the oldest `frames`, one at least: the running digest behind the last of them, the raw bytes of all, "
          "the seconds since the last had left. ValueError where not so many are in flight.")
      .def_property_readonly("frames", &FramesInFlight::frames)
      .def_property_readonly("raw_bytes", &FramesInFlight::raw_bytes, "As they were added.");
}

}  // namespace kvbatch::bind
