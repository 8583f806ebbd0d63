#include "base/file_checksum.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <string>

#include "base/checksum.h"

namespace kvbatch {

namespace {

constexpr uint64_t kMostMapped = uint64_t{64} << 20;

// A file that is cut, or a disk that fails, while its mapping is read is a SIGBUS. It must end one read, not a process
// that has more to do, so the handler jumps back to the reader that is under way in its thread; any other SIGBUS goes
// to who was there before.
thread_local sigjmp_buf* reader_under_way = nullptr;
struct sigaction handler_before;

void OnBusError(int number, siginfo_t* info, void* context) {
  if (reader_under_way != nullptr) {
    siglongjmp(*reader_under_way, 1);
  }
  if ((handler_before.sa_flags & SA_SIGINFO) != 0) {
    handler_before.sa_sigaction(number, info, context);
  } else if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN) {
    handler_before.sa_handler(number);
  } else {
    ::signal(number, SIG_DFL);  // the faulting instruction runs again and ends the process as it would have
  }
}

void HandleBusErrors() {
  static const bool handled = [] {
    struct sigaction action{};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO;
    ::sigemptyset(&action.sa_mask);
    return ::sigaction(SIGBUS, &action, &handler_before) == 0;
  }();
  (void)handled;
}

// False when the bytes could not be read. No object with a destructor may live in here: a jump skips it.
bool GuardedCrc32c(const char* data, size_t size, uint32_t* crc) {
  sigjmp_buf back;
  if (sigsetjmp(back, /*savesigs=*/1) != 0) {
    reader_under_way = nullptr;
    return false;
  }
  reader_under_way = &back;
  *crc = Crc32c({data, size}, *crc);
  reader_under_way = nullptr;
  return true;
}

}  // namespace

Result<uint32_t> FileCrc32c(int fd, uint64_t offset, uint64_t length, Code code, std::string_view what) {
  HandleBusErrors();
  static const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  uint32_t crc = 0;
  while (length > 0) {
    struct stat file{};
    if (::fstat(fd, &file) != 0) {
      return FromErrno(code, what, errno);
    }
    const uint64_t before = offset % page;
    const uint64_t part = std::min(length, kMostMapped);
    if (offset + part > static_cast<uint64_t>(file.st_size)) {
      return Status(code, std::string(what) + ": the file ends at byte " + std::to_string(file.st_size) +
                              ", before byte " + std::to_string(offset + part));
    }
    void* const mapped =
        ::mmap(nullptr, before + part, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(offset - before));
    if (mapped == MAP_FAILED) {
      return FromErrno(code, what, errno);
    }
    const bool read = GuardedCrc32c(static_cast<const char*>(mapped) + before, part, &crc);
    ::munmap(mapped, before + part);
    if (!read) {
      return Status(code, std::string(what) + ": the file was cut while it was read, or its disk failed");
    }
    offset += part;
    length -= part;
  }
  return crc;
}

}  // namespace kvbatch
