#include "supervisor/world_stdio.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <fstream>
#include <map>

#include "supervisor/world_inherited.h"
#include "supervisor/world_mounts.h"

namespace supervise {
namespace {

// Descriptors of ours that stand aside are kept above the usual small numbers.
constexpr int kAside = 10;

std::string link_of(int fd) {
  char name[PATH_MAX];
  ssize_t n = readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), name, sizeof name);
  return n > 0 ? std::string(name, static_cast<std::size_t>(n)) : std::string();
}

std::string device_of(int fd, const std::vector<MountEntry>& mounts) {
  std::ifstream info(fmt::format("/proc/self/fdinfo/{}", fd));
  std::uint64_t id = 0;
  for (std::string word; info >> word;) {
    if (word == "mnt_id:") info >> id;
  }
  for (const auto& mount : mounts) {
    if (mount.id == id) return mount.device;
  }
  return {};
}

bool same_description(int a, int b) {
  long r = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b);
  if (r >= 0) return r == 0;
  // kcmp is forbidden (some container profiles): status flags belong to the description.
  struct stat sa {};
  struct stat sb {};
  if (fstat(a, &sa) != 0 || fstat(b, &sb) != 0 || sa.st_dev != sb.st_dev ||
      sa.st_ino != sb.st_ino)
    return false;
  int flags = fcntl(a, F_GETFL);
  int other = fcntl(b, F_GETFL);
  if (flags != other || fcntl(a, F_SETFL, flags ^ O_NONBLOCK) != 0) return false;
  bool same = fcntl(b, F_GETFL) != other;
  fcntl(a, F_SETFL, flags);
  return same;
}

Result<UniqueFd> duplicate(int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, kAside));
  if (!copy) return errno_error(fmt::format("duplicate descriptor {}", fd));
  return copy;
}

std::string tty_id(int fd) {
  struct stat st {};
  if (fstat(fd, &st) != 0) return {};
  return fmt::format("tty[{:x}:{:x}]", st.st_rdev, st.st_dev);
}

std::string pipe_id(int fd) {
  struct stat st {};
  if (fstat(fd, &st) != 0) return {};
  return fmt::format("pipe:[{}]", st.st_ino);
}

std::string without_slash(const std::string& path) {
  return path.starts_with('/') ? path.substr(1) : path;
}

void replace_by_null(int number) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return;
  dup2(null, number);
  close(null);
}

}  // namespace

WorldStdio::WorldStdio(Opener opener, InPlace in_place)
    : opener_(std::move(opener)), in_place_(std::move(in_place)) {}

WorldStdio::~WorldStdio() { finish(Deadline::in(Millis(0))); }

std::array<WorldStdio::Own, 3> WorldStdio::look() {
  std::array<Own, 3> own;
  auto mounts = read_mountinfo("/proc/self/mountinfo").value_or({});
  const auto& closed = InheritedState::record().closed;
  for (int n = 0; n < 3; ++n) {
    Own& o = own[static_cast<std::size_t>(n)];
    struct stat st {};
    o.flags = fcntl(n, F_GETFL);
    if (closed[static_cast<std::size_t>(n)] || o.flags < 0 || fstat(n, &st) != 0) continue;
    o.dev = st.st_dev;
    o.ino = st.st_ino;
    o.name = link_of(n);
    o.device = device_of(n, mounts);
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
      o.kind = Kind::File;
    } else if (S_ISCHR(st.st_mode)) {
      o.kind = isatty(n) ? Kind::Terminal : Kind::Device;
    } else if (S_ISFIFO(st.st_mode) && o.name.starts_with("pipe:[")) {
      o.kind = Kind::Pipe;
    } else if (S_ISSOCK(st.st_mode)) {
      o.kind = Kind::Socket;
    } else {
      o.kind = Kind::Other;
    }
    for (int lower = 0; lower < n && !o.same_as; ++lower) {
      if (own[static_cast<std::size_t>(lower)].kind == o.kind && same_description(lower, n))
        o.same_as = lower;
    }
  }
  return own;
}

const WorldStdio::Given* WorldStdio::given(int number) const {
  for (const auto& g : given_) {
    if (g.number == number) return &g;
  }
  return nullptr;
}

// A stream below, given already, that shares its open file description with this one. A relay has a
// direction: input and output never share one.
const WorldStdio::Given* WorldStdio::twin_of(int number) const {
  auto origin = [&](int n) { return own_[static_cast<std::size_t>(n)].same_as.value_or(n); };
  const Kind kind = own_[static_cast<std::size_t>(number)].kind;
  if (kind == Kind::Terminal || kind == Kind::Pipe) return nullptr;
  for (int lower = 0; lower < number; ++lower) {
    const Given* g = given(lower);
    if (!g || origin(lower) != origin(number)) continue;
    if (lower > 0 || g->info.kind != "pipe") return g;
  }
  return nullptr;
}

bool WorldStdio::wants_pty() const {
  return (own_[0].kind == Kind::Terminal || own_[1].kind == Kind::Terminal) &&
         own_[1].kind != Kind::Pipe;
}

void WorldStdio::remember(const Given& g) {
  infos_.push_back(g.info);
  if (g.info.kind == "tty" &&
      std::find(externals_.begin(), externals_.end(), g.info.id) == externals_.end())
    externals_.push_back(g.info.id);
}

Result<std::vector<WorldStdio::Stream>> WorldStdio::prepare() {
  own_ = look();
  if (opener_ && wants_pty()) RETURN_IF_ERROR(make_pty());
  std::vector<Stream> streams;
  for (int n = 0; n < 3; ++n) {
    if (own_[static_cast<std::size_t>(n)].kind == Kind::Closed) continue;
    auto g = opener_ ? give(n) : pass_on(n);
    if (!g) return g.error().with(fmt::format("standard stream {}", n));
    streams.push_back({n, g->fd.get()});
    remember(*g);
    given_.push_back(g.take());
  }
  return streams;
}

int WorldStdio::controlling_terminal() const {
  if (!pty_) return -1;
  for (const auto& g : given_) {
    if (g.info.kind == "tty") return g.number;
  }
  return -1;
}

Result<WorldStdio::Given> WorldStdio::give(int number) {
  const Own& own = own_[static_cast<std::size_t>(number)];
  if (const Given* twin = twin_of(number)) {
    Given g;
    g.number = number;
    ASSIGN_OR_RETURN(g.fd, duplicate(twin->fd.get()));
    g.info = twin->info;
    g.info.fd = number;
    g.is_file = twin->is_file;
    return g;
  }
  switch (own.kind) {
    case Kind::File:
    case Kind::Device: return reopen(number);
    case Kind::Pipe: return pass_on(number);
    case Kind::Terminal: return pty_ ? pty_slave(number) : pass_on(number);
    default: return relay_through_pipe(number);
  }
}

Result<WorldStdio::Given> WorldStdio::pass_on(int number) {
  Given g;
  g.number = number;
  ASSIGN_OR_RETURN(g.fd, duplicate(number));
  switch (own_[static_cast<std::size_t>(number)].kind) {
    case Kind::Pipe: g.info = {number, "pipe", pipe_id(number)}; break;
    case Kind::Terminal: g.info = {number, "tty", tty_id(number)}; break;
    case Kind::File:
      g.info = {number, "file", without_slash(own_[static_cast<std::size_t>(number)].name)};
      break;
    default:
      g.info = {number, "other", without_slash(own_[static_cast<std::size_t>(number)].name)};
  }
  return g;
}

Result<WorldStdio::Given> WorldStdio::reopen(int number) {
  const Own& own = own_[static_cast<std::size_t>(number)];
  constexpr int kKept = O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_DIRECT |
                        O_NOATIME | O_PATH | O_DIRECTORY;
  OpenSpec spec;
  spec.path = own.name;
  spec.flags = own.flags & kKept;
  spec.device = own.dev;
  spec.inode = own.ino;
  spec.offset = std::max<off_t>(0, lseek(number, 0, SEEK_CUR));
  auto fd = opener_(spec);
  if (!fd) {
    if (fd.error().err == ETIMEDOUT || fd.error().err == ESRCH) return fd.error();
    return relay_through_pipe(number);
  }
  Given g;
  g.number = number;
  g.fd = fd.take();
  g.is_file = own.kind == Kind::File;
  g.info = {number, g.is_file ? "file" : "other", without_slash(own.name)};
  return g;
}

Result<WorldStdio::Given> WorldStdio::relay_through_pipe(int number) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_error("pipe for a standard stream");
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const bool input = number == 0;
  const bool closed = own_[static_cast<std::size_t>(number)].kind == Kind::Closed;
  // A closed stream of ours, where an image wants a pipe: an end of file, or a sink.
  if (!(closed && input)) {
    UniqueFd null(closed ? open("/dev/null", O_WRONLY | O_CLOEXEC) : -1);
    int ours = closed ? null.get() : number;
    auto relay = input ? PipeRelay::start(ours, write_end.get())
                       : PipeRelay::start(read_end.get(), ours);
    if (!relay) return relay.error();
    relays_.push_back({input, relay.take()});
  }
  Given g;
  g.number = number;
  UniqueFd& end = input ? read_end : write_end;
  ASSIGN_OR_RETURN(g.fd, duplicate(end.get()));
  g.info = {number, "pipe", pipe_id(g.fd.get())};
  return g;
}

Status WorldStdio::make_pty() {
  auto terminal = [&](int n) { return own_[static_cast<std::size_t>(n)].kind == Kind::Terminal; };
  int first = terminal(0) ? 0 : 1;
  int in = first;
  int out = terminal(1) ? 1 : terminal(2) ? 2 : 0;
  // Standard output may be open for writing only: the keyboard is at /dev/tty then.
  UniqueFd keyboard;
  if ((own_[static_cast<std::size_t>(in)].flags & O_ACCMODE) == O_WRONLY) {
    keyboard.reset(open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY));
    if (!keyboard) return {};  // the terminal itself is passed
    in = keyboard.get();
  }
  ASSIGN_OR_RETURN(pty_, PtyRelay::start(first, in, out));
  return {};
}

Result<WorldStdio::Given> WorldStdio::pty_slave(int number) {
  Given g;
  g.number = number;
  for (const auto& other : given_) {
    if (other.info.kind != "tty") continue;
    ASSIGN_OR_RETURN(g.fd, duplicate(other.fd.get()));
    g.info = other.info;
    g.info.fd = number;
    return g;
  }
  UniqueFd slave;
  ASSIGN_OR_RETURN(slave, pty_->open_slave());
  struct stat st {};
  if (fstat(slave.get(), &st) != 0) return errno_error("fstat of the pty");
  OpenSpec spec;
  spec.path = pty_->slave_name();
  spec.flags = O_RDWR;
  spec.device = st.st_dev;
  spec.inode = st.st_ino;
  auto inside = opener_(spec);
  // With another devpts in the world the slave of ours serves as well.
  g.fd = inside ? inside.take() : std::move(slave);
  g.info = {number, "tty", tty_id(g.fd.get())};
  return g;
}

Result<std::vector<World::Inherit>> WorldStdio::prepare_restore(
    const std::vector<StdioInfo>& image) {
  own_ = look();
  std::vector<World::Inherit> inherits;
  std::map<std::string, StdioInfo> made;  // by the image's name
  for (const auto& stream : image) {
    const bool by_name = stream.kind == "other" ||
                         (stream.kind == "file" && in_place_ && in_place_("/" + stream.id));
    if (by_name || stream.fd < 0 || stream.fd > 2 || !opener_) {
      infos_.push_back(stream);
      continue;
    }
    if (auto done = made.find(stream.id); done != made.end()) {
      infos_.push_back(done->second);
      infos_.back().fd = stream.fd;
      continue;
    }
    auto g = give_for(stream, image);
    if (!g) return g.error().with(fmt::format("standard stream {}", stream.fd));
    World::Inherit inherit;
    inherit.id = stream.id;
    ASSIGN_OR_RETURN(inherit.fd, duplicate(g->fd.get()));
    inherits.push_back(std::move(inherit));
    made[stream.id] = g->info;
    remember(*g);
    given_.push_back(g.take());
  }
  return inherits;
}

Result<WorldStdio::Given> WorldStdio::give_for(const StdioInfo& stream,
                                               const std::vector<StdioInfo>& image) {
  const Own& own = own_[static_cast<std::size_t>(stream.fd)];
  if (stream.kind == "tty") {
    RETURN_IF_ERROR(make_pty_for(stream.id, image));
    return pty_slave(stream.fd);
  }
  if (stream.kind == "pipe")
    return own.kind == Kind::Pipe ? pass_on(stream.fd) : relay_through_pipe(stream.fd);
  switch (own.kind) {
    case Kind::File:
    case Kind::Device: return reopen(stream.fd);
    case Kind::Pipe:
    case Kind::Terminal: return pass_on(stream.fd);
    default: return relay_through_pipe(stream.fd);
  }
}

// The image's terminal needs a terminal: a pty, whatever our streams are.
Status WorldStdio::make_pty_for(const std::string& id, const std::vector<StdioInfo>& image) {
  int in = -1;
  int out = -1;
  for (const auto& stream : image) {
    if (stream.id != id || stream.fd < 0 || stream.fd > 2) continue;
    if (own_[static_cast<std::size_t>(stream.fd)].kind == Kind::Closed) continue;
    if (stream.fd == 0) in = 0;
    if (stream.fd > 0 && out < 0) out = stream.fd;
  }
  // A relay that reads no keyboard must leave the terminal's mode alone.
  int terminal = in >= 0 && own_[0].kind == Kind::Terminal ? 0 : -1;
  ASSIGN_OR_RETURN(pty_, PtyRelay::start(terminal, in, out));
  return {};
}

void WorldStdio::started() {
  for (auto& g : given_) {
    auto n = static_cast<std::size_t>(g.number);
    if (opener_ && g.is_file && own_[n].kind == Kind::File && !saved_[n]) {
      auto aside = duplicate(g.number);
      if (aside) {
        saved_[n] = aside.take();
        dup2(g.fd.get(), g.number);
      }
      continue;
    }
    // Whoever reads or writes the other end of a pipe must see when the application closes its own.
    if (opener_ && own_[n].kind == Kind::Pipe && g.number != 2) replace_by_null(g.number);
    g.fd.reset();
  }
  if (pty_) pty_->opened();
}

std::vector<StdioInfo> WorldStdio::infos() const { return infos_; }
std::vector<std::string> WorldStdio::externals() const { return externals_; }

std::vector<pid_t> WorldStdio::relay_pids() const {
  std::vector<pid_t> pids;
  for (const auto& relay : relays_) pids.push_back(relay.process->pid());
  if (pty_) pids.push_back(pty_->pid());
  std::erase_if(pids, [](pid_t pid) { return pid <= 0; });
  return pids;
}

void WorldStdio::release_file_system(const std::string& device, Deadline deadline) {
  if (device.empty()) return;
  std::vector<int> to_null;
  std::vector<int> to_close;
  for (int n = 0; n < 3; ++n) {
    auto i = static_cast<std::size_t>(n);
    if (own_[i].kind != Kind::File || own_[i].device != device) continue;
    to_null.push_back(n);
    if (saved_[i]) to_close.push_back(saved_[i].release());
    for (auto& g : given_) {
      if (g.number == n && g.fd) to_close.push_back(g.fd.release());
    }
    own_[i].kind = Kind::Device;
  }
  if (to_null.empty()) return;
  // close(2) may wait for a file system that does not answer: a process that shares our descriptor
  // table does it. The descriptor is gone from the table before the wait.
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) {
    for (int n : to_null) dup2(null.get(), n);
    for (int fd : to_close) close(fd);
    _exit(0);
  }
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return;
  while (waitpid(static_cast<pid_t>(pid), nullptr, WNOHANG) == 0 && !deadline.passed())
    poll(nullptr, 0, 1);
}

void WorldStdio::on_terminal_signal(int signo) {
  if (!pty_) return;
  if (signo == SIGWINCH) pty_->window_changed();
  if (signo == SIGTSTP) pty_->suspend(Deadline::in(Millis(1000)));
  if (signo == SIGCONT) pty_->resume();
}

void WorldStdio::finish(Deadline deadline) {
  for (auto& g : given_) {
    auto n = static_cast<std::size_t>(g.number);
    if (saved_[n]) {
      off_t at = lseek(g.fd.get(), 0, SEEK_CUR);
      if (at >= 0) lseek(saved_[n].get(), at, SEEK_SET);
      dup2(saved_[n].get(), g.number);
      saved_[n].reset();
    }
    g.fd.reset();
  }
  given_.clear();
  for (auto& relay : relays_) {
    if (relay.input) {
      relay.process->stop();
    } else {
      relay.process->finish(deadline);
    }
  }
  relays_.clear();
  if (pty_) pty_->finish(deadline);
  pty_.reset();
}

}  // namespace supervise
