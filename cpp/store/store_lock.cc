#include "store/store_lock.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>

namespace kvbatch {

namespace {

using FileId = std::pair<dev_t, ino_t>;

std::mutex registry_mutex;
std::map<FileId, std::weak_ptr<StoreLock>>& Registry() {
  static auto* registry = new std::map<FileId, std::weak_ptr<StoreLock>>();
  return *registry;
}

// What stands in the store was left as it is, whoever asked: a source, a target, or a store to compare.
Status InUse(const std::string& path, const std::string& who_does_what, const std::string& way_out) {
  return Status(Code::kRefused, path + " is in use: " + who_does_what + ". It was left as it is; " + way_out +
                                    ", then run the same command again");
}

std::string Process(pid_t pid) { return "process " + std::to_string(pid); }

Status HeldByWriter(const std::string& path, pid_t pid) {
  const bool own = pid == ::getpid();
  const std::string who = own ? "this process" : pid > 0 ? Process(pid) : "another process";
  return InUse(path, who + " has it open for writing (its LOCK is held)",
               own ? "wait until it is closed" : "stop that process");
}

// The pid of a process with an exclusive lock on the file, 0 if none is listed. /proc/locks is asked first because
// closing any descriptor of a file drops this process's own locks on it: the file must not even be opened while a
// RocksDB in this process has the store open.
//
// The list names the device of the file system. Where stat(2) tells another one, by kinds of file systems that are
// known for it, the number of the file alone decides: better refused once too often.
pid_t WriterListedInProc(const std::string& path, const struct stat& information) {
  struct statfs system{};
  const bool own_devices = ::statfs(path.c_str(), &system) == 0 &&
                           (system.f_type == BTRFS_SUPER_MAGIC || system.f_type == OVERLAYFS_SUPER_MAGIC);
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    std::istringstream fields(line);
    std::string number, kind, mode, access, pid, file;
    fields >> number >> kind >> mode >> access >> pid >> file;
    unsigned major = 0;
    unsigned minor = 0;
    unsigned long long inode = 0;
    if (kind == "POSIX" && access == "WRITE" && std::sscanf(file.c_str(), "%x:%x:%llu", &major, &minor, &inode) == 3 &&
        inode == information.st_ino && (own_devices || ::makedev(major, minor) == information.st_dev)) {
      return static_cast<pid_t>(std::strtol(pid.c_str(), nullptr, 10));
    }
  }
  return 0;
}

bool InformationOf(const std::string& file, struct stat* information) { return ::stat(file.c_str(), information) == 0; }

}  // namespace

Status StoreLock::CheckFree(const std::string& path) {
  const std::string file = path + "/LOCK";
  struct stat information{};
  if (!InformationOf(file, &information)) {
    return Status::Ok();
  }
  const std::lock_guard guard(registry_mutex);
  if (const auto known = Registry().find({information.st_dev, information.st_ino});
      known != Registry().end() && !known->second.expired()) {
    return InUse(path, "this process is reading it", "wait until it is done");
  }
  if (const pid_t writer = WriterListedInProc(path, information); writer > 0) {
    return HeldByWriter(path, writer);
  }
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  struct flock probe{};
  probe.l_type = F_WRLCK;
  probe.l_whence = SEEK_SET;
  if (fd.valid() && ::fcntl(fd.get(), F_GETLK, &probe) == 0 && probe.l_type != F_UNLCK) {
    return probe.l_type == F_WRLCK ? HeldByWriter(path, probe.l_pid)
                                   : InUse(path, Process(probe.l_pid) + " is reading it", "wait until it is done");
  }
  return Status::Ok();
}

Result<std::shared_ptr<StoreLock>> StoreLock::Acquire(const std::string& path) {
  const std::string file = path + "/LOCK";
  struct stat information{};
  if (!InformationOf(file, &information)) {
    return std::make_shared<StoreLock>(UniqueFd());
  }
  const std::lock_guard guard(registry_mutex);
  const FileId id{information.st_dev, information.st_ino};
  auto& known = Registry()[id];
  if (auto held = known.lock()) {
    return held;
  }
  if (const pid_t writer = WriterListedInProc(path, information); writer == ::getpid()) {
    return HeldByWriter(path, writer);
  }
  UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    if (const pid_t writer = WriterListedInProc(path, information); writer > 0) {
      return HeldByWriter(path, writer);
    }
    return std::make_shared<StoreLock>(UniqueFd());
  }
  struct flock lock{};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_SETLK, &lock) != 0 && (errno == EACCES || errno == EAGAIN)) {
    struct flock probe{};
    probe.l_type = F_RDLCK;
    probe.l_whence = SEEK_SET;
    const bool told = ::fcntl(fd.get(), F_GETLK, &probe) == 0 && probe.l_type != F_UNLCK;
    return HeldByWriter(path, told ? probe.l_pid : 0);
  }
  auto held = std::make_shared<StoreLock>(std::move(fd));
  known = held;
  return held;
}

}  // namespace kvbatch
