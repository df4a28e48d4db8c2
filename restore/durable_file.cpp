#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>

#include "restore/image_store.h"
#include "restore/store_files.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/scope_exit.h"

namespace supervise {

std::string parent_of(const std::string& path) {
  auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string name_of(const std::string& path) {
  auto slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

std::string temp_name_for(const std::string& path) {
  static std::atomic<unsigned> count{0};
  char host[65] = {};
  gethostname(host, sizeof host - 1);
  for (char& c : host) {
    if (c == '/') c = '_';
  }
  return fmt::format("{}/.{}.{}-{}-{}.tmp", parent_of(path), name_of(path), host, getpid(), ++count);
}

Status write_all(int fd, const std::string& content, const std::string& path) {
  std::size_t done = 0;
  while (done < content.size()) {
    ssize_t n = write(fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error(fmt::format("write {}", path));
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Status sync_dir(const std::string& dir) {
  UniqueFd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_error(fmt::format("open directory {}", dir));
  if (fsync(fd.get()) != 0) return errno_error(fmt::format("fsync directory {}", dir));
  return {};
}

Result<std::string> write_temp_file(const std::string& path, const std::string& content, bool durable) {
  std::string temp = temp_name_for(path);
  UniqueFd fd(open(temp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd && errno == EEXIST && unlink(temp.c_str()) == 0) {  // of an earlier process with our PID
    fd.reset(open(temp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  }
  if (!fd) return errno_error(fmt::format("create {}", temp));
  ScopeExit remove([&] { unlink(temp.c_str()); });
  RETURN_IF_ERROR(write_all(fd.get(), content, path));
  if (durable && fsync(fd.get()) != 0) return errno_error(fmt::format("fsync {}", path));
  // NFS reports a failed write at close.
  if (close(fd.release()) != 0) return errno_error(fmt::format("close {}", path));
  remove.dismiss();
  return temp;
}

Status write_file_durably(const std::string& path, const std::string& content) {
  ASSIGN_OR_RETURN(std::string temp, write_temp_file(path, content, true));
  ScopeExit remove([&] { unlink(temp.c_str()); });
  RETURN_IF_ERROR(fault_point("file.written"));
  if (rename(temp.c_str(), path.c_str()) != 0) return errno_error(fmt::format("rename to {}", path));
  remove.dismiss();
  RETURN_IF_ERROR(fault_point("file.renamed"));
  return sync_dir(parent_of(path));
}

Status replace_file(const std::string& path, const std::string& content) {
  ASSIGN_OR_RETURN(std::string temp, write_temp_file(path, content, false));
  if (rename(temp.c_str(), path.c_str()) == 0) return {};
  auto error = errno_error(fmt::format("rename to {}", path));
  unlink(temp.c_str());
  return error;
}

Result<std::string> read_small_file(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return errno_error(fmt::format("open {}", path));
  constexpr std::size_t kLimit = 64 << 20;
  std::string out;
  char buffer[1 << 14];
  for (;;) {
    ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error(fmt::format("read {}", path));
    if (n == 0) return out;
    out.append(buffer, static_cast<std::size_t>(n));
    if (out.size() > kLimit) return errno_error(EFBIG, fmt::format("{} is larger than 64 MiB", path));
  }
}

Result<std::optional<std::string>> read_file_if_there(const std::string& path) {
  auto text = read_small_file(path);
  if (text) return std::optional<std::string>(text.take());
  if (text.error().err == ENOENT) return std::optional<std::string>();
  return text.error();
}

}  // namespace supervise
