// The start of the application, and its standard streams.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "supervisor/world_impl.h"
#include "supervisor/world_inherited.h"

namespace supervise {
namespace {

constexpr Millis kLaunchTime{15000};

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_error("pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// A whole note, nothing at the pipe's end (the exec is done), EAGAIN or ETIMEDOUT as an error.
Result<std::optional<ChildNote>> read_note(int fd, Deadline deadline) {
  pollfd wait{fd, POLLIN, 0};
  int n;
  while ((n = poll(&wait, 1, deadline.left_ms())) < 0 && errno == EINTR) {
  }
  if (n == 0) return errno_error(ETIMEDOUT, "no word from the new process");
  ChildNote note;
  ssize_t got;
  while ((got = read(fd, &note, sizeof note)) < 0 && errno == EINTR) {
  }
  if (got < 0) return errno_error("read the new process's notes");
  if (got == 0) return std::optional<ChildNote>();
  return std::optional<ChildNote>(note);
}

}  // namespace

Result<pid_t> World::prepare_launch(const LaunchSpec& spec) {
  Impl& w = *impl_;
  if (spec.argv.empty()) return errno_error(EINVAL, "no program to launch");
  const Deadline deadline = Deadline::in(kLaunchTime);
  std::vector<WorldStdio::Stream> streams;
  ASSIGN_OR_RETURN(streams, w.stdio->prepare());

  SpawnPlan plan;
  plan.argv = spec.argv;
  plan.env = spec.env;
  plan.cwd = spec.cwd.empty() ? "/" : spec.cwd;
  plan.path_search = true;
  plan.new_session = has_namespaces();
  plan.new_ipc = has_namespaces();
  plan.inherited_state = true;
  plan.wait_release = true;
  plan.keep_stdio_closed = true;
  plan.controlling_terminal = w.stdio->controlling_terminal();
  plan.pid_base = has_namespaces() ? 1 : 0;
  if (spec.filter) plan.filter.assign(spec.filter->filter, spec.filter->filter + spec.filter->len);

  Pipe notes;
  Pipe release;
  ASSIGN_OR_RETURN(notes, make_pipe());
  ASSIGN_OR_RETURN(release, make_pipe());
  std::vector<int> fds{notes.write_end.get(), release.read_end.get()};
  for (const auto& stream : streams) {
    plan.targets.push_back(stream.number);
    fds.push_back(stream.fd);
  }
  auto child = w.spawn(plan, fds, deadline);
  if (!child) return child.error().with("launch " + plan.argv[0]);
  notes.write_end.reset();
  release.read_end.reset();
  w.app = plan;
  w.app_inner = child->inner;
  w.app_outer = child->outer;
  w.app_end.reset();
  w.release = std::move(release.write_end);
  w.notes = std::move(notes.read_end);
  auto note = read_note(w.notes.get(), deadline);
  if (!note) return note.error().with("launch " + plan.argv[0]);
  if (!*note) return plain_error(fmt::format("launch {}: its process died", plan.argv[0]));
  if ((*note)->stage != ChildStage::Ready) return child_error(plan, **note);
  return w.app_outer;
}

Status World::release_launch() {
  Impl& w = *impl_;
  char byte = 1;
  if (!w.release) return plain_error("no launch is prepared");
  ssize_t n;
  while ((n = write(w.release.get(), &byte, 1)) < 0 && errno == EINTR) {
  }
  int err = errno;
  w.release.reset();
  if (n != 1) return errno_error(err, "release the application's process");
  w.stdio->started();
  return {};
}

std::optional<Error> World::launch_error() {
  Impl& w = *impl_;
  if (!w.notes || w.release) return std::nullopt;
  auto note = read_note(w.notes.get(), Deadline::in(Millis(0)));
  if (!note) return std::nullopt;  // under way
  if (!*note) {
    w.notes.reset();
    return std::nullopt;
  }
  return child_error(w.app, **note);
}

std::optional<ExitInfo> World::app_exit() {
  Impl& w = *impl_;
  if (w.app_end || w.app_inner == 0) return w.app_end;
  if (w.link) {
    if (auto status = w.link->take_exit(w.app_inner)) w.app_end = exit_info(*status);
  } else {
    int status = 0;
    if (waitpid(w.app_outer, &status, WNOHANG) == w.app_outer) w.app_end = exit_info(status);
  }
  return w.app_end;
}

Status World::adopt_app(int inner) {
  Impl& w = *impl_;
  pid_t outer;
  ASSIGN_OR_RETURN(outer, outer_pid(inner));
  if (w.link) RETURN_IF_ERROR(w.link->watch(inner, Deadline::in(kLaunchTime)));
  w.app_inner = inner;
  w.app_outer = outer;
  w.app_end.reset();
  w.stdio->started();
  return {};
}

Result<std::vector<World::Inherit>> World::stdio_for_restore(
    const std::vector<StdioInfo>& image_stdio) {
  return impl_->stdio->prepare_restore(image_stdio);
}

std::vector<StdioInfo> World::stdio() const { return impl_->stdio->infos(); }
std::vector<std::string> World::criu_externals() const { return impl_->stdio->externals(); }
bool World::terminal_raw() const { return impl_->stdio->terminal_raw(); }
std::vector<pid_t> World::relay_pids() const { return impl_->stdio->relay_pids(); }
void World::finish_stdio() { impl_->stdio->finish(Deadline::in(Millis(5000))); }

void World::on_terminal_signal(int signo) {
  impl_->stdio->on_terminal_signal(signo);
  if (signo != SIGTSTP) return;
  // Stopped as any job: by SIGSTOP, since SIGTSTP is ours to handle. Then the terminal is ours again.
  raise(SIGSTOP);
  impl_->stdio->on_terminal_signal(SIGCONT);
}

}  // namespace supervise
