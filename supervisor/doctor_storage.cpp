#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "supervisor/standby_link.h"
#include "supervisor/base/scope_exit.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/base/worker.h"
#include "supervisor/doctor.h"

namespace supervise {
namespace {

constexpr Millis kLimit{15000};

struct Place {
  std::string device;  // "8:1"
  std::string type;    // "ext4"
  std::string source;  // "/dev/sdb1"
};

// The mount that a directory is on (proc(5), fdinfo and mountinfo).
Result<Place> place_of(const std::string& dir) {
  const UniqueFd fd(::open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  struct stat st {};
  if (!fd || ::fstat(fd.get(), &st) != 0) return errno_error("open " + dir);
  std::string id;
  std::ifstream fdinfo(fmt::format("/proc/self/fdinfo/{}", fd.get()));
  for (std::string line; std::getline(fdinfo, line);)
    if (line.starts_with("mnt_id:")) id = line.substr(line.find_first_not_of(" \t", 7));
  Place place{fmt::format("{}", st.st_dev), "?", "?"};
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string mount_id, parent;
    words >> mount_id >> parent >> place.device;
    if (mount_id != id) continue;
    const auto dash = line.find(" - ");
    std::istringstream rest(line.substr(dash + 3));
    rest >> place.type >> place.source;
    return place;
  }
  place.device = fmt::format("{}", st.st_dev);
  return place;
}

// Opens, writes, fsyncs (three times, the median counts), reads back, links, renames, removes.
Result<std::string> try_directory(const std::string& dir) {
  ASSIGN_OR_RETURN(const auto place, place_of(dir));
  std::string file = dir + "/.supervise-doctor-XXXXXX";
  const UniqueFd fd(::mkostemp(file.data(), O_CLOEXEC));
  if (!fd) return errno_error("create a file in " + dir);
  const auto other = file + "-2";
  const ScopeExit remove([&] {
    ::unlink(file.c_str());
    ::unlink(other.c_str());
  });
  const std::string block(4096, 'd');
  std::vector<double> times;
  for (int i = 0; i < 3; ++i) {
    if (::pwrite(fd.get(), block.data(), block.size(), i * 4096) != 4096)
      return errno_error("write to " + file);
    const auto start = Clock::now();
    if (::fsync(fd.get()) != 0) return errno_error("fsync " + file);
    times.push_back(ms_between(start, Clock::now()));
  }
  std::sort(times.begin(), times.end());
  std::string back(block.size(), '\0');
  if (::pread(fd.get(), back.data(), back.size(), 0) != 4096 || back != block)
    return plain_error("what was written to " + file + " is not what is read");
  if (::link(file.c_str(), other.c_str()) != 0) return errno_error("link(2) in " + dir);
  if (::rename(other.c_str(), file.c_str()) != 0) return errno_error("rename in " + dir);
  struct statvfs space {};
  if (::statvfs(dir.c_str(), &space) != 0) return errno_error("statvfs " + dir);
  return fmt::format("{} on {} ({}), fsync {:.2f} ms, {:.1f} GiB free", place.type, place.source,
                     place.device, times[1],
                     static_cast<double>(space.f_bavail) * static_cast<double>(space.f_frsize) /
                         (1 << 30));
}

Result<std::string> try_pair(const std::string& a, const std::string& b) {
  struct stat first {}, second {};
  if (::stat(a.c_str(), &first) != 0) return errno_error("stat " + a);
  if (::stat(b.c_str(), &second) != 0) return errno_error("stat " + b);
  if (first.st_dev == second.st_dev)
    return plain_error(fmt::format("{} and {} are one file system", a, b));
  ASSIGN_OR_RETURN(const auto one, place_of(a));
  ASSIGN_OR_RETURN(const auto two, place_of(b));
  if (one.source == two.source && one.source.starts_with("/dev/"))
    return plain_error(fmt::format("{} and {} are on one device, {}", a, b, one.source));
  return fmt::format("{} ({}) and {} ({}) are two file systems", a, one.source, b, two.source);
}

Result<std::string> try_standby(const std::string& standby, const std::string& tls_dir) {
  ASSIGN_OR_RETURN(const auto target, ship_target({standby, tls_dir, "", ""}));
  auto stream = TlsStream::connect(target.tls, target.where, Deadline::in(Millis(5000)));
  if (!stream) return stream.error();
  return fmt::format("{} answers, each trusts the other", stream->peer());
}

Probe skipped(const std::string& name, Need need, const std::string& why) {
  return {name, need, Verdict::Skipped, why, {}, 0};
}

}  // namespace

void probe_storage(const DoctorOptions& options, const ProbeSink& sink) {
  for (const auto& path : options.paths) {
    for (std::size_t i = 0; i < path.dirs.size(); ++i) {
      const auto& dir = path.dirs[i];
      sink(run_probe(fmt::format("path.{}.{}", path.name, i + 1), Need::Paths,
                     fmt::format("mount it, or correct --path {}=...; it must be a directory that this "
                                 "user may write to",
                                 path.name),
                     kLimit, [&] { return try_directory(dir); }));
      if (i == 0) continue;
      sink(run_probe(fmt::format("path.{}.pair{}", path.name, i + 1), Need::Paths,
                     "give another way to the same storage, with a mount and a device of its own; for "
                     "file systems that allow one mount only see --path-up",
                     kLimit, [&] { return try_pair(path.dirs[0], dir); }));
    }
    if (path.dirs.size() == 1)
      sink(skipped(fmt::format("path.{}.pair", path.name), Need::Extra,
                   "one directory: after a failure only a hand-over is left"));
  }
  if (options.paths.empty()) sink(skipped("path", Need::Extra, "no --path NAME=FIRST,SECOND was given"));

  const auto images = options.images_dir.empty() ? default_images_dir() : options.images_dir;
  sink(run_probe("images", Need::Handover,
                 "choose a directory that this user may write to with --images DIR", kLimit, [&] {
                   std::error_code error;
                   const bool there = std::filesystem::exists(images, error);
                   if (!there && options.images_dir.empty()) {
                     auto parent = std::filesystem::path(images);
                     while (!std::filesystem::exists(parent, error)) parent = parent.parent_path();
                     auto tried = try_directory(parent.string());
                     return tried ? Result<std::string>(fmt::format("{} is made when needed; {}", images,
                                                                    tried.value()))
                                  : tried;
                   }
                   return try_directory(images);
                 }));
  if (options.standby.empty())
    return sink(skipped("standby", Need::Extra, "no --standby was given"));
  if (!options.standby.starts_with("dir:"))
    return sink(run_probe("standby", Need::Handover,
                          "start `supervise standby --listen` there, open the port, and give both hosts certificates of "
                          "one authority (`supervise keys`)", kLimit,
                          [&] { return try_standby(options.standby, options.tls_dir); }));
  const auto standby = options.standby.substr(options.standby.find(':') + 1);
  sink(run_probe("standby", Need::Handover,
                 "mount the shared storage there; it must allow link(2), rename(2) and fsync(2)", kLimit,
                 [&] { return try_directory(standby); }));
}

}  // namespace supervise
