#include "supervisor/world_mounts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <sstream>

#include "supervisor/base/worker.h"
#include "supervisor/world_wire.h"

namespace supervise {
namespace {

// A directory of the world's own /proc on which nothing of the host is mounted: nested places wait
// there, on a tmpfs, while the outer place is changed.
constexpr const char* kWaitingRoom = "/proc/fs";

std::string unescape(const std::string& field) {
  std::string out;
  for (std::size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size()) {
      out += static_cast<char>(std::stoi(field.substr(i + 1, 3), nullptr, 8));
      i += 3;
    } else {
      out += field[i];
    }
  }
  return out;
}

Result<std::string> read_all(int fd, const std::string& what) {
  std::string text;
  std::array<char, 16384> chunk;
  if (lseek(fd, 0, SEEK_SET) < 0) return errno_error("rewind " + what);
  for (;;) {
    ssize_t n = read(fd, chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read " + what);
    if (n == 0) return text;
    text.append(chunk.data(), static_cast<std::size_t>(n));
  }
}

Status make_directories(const std::string& path, std::vector<std::string>& made) {
  for (std::size_t at = 1; at <= path.size(); ++at) {
    if (at != path.size() && path[at] != '/') continue;
    std::string part = path.substr(0, at);
    if (mkdir(part.c_str(), 0755) == 0) {
      made.push_back(part);
    } else if (errno != EEXIST) {
      struct stat st {};
      int err = errno;
      if (stat(part.c_str(), &st) != 0) return errno_error(err, "make directory " + part);
    }
  }
  return {};
}

struct Nested {
  std::string real;
  int root = -1;
};

struct BindJob {
  pid_t init_pid = 0;
  std::string place;
  std::string real;  // empty: the first bind
  std::string source;
  std::vector<Nested> nested;             // places below this one, outer ones first
  std::vector<std::string> other_places;  // real names of all other places
};

// Runs in the worker.
class Binder {
 public:
  explicit Binder(const BindJob& job) : job_(job), real_(job.real) {}

  Result<WorkerOutput> run() {
    RETURN_IF_ERROR(capture());
    RETURN_IF_ERROR(enter());
    if (real_.empty()) RETURN_IF_ERROR(find_place());
    std::string former;
    ASSIGN_OR_RETURN(former, device_at(real_));
    RETURN_IF_ERROR(let_nested_wait());
    Status changed = exchange();
    Status back = bring_nested_back();
    if (waiting_) umount2(kWaitingRoom, MNT_DETACH);
    RETURN_IF_ERROR(changed);
    RETURN_IF_ERROR(back);
    std::vector<std::string> warnings;
    if (!job_.real.empty() && !former.empty()) {
      if (auto busy = detach_others(former); !busy) warnings.push_back(busy.error().message());
    }
    WireWriter w;
    w.string(real_);
    w.strings(made_);
    w.strings(warnings);
    return WorkerOutput{w.take(), {tree_.release()}};
  }

 private:
  Status capture() {
    tree_.reset(open_tree(AT_FDCWD, job_.source.c_str(),
                          OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
    if (!tree_) return errno_error("open_tree " + job_.source);
    struct stat st {};
    if (fstat(tree_.get(), &st) != 0) return errno_error("stat " + job_.source);
    if (!S_ISDIR(st.st_mode)) return errno_error(ENOTDIR, job_.source);
    mount_attr attr{};
    attr.propagation = MS_PRIVATE;
    if (mount_setattr(tree_.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attr,
                sizeof attr) != 0)
      return errno_error("make the mounts of " + job_.source + " private");
    return {};
  }

  Status enter() {
    auto file = [&](const char* name) { return fmt::format("/proc/{}/{}", job_.init_pid, name); };
    table_.reset(open(file("mountinfo").c_str(), O_RDONLY | O_CLOEXEC));
    UniqueFd ns(open(file("ns/mnt").c_str(), O_RDONLY | O_CLOEXEC));
    UniqueFd root(open(file("root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!table_ || !ns || !root) return errno_error("open the world of " + file(""));
    if (setns(ns.get(), CLONE_NEWNS) != 0) return errno_error("enter the world's mount namespace");
    if (fchdir(root.get()) != 0 || chroot(".") != 0) return errno_error("enter the world's root");
    return {};
  }

  Status find_place() {
    RETURN_IF_ERROR(make_directories(job_.place, made_));
    char buffer[PATH_MAX];
    if (!realpath(job_.place.c_str(), buffer)) return errno_error("resolve " + job_.place);
    real_ = buffer;
    if (real_ == "/") return errno_error(EINVAL, "the root directory can't be a storage path");
    return {};
  }

  Result<std::vector<MountEntry>> mounts() {
    std::string text;
    ASSIGN_OR_RETURN(text, read_all(table_.get(), "the world's mountinfo"));
    return parse_mountinfo(text);
  }

  // Of the mount on top there; empty when the place is no mount point.
  Result<std::string> device_at(const std::string& place) {
    std::vector<MountEntry> entries;
    ASSIGN_OR_RETURN(entries, mounts());
    std::string device;
    for (const auto& entry : entries) {
      if (entry.place == place) device = entry.device;
    }
    return device;
  }

  static std::string waiting_place(std::size_t i) { return fmt::format("{}/{}", kWaitingRoom, i); }

  Status let_nested_wait() {
    if (job_.nested.empty()) return {};
    if (mount("tmpfs", kWaitingRoom, "tmpfs", 0, "size=64k,mode=700") != 0)
      return errno_error(fmt::format("mount a tmpfs at the world's {}", kWaitingRoom));
    waiting_ = true;
    // Inner ones first: each is moved without what is mounted in it.
    for (std::size_t i = job_.nested.size(); i-- > 0;) {
      std::string place = waiting_place(i);
      if (mkdir(place.c_str(), 0700) != 0) return errno_error("mkdir " + place);
      if (move_mount(job_.nested[i].root, "", AT_FDCWD, place.c_str(),
                  MOVE_MOUNT_F_EMPTY_PATH) != 0)
        return errno_error("put the mount at " + job_.nested[i].real + " aside");
      moved_.insert(i);
    }
    return {};
  }

  Status exchange() {
    for (;;) {
      std::string device;
      ASSIGN_OR_RETURN(device, device_at(real_));
      if (device.empty()) break;
      if (umount2(real_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
        return errno_error("detach the mount at " + real_);
    }
    if (move_mount(tree_.get(), "", AT_FDCWD, real_.c_str(),
                MOVE_MOUNT_F_EMPTY_PATH) != 0)
      return errno_error(fmt::format("attach {} at {}", job_.source, real_));
    return {};
  }

  Status bring_nested_back() {
    Status first_problem;
    for (std::size_t i : moved_) {  // outer ones first
      const auto& nested = job_.nested[i];
      Status made = make_directories(nested.real, made_);
      // What the new tree itself has mounted there gives way to the place.
      for (auto device = device_at(nested.real); device.ok() && !device->empty();
           device = device_at(nested.real)) {
        if (umount2(nested.real.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0) break;
      }
      if (made && move_mount(nested.root, "", AT_FDCWD, nested.real.c_str(),
                          MOVE_MOUNT_F_EMPTY_PATH) != 0)
        made = errno_error("put the mount back at " + nested.real);
      if (!made && first_problem) first_problem = made;
    }
    return first_problem;
  }

  // Other mounts of the former file system in the world would keep it busy.
  Status detach_others(const std::string& former) {
    for (;;) {
      std::vector<MountEntry> entries;
      ASSIGN_OR_RETURN(entries, mounts());
      if (still_needed(former, entries)) return {};
      auto other = std::find_if(entries.rbegin(), entries.rend(),
                                [&](const MountEntry& e) { return e.device == former; });
      if (other == entries.rend()) return {};
      bool covered = std::any_of(entries.begin(), entries.end(), [&](const MountEntry& e) {
        return e.place == other->place && e.parent == other->id;
      });
      if (covered)
        return errno_error(EBUSY, fmt::format("the former file system is also mounted at {}, under "
                                              "another mount, and stays busy there", other->place));
      std::vector<std::string> held;  // mounts of others that stand on this one
      for (const auto& entry : entries)
        if (entry.parent == other->id) held.push_back(entry.place);
      if (!held.empty()) {
        RETURN_IF_ERROR(stand_in(other->place, held));
        continue;
      }
      if (umount2(other->place.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
        return errno_error("detach the former file system's other mount at " + other->place);
    }
  }

  // A place that lies below the root of the former file system: an empty tmpfs takes the root's
  // stead, with a directory for each mount that stands there.
  Status stand_in(const std::string& root, const std::vector<std::string>& held) {
    std::vector<UniqueFd> trees;
    for (const std::string& place : held) {
      trees.emplace_back(open(place.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
      if (!trees.back()) return errno_error("open " + place);
    }
    if (mount("tmpfs", kWaitingRoom, "tmpfs", 0, "size=64k,mode=700") != 0)
      return errno_error(fmt::format("mount a tmpfs at the world's {}", kWaitingRoom));
    Status status;
    std::size_t waiting = 0;
    for (; waiting < trees.size(); ++waiting) {
      const std::string aside = waiting_place(waiting);
      if (mkdir(aside.c_str(), 0700) == 0 &&
          move_mount(trees[waiting].get(), "", AT_FDCWD, aside.c_str(), MOVE_MOUNT_F_EMPTY_PATH) == 0)
        continue;
      status = errno_error("put the mount at " + held[waiting] + " aside");
      break;
    }
    if (status && umount2(root.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
      status = errno_error("detach the former file system's mount at " + root);
    else if (status && mount("tmpfs", root.c_str(), "tmpfs", 0, "size=64k,mode=755") != 0)
      status = errno_error("mount a tmpfs in the stead of " + root);
    for (std::size_t i = 0; i < waiting; ++i) {
      std::vector<std::string> made;
      Status back = make_directories(held[i], made);
      if (back && move_mount(trees[i].get(), "", AT_FDCWD, held[i].c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
        back = errno_error("put the mount back at " + held[i]);
      if (!back && status) status = back;
    }
    umount2(kWaitingRoom, MNT_DETACH);
    return status;
  }

  bool still_needed(const std::string& device, const std::vector<MountEntry>& entries) const {
    std::map<std::string, std::string> top;
    for (const auto& entry : entries) top[entry.place] = entry.device;
    if (top["/"] == device) return true;
    auto uses = [&](const std::string& place) {
      return std::any_of(top.begin(), top.end(), [&](const auto& at) {
        return is_at_or_under(at.first, place) && at.second == device;
      });
    };
    return uses(real_) ||
           std::any_of(job_.other_places.begin(), job_.other_places.end(), uses);
  }

  const BindJob& job_;
  std::string real_;
  UniqueFd tree_;
  UniqueFd table_;
  bool waiting_ = false;
  std::set<std::size_t> moved_;
  std::vector<std::string> made_;
};

}  // namespace

bool is_at_or_under(const std::string& path, const std::string& directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

std::vector<MountEntry> parse_mountinfo(const std::string& text) {
  std::vector<MountEntry> entries;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    MountEntry entry;
    std::string root;
    std::string place;
    if (!(fields >> entry.id >> entry.parent >> entry.device >> root >> place)) continue;
    entry.place = unescape(place);
    // Optional fields end with a dash; the type follows.
    for (std::string field; fields >> field;)
      if (field == "-" && fields >> entry.type) break;
    entries.push_back(std::move(entry));
  }
  return entries;
}

Result<std::vector<MountEntry>> read_mountinfo(const std::string& file) {
  UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_error("open " + file);
  std::string text;
  ASSIGN_OR_RETURN(text, read_all(fd.get(), file));
  return parse_mountinfo(text);
}

Status WorldMounts::bind(const std::string& name, const std::string& place,
                         const std::string& source, Deadline deadline) {
  auto known = places_.find(name);
  BindJob job;
  job.init_pid = init_pid_;
  job.place = place;
  job.source = source;
  if (known != places_.end()) {
    job.real = known->second.real;
    for (const Place* nested : inside(name)) job.nested.push_back({nested->real, nested->root.get()});
  }
  for (const auto& [other, entry] : places_) {
    if (other != name) job.other_places.push_back(entry.real);
  }
  auto result = run_worker(fmt::format("binding {} at {}", source, place), deadline,
                           [&] { return Binder(job).run(); });
  if (!result) return result.error();
  WireReader reader(result->bytes);
  Place entry;
  entry.place = place;
  entry.real = reader.string();
  auto made = reader.strings();
  auto warnings = reader.strings();
  if (!reader.good() || result->fds.size() != 1)
    return plain_error(fmt::format("binding {} at {}: no answer", source, place));
  made_.insert(made_.end(), made.begin(), made.end());
  warnings_.insert(warnings_.end(), warnings.begin(), warnings.end());
  entry.root = std::move(result->fds[0]);
  places_[name] = std::move(entry);
  return {};
}

void WorldMounts::declare(const std::string& name, const std::string& place) {
  Place entry;
  entry.place = place;
  char buffer[PATH_MAX];
  entry.real = realpath(place.c_str(), buffer) ? buffer : place;
  places_[name] = std::move(entry);
}

std::vector<const WorldMounts::Place*> WorldMounts::inside(const std::string& name) const {
  const std::string& outer = places_.at(name).real;
  std::vector<const Place*> found;
  for (const auto& [other, entry] : places_) {
    if (other != name && is_at_or_under(entry.real, outer)) found.push_back(&entry);
  }
  std::sort(found.begin(), found.end(),
            [](const Place* a, const Place* b) { return a->real.size() < b->real.size(); });
  return found;
}

Result<std::vector<MountEntry>> WorldMounts::table() const {
  return read_mountinfo(init_pid_ > 0 ? fmt::format("/proc/{}/mountinfo", init_pid_)
                                      : "/proc/self/mountinfo");
}

std::set<std::uint64_t> WorldMounts::mount_ids(const std::string& name) const {
  std::set<std::uint64_t> ids;
  auto it = places_.find(name);
  auto entries = table();
  if (it == places_.end() || !entries) return ids;
  auto nested = inside(name);
  for (const auto& entry : *entries) {
    if (!is_at_or_under(entry.place, it->second.real)) continue;
    bool other = std::any_of(nested.begin(), nested.end(), [&](const Place* p) {
      return is_at_or_under(entry.place, p->real);
    });
    if (!other) ids.insert(entry.id);
  }
  return ids;
}

std::string WorldMounts::device(const std::string& name) const {
  std::string device;
  auto it = places_.find(name);
  auto entries = table();
  if (it == places_.end() || !entries) return device;
  for (const auto& entry : *entries) {
    if (entry.place == it->second.real) device = entry.device;
  }
  return device;
}

int WorldMounts::root_fd(const std::string& name) const {
  auto it = places_.find(name);
  return it == places_.end() ? -1 : it->second.root.get();
}

bool WorldMounts::in_a_place(const std::string& path) const {
  return std::any_of(places_.begin(), places_.end(), [&](const auto& entry) {
    return is_at_or_under(path, entry.second.real) || is_at_or_under(path, entry.second.place);
  });
}

std::string WorldMounts::place(const std::string& name) const {
  auto it = places_.find(name);
  return it == places_.end() ? std::string() : it->second.place;
}

}  // namespace supervise
