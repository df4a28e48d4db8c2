#include "supervisor/world_spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "seccomp/filter.h"
#include "supervisor/world_inherited.h"
#include "supervisor/world_wire.h"

namespace supervise {
namespace {

int exit_code_for(const ChildNote& note) {
  if (note.stage != ChildStage::Exec) return 125;
  return note.err == ENOENT || note.err == ENOTDIR ? 127 : 126;
}

class Child {
 public:
  Child(const SpawnPlan& plan, std::vector<int> passed) : plan_(plan), passed_(std::move(passed)) {}

  [[noreturn]] void run() {
    move_descriptors();
    enter_session();
    if (plan_.inherited_state) {
      InheritedState::record().apply();
    } else {
      InheritedState::apply_defaults();
    }
    if (chdir(plan_.cwd.c_str()) != 0) fail(ChildStage::Chdir, errno);
    wait_for_release();
    install_filter();
    fail(ChildStage::Exec, exec());
  }

 private:
  [[noreturn]] void fail(ChildStage stage, int err) {
    ChildNote note{stage, err};
    tell(note);
    _exit(exit_code_for(note));
  }

  void tell(const ChildNote& note) {
    while (write(error_, &note, sizeof note) < 0 && errno == EINTR) {
    }
  }

  int lift(int fd, int above) {
    int high = fcntl(fd, F_DUPFD_CLOEXEC, above);
    if (high < 0) fail(ChildStage::Descriptors, errno);
    return high;
  }

  void move_descriptors() {
    int above = 3;
    for (int target : plan_.targets) above = std::max(above, target + 1);
    error_ = passed_.at(0);
    error_ = lift(error_, above);
    std::size_t next = 1;
    if (plan_.wait_release) release_ = lift(passed_.at(next++), above);
    std::vector<int> sources;
    for (std::size_t i = 0; i < plan_.targets.size(); ++i)
      sources.push_back(lift(passed_.at(next + i), above));
    close_below(above);
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (dup2(sources[i], plan_.targets[i]) < 0) fail(ChildStage::Descriptors, errno);
    }
    close_above(above);
    if (!plan_.keep_stdio_closed) fill_stdio();
  }

  static void close_below(int above) {
    close_range(0, static_cast<unsigned>(above - 1), 0);
  }

  void close_above(int above) {
    std::vector<int> keep{error_};
    if (release_ >= 0) keep.push_back(release_);
    std::sort(keep.begin(), keep.end());
    unsigned from = static_cast<unsigned>(above);
    for (int fd : keep) {
      if (static_cast<unsigned>(fd) > from) close_range(from, static_cast<unsigned>(fd - 1), 0);
      from = static_cast<unsigned>(fd) + 1;
    }
    close_range(from, ~0U, 0);
  }

  void fill_stdio() {
    for (int number = 0; number < 3; ++number) {
      if (fcntl(number, F_GETFD) >= 0) continue;
      int fd = open("/dev/null", O_RDWR);
      if (fd < 0) fail(ChildStage::Descriptors, errno);
      if (fd != number) {
        dup2(fd, number);
        close(fd);
      }
    }
  }

  void enter_session() {
    if (plan_.new_session && setsid() < 0) fail(ChildStage::Session, errno);
    if (plan_.new_group && setpgid(0, 0) != 0) fail(ChildStage::Session, errno);
    if (plan_.new_ipc && unshare(CLONE_NEWIPC) != 0) fail(ChildStage::Ipc, errno);
    if (plan_.controlling_terminal >= 0 && ioctl(plan_.controlling_terminal, TIOCSCTTY, 0) != 0)
      fail(ChildStage::Terminal, errno);
  }

  void wait_for_release() {
    if (release_ < 0) return;
    tell({ChildStage::Ready, 0});
    char byte;
    ssize_t n;
    while ((n = read(release_, &byte, 1)) < 0 && errno == EINTR) {
    }
    if (n != 1) fail(ChildStage::Release, n < 0 ? errno : ECANCELED);
    close(release_);
  }

  void install_filter() {
    if (plan_.filter.empty()) return;
    sock_fprog program{static_cast<unsigned short>(plan_.filter.size()),
                       const_cast<sock_filter*>(plan_.filter.data())};
    if (int err = filter_install(&program)) fail(ChildStage::Filter, err);
  }

  static std::vector<char*> pointers(const std::vector<std::string>& strings) {
    std::vector<char*> out;
    for (const auto& s : strings) out.push_back(const_cast<char*>(s.c_str()));
    out.push_back(nullptr);
    return out;
  }

  int exec() {
    if (plan_.argv.empty() || plan_.argv[0].empty()) return ENOENT;
    const std::string& name = plan_.argv[0];
    if (!plan_.path_search || name.find('/') != std::string::npos) return exec_one(name);
    std::string path = "/bin:/usr/bin";
    for (const auto& variable : plan_.env) {
      if (variable.starts_with("PATH=")) path = variable.substr(5);
    }
    bool denied = false;
    std::size_t at = 0;
    while (at <= path.size()) {
      std::size_t colon = std::min(path.find(':', at), path.size());
      std::string directory = path.substr(at, colon - at);
      int err = exec_one((directory.empty() ? "." : directory) + "/" + name);
      if (err == EACCES) {
        denied = true;
      } else if (err != ENOENT && err != ENOTDIR && err != ESTALE && err != ENODEV &&
                 err != ETIMEDOUT) {
        return err;
      }
      at = colon + 1;
    }
    return denied ? EACCES : ENOENT;
  }

  int exec_one(const std::string& file) {
    auto argv = pointers(plan_.argv);
    auto env = pointers(plan_.env);
    execve(file.c_str(), argv.data(), env.data());
    if (errno != ENOEXEC || !plan_.path_search) return errno;
    std::vector<std::string> script{"/bin/sh", file};
    script.insert(script.end(), plan_.argv.begin() + 1, plan_.argv.end());
    auto shell = pointers(script);
    execve("/bin/sh", shell.data(), env.data());
    return ENOEXEC;
  }

  const SpawnPlan& plan_;
  std::vector<int> passed_;
  int error_ = -1;
  int release_ = -1;
};

}  // namespace

void run_child(const SpawnPlan& plan, std::vector<int> passed) {
  Child(plan, std::move(passed)).run();
}

Error child_error(const SpawnPlan& plan, const ChildNote& note) {
  const std::string name = plan.argv.empty() ? "?" : plan.argv[0];
  switch (note.stage) {
    case ChildStage::Session: return errno_error(note.err, fmt::format("{}: setsid", name));
    case ChildStage::Ipc:
      return errno_error(note.err, fmt::format("{}: unshare(CLONE_NEWIPC)", name));
    case ChildStage::Terminal:
      return errno_error(note.err, fmt::format("{}: make the pty its controlling terminal", name));
    case ChildStage::Descriptors:
      return errno_error(note.err, fmt::format("{}: set up its descriptors", name));
    case ChildStage::Chdir:
      return errno_error(note.err, fmt::format("{}: chdir {}", name, plan.cwd));
    case ChildStage::Release:
      return errno_error(note.err, fmt::format("{}: was never released to start", name));
    case ChildStage::Filter: return errno_error(note.err, fmt::format("{}: seccomp", name));
    case ChildStage::Exec: return errno_error(note.err, fmt::format("execve {}", name));
    case ChildStage::Ready: break;
  }
  return plain_error(fmt::format("{}: waiting to be released", name));
}

std::string SpawnPlan::encode() const {
  WireWriter w;
  w.strings(argv);
  w.strings(env);
  w.string(cwd);
  for (bool flag : {path_search, new_session, new_group, new_ipc, inherited_state, wait_release,
                    keep_stdio_closed, watch, tool})
    w.number(flag);
  w.number(controlling_terminal);
  w.number(pid_base);
  w.number(static_cast<std::int64_t>(targets.size()));
  for (int target : targets) w.number(target);
  w.string({reinterpret_cast<const char*>(filter.data()), filter.size() * sizeof(sock_filter)});
  return w.take();
}

Result<SpawnPlan> SpawnPlan::decode(const std::string& bytes) {
  WireReader r(bytes);
  SpawnPlan plan;
  plan.argv = r.strings();
  plan.env = r.strings();
  plan.cwd = r.string();
  for (bool* flag : {&plan.path_search, &plan.new_session, &plan.new_group, &plan.new_ipc,
                     &plan.inherited_state, &plan.wait_release, &plan.keep_stdio_closed,
                     &plan.watch, &plan.tool})
    *flag = r.number() != 0;
  plan.controlling_terminal = static_cast<int>(r.number());
  plan.pid_base = static_cast<int>(r.number());
  for (auto n = r.number(); n > 0 && r.good(); --n)
    plan.targets.push_back(static_cast<int>(r.number()));
  std::string filter = r.string();
  plan.filter.resize(filter.size() / sizeof(sock_filter));
  std::copy(filter.begin(), filter.end(), reinterpret_cast<char*>(plan.filter.data()));
  if (!r.good()) return plain_error("the world's init got a malformed request");
  return plan;
}

}  // namespace supervise
