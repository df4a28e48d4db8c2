#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "restore/criu.h"
#include "restore/host_facts.h"
#include "supervisor/base/scope_exit.h"
#include "supervisor/doctor.h"
#include "supervisor/world.h"

namespace supervise {
namespace {

constexpr Millis kSmokeLimit{60000};
constexpr Millis kStep{20000};

char state_of(pid_t pid) {
  std::ifstream stat(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(stat, text);
  const auto end = text.rfind(") ");
  return end == std::string::npos ? '?' : text[end + 2];
}

Status await_stopped(pid_t pid, Deadline deadline) {
  while (state_of(pid) != 'T') {
    if (deadline.passed() || state_of(pid) == '?' || state_of(pid) == 'Z')
      return plain_error(fmt::format("the process to be dumped did not get ready (state {})",
                                     state_of(pid)));
    ::poll(nullptr, 0, 5);
  }
  return ok_status();
}

Result<ExitInfo> await_end(World& world, Deadline deadline) {
  while (true) {
    if (auto end = world.app_exit()) return *end;
    if (deadline.passed()) return errno_error(ETIMEDOUT, "the restored process did not go on");
    ::poll(nullptr, 0, 5);
  }
}

Status without_streams() {
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (int fd = 0; fd < 3; ++fd)
    if (!null || ::dup2(null.get(), fd) < 0) return errno_error("open /dev/null");
  return ok_status();
}

struct Dumped {
  std::vector<StdioInfo> stdio;
  double ms = 0;
};

Result<Dumped> smoke_dump(const Criu& criu, const std::string& program, int image_dir) {
  ASSIGN_OR_RETURN(auto world, World::create({}));
  if (!world->has_namespaces())
    return plain_error(world->limits().empty() ? "no namespaces" : world->limits().front());
  LaunchSpec launch;
  launch.argv = {program, "doctor-guest"};
  launch.cwd = "/";
  ASSIGN_OR_RETURN(const pid_t guest, world->prepare_launch(launch));
  RETURN_IF_ERROR(world->release_launch());
  RETURN_IF_ERROR(await_stopped(guest, Deadline::in(kStep)));
  ASSIGN_OR_RETURN(const int inner, world->inner_pid(guest));
  DumpRequest request;
  request.root_pid = inner;
  request.image_dir_fd = image_dir;
  request.leave_stopped = false;
  request.external = world->criu_externals();
  const auto start = Clock::now();
  ASSIGN_OR_RETURN([[maybe_unused]] const auto figures,
                   criu.dump(*world, request, Deadline::in(kStep)));
  Dumped dumped{world->stdio(), ms_between(start, Clock::now())};
  world->end(Deadline::in(kStep)).ignore();
  return dumped;
}

Result<double> smoke_restore(const Criu& criu, const Dumped& dumped, int image_dir) {
  ASSIGN_OR_RETURN(auto world, World::create({}));
  ASSIGN_OR_RETURN(auto streams, world->stdio_for_restore(dumped.stdio));
  RestoreRequest request;
  request.image_dir_fd = image_dir;
  for (const auto& stream : streams) request.inherit.push_back({stream.id, stream.fd.get()});
  const auto start = Clock::now();
  ASSIGN_OR_RETURN(const int inner, criu.restore(*world, request, Deadline::in(kStep)));
  const double ms = ms_between(start, Clock::now());
  RETURN_IF_ERROR(world->adopt_app(inner));
  ASSIGN_OR_RETURN(const pid_t outer, world->outer_pid(inner));
  if (::kill(outer, SIGCONT) != 0) return errno_error("continue the restored process");
  ASSIGN_OR_RETURN(const auto end, await_end(*world, Deadline::in(kStep)));
  world->end(Deadline::in(kStep)).ignore();
  if (!end.success())
    return plain_error("the restored process lost its listening socket: " + end.describe());
  return ms;
}

Result<std::string> smoke(const Criu& criu) {
  RETURN_IF_ERROR(without_streams());
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  if (error) return errno_error(error.value(), "name of this program");
  std::string dir = "/tmp/supervise-doctor-XXXXXX";
  if (::mkdtemp(dir.data()) == nullptr) return errno_error("mkdtemp " + dir);
  const ScopeExit remove([&] { std::filesystem::remove_all(dir, error); });
  const UniqueFd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_error("open " + dir);
  ASSIGN_OR_RETURN(const auto dumped, smoke_dump(criu, program, fd.get()));
  ASSIGN_OR_RETURN(const double restore_ms, smoke_restore(criu, dumped, fd.get()));
  return fmt::format("a process with a listening socket was dumped in {:.0f} ms, restored in {:.0f} ms "
                     "and went on listening",
                     dumped.ms, restore_ms);
}

}  // namespace

void probe_criu(const ProbeSink& sink) {
  const auto criu = Criu::find();
  if (!criu) {
    sink({"criu", Need::Handover, Verdict::Failed, criu.error().message(),
          "run scripts/setup.sh, which builds it, or let SUPERVISE_CRIU name the program", 0});
    return;
  }
  sink(run_probe("criu", Need::Handover, "the program is damaged: build it again with scripts/setup.sh",
                 Millis(10000), [&]() -> Result<std::string> {
                   ASSIGN_OR_RETURN(const auto version,
                                    criu_version(criu.value().binary(), Deadline::in(Millis(8000))));
                   return fmt::format("{} says {}", criu.value().binary(), version);
                 }));
  sink(run_probe("criu.smoke", Need::Handover,
                 "needs CAP_SYS_ADMIN, SYS_PTRACE, NET_ADMIN and SYS_TIME and no seccomp profile "
                 "(container: --cap-add SYS_ADMIN --cap-add SYS_TIME --cap-add NET_ADMIN --cap-add "
                 "SYS_PTRACE --security-opt seccomp=unconfined), and CRIU 4.2 or newer on kernels from "
                 "6.16; SUPERVISE_CRIU chooses another one",
                 kSmokeLimit, [&] { return smoke(criu.value()); }));
  sink(run_probe("criu.cache", Need::Extra,
                 "mount a tmpfs on /run or /dev/shm: without it each dump and restore probes the kernel "
                 "anew, some 40 ms (container: --tmpfs /run)",
                 Millis(5000), []() -> Result<std::string> {
                   for (const char* dir : {"/run", "/dev/shm"}) {
                     struct statfs fs {};
                     if (::statfs(dir, &fs) == 0 && fs.f_type == TMPFS_MAGIC)
                       return fmt::format("{} is a tmpfs", dir);
                   }
                   return plain_error("neither /run nor /dev/shm is a tmpfs");
                 }));
}

int doctor_guest() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in before{}, after{};
  before.sin_family = AF_INET;
  socklen_t size = sizeof before;
  if (fd < 0 || ::bind(fd, reinterpret_cast<sockaddr*>(&before), sizeof before) != 0 ||
      ::listen(fd, 8) != 0 || ::getsockname(fd, reinterpret_cast<sockaddr*>(&before), &size) != 0)
    return 2;
  ::raise(SIGSTOP);
  int listening = 0;
  socklen_t option = sizeof listening;
  if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &option) != 0 || listening != 1) return 3;
  size = sizeof after;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&after), &size) != 0) return 4;
  return after.sin_port == before.sin_port ? 0 : 5;
}

}  // namespace supervise
