// What the C++ tests share: temporary directories, matchers for Status and Result, random bytes, guarded memory.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <ostream>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include "base/status.h"
#include "frame/frame.h"
#include "store/cursor.h"

namespace kvbatch {

// Statuses in the messages of failed expectations.
inline void PrintTo(const Status& status, std::ostream* out) {
  *out << "code " << static_cast<int>(status.code()) << ": " << status.message();
}

template <typename T>
void PrintTo(const Result<T>& result, std::ostream* out) {
  PrintTo(result.status(), out);
}

inline void PrintTo(Code code, std::ostream* out) { *out << "code " << static_cast<int>(code); }

inline void PrintTo(const Cursor& cursor, std::ostream* out) {
  *out << "range " << cursor.range << (cursor.complete ? ", complete, " : ", ") << cursor.entries << " entries, "
       << cursor.raw_bytes << " bytes, digest " << cursor.digest.Hex() << ", last key \"" << cursor.last_key << '"';
}

}  // namespace kvbatch

namespace kvbatch::testing {

inline Status StatusOf(const Status& status) { return status; }

template <typename T>
Status StatusOf(const Result<T>& result) {
  return result.status();
}

// EXPECT_THAT(status or result, IsOk())
MATCHER(IsOk, "is ok") { return StatusOf(arg).ok(); }

// EXPECT_THAT(status or result, Fails(Code::kCorruption)), Fails(Code::kCorruption, "part of the message")
MATCHER_P2(FailsWith, code, text,
           "fails with code " + std::to_string(static_cast<int>(code)) + " and says \"" + std::string(text) + "\"") {
  const Status status = StatusOf(arg);
  return status.code() == code && status.message().find(text) != std::string::npos;
}

inline auto Fails(Code code, std::string text = "") { return FailsWith(code, std::move(text)); }

// The value of a result that must be there; a test without it ends.
template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) {
    throw std::runtime_error("code " + std::to_string(static_cast<int>(result.status().code())) + ": " +
                             result.status().message());
  }
  return result.Take();
}

// A directory of its own, removed with everything in it.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "kvbatch-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      throw std::runtime_error("no temporary directory: " + pattern);
    }
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string operator/(std::string_view name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// For what must not crash: the body runs in a process of its own and has to come to its end without a failure.
// The body makes what it needs: nothing around it is cleaned up there. In TEST, not in TEST_F.
#define EXPECT_SURVIVES(body)                                                                                     \
  do {                                                                                                            \
    GTEST_FLAG_SET(death_test_style, "threadsafe");                                                               \
    EXPECT_EXIT({ {body} std::_Exit(::testing::Test::HasFailure() ? 1 : 0); }, ::testing::ExitedWithCode(0), ""); \
  } while (false)

using Random = std::mt19937_64;

// A number in [0, limit).
inline size_t Below(Random& random, size_t limit) { return static_cast<size_t>(random() % limit); }

inline std::string RandomBytes(Random& random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) {
    byte = static_cast<char>(random());
  }
  return bytes;
}

// Text that compressors shrink well.
inline std::string Repetitive(size_t size) {
  constexpr std::string_view kText = "the quick brown fox jumps over the lazy dog; ";
  std::string text;
  text.reserve(size + kText.size());
  while (text.size() < size) {
    text += kText;
  }
  text.resize(size);
  return text;
}

inline std::string FromHex(std::string_view hex) {
  std::string bytes;
  std::string digits;
  for (const char digit : hex) {
    if (digit != ' ') {
      digits += digit;
    }
  }
  for (size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

inline std::string ToHex(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char byte : bytes) {
    hex += kDigits[(byte >> 4) & 15];
    hex += kDigits[byte & 15];
  }
  return hex;
}

// Memory that ends at a page nobody may touch: a read past the end of Place()'s result ends the process.
class GuardedMemory {
 public:
  explicit GuardedMemory(size_t capacity) {
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    usable_ = (capacity + page - 1) / page * page;
    whole_ = usable_ + page;
    void* memory = ::mmap(nullptr, whole_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || ::mprotect(static_cast<char*>(memory) + usable_, page, PROT_NONE) != 0) {
      throw std::runtime_error("no guarded memory");
    }
    begin_ = static_cast<char*>(memory);
  }
  ~GuardedMemory() { ::munmap(begin_, whole_); }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  // The last `size` bytes before the guard.
  char* Tail(size_t size) { return begin_ + usable_ - size; }
  std::string_view Place(std::string_view bytes) {
    char* out = Tail(bytes.size());
    if (!bytes.empty()) {
      std::memcpy(out, bytes.data(), bytes.size());
    }
    return {out, bytes.size()};
  }

 private:
  char* begin_ = nullptr;
  size_t usable_ = 0;
  size_t whole_ = 0;
};

// Waits until `condition` holds; false when it does not within ten seconds.
template <typename Condition>
bool Eventually(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

// A frame that holds `raw` as a sender would send it.
inline Frame FrameOf(const std::shared_ptr<BufferPool>& pool, std::string_view raw, uint32_t entries,
                     Codec codec = Codec::kNone) {
  Frame frame(pool);
  if (Status status = frame.Reserve(raw.size(), codec); !status.ok()) {
    throw std::runtime_error(status.message());
  }
  if (!raw.empty()) {
    std::memcpy(frame.raw(), raw.data(), raw.size());
  }
  frame.SetRaw(raw.size(), entries);
  frame.Compress(codec);
  return frame;
}

}  // namespace kvbatch::testing
