// APPLYBATCH: how a Kvrocks server takes a batch, as one command of the Redis protocol (RESP).
//
//   command := "*2" CRLF "$10" CRLF "APPLYBATCH" CRLF "$" length CRLF batch CRLF
//   batch   := as batch_format.h; a log record, which no count knows of, may stand before the others
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "base/status.h"
#include "frame/frame.h"
#include "store/element_types.h"
#include "wire/connection.h"

namespace kvbatch {

// What was sent.
struct SentBatch {
  uint64_t length = 0;  // of the batch, log record included: what the server answers
  uint32_t entries = 0;
  uint64_t raw_bytes = 0;  // keys and values
  std::string last_key;
};

// Sends the batch in `frame`, without copying it unless log records stand in its middle: `log_data` before the first of
// its records, unless that is empty, or, with `types`, what they say before each that is of another type than the one
// before it. The batch is validated before its first byte leaves: a server that gets a malformed one takes no write any
// more. kCorruption, and nothing sent, for one that holds anything but plain values of `column_families`; kTransport as
// Connection::Send; kSource.
Result<SentBatch> SendApplyBatch(Connection* connection, Frame* frame, std::string_view log_data,
                                 const std::set<uint32_t>& column_families, ElementTypes* types = nullptr);

}  // namespace kvbatch
