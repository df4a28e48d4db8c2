#include "supervisor/succession.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "supervisor/base/fault_point.h"
#include "supervisor/commands/commands.h"
#include "supervisor/control.h"
#include "supervisor/session.h"

extern char** environ;

namespace supervise {

using Json = nlohmann::json;

namespace {

constexpr char kVariable[] = "SUPERVISE_SUCCESSION";  // FD, or FD:REASON for the former, when the successor has failed
constexpr char kMemory[] = "supervise-succession";      // the memfd's name
constexpr std::size_t kLongest = 64 << 20;

Result<std::string> read_from_start(int fd) {
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = pread(fd, buffer, sizeof buffer, static_cast<off_t>(text.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read the former supervisor's state");
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > kLongest) return plain_error("the former supervisor's state is too long");
  }
}

// As this process was called: `ps` and service managers go on showing the same.
std::vector<std::string> own_arguments() {
  std::vector<std::string> args;
  auto text = read_proc_file("/proc/self/cmdline");
  for (std::size_t at = 0; text && at < text->size();) {
    const std::size_t end = std::min(text->find('\0', at), text->size());
    args.push_back(text->substr(at, end - at));
    at = end + 1;
  }
  if (args.empty()) args.emplace_back("supervise");
  return args;
}

// Returns only when it fails.
Error exec_program(int program, const std::string& variable) {
  std::vector<std::string> args = own_arguments();
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  if (setenv(kVariable, variable.c_str(), 1) != 0) return errno_error("setenv");
  syscall(SYS_execveat, program, "", argv.data(), environ, AT_EMPTY_PATH);
  const int err = errno;
  unsetenv(kVariable);
  return errno_error(err, "exec of the successor");
}

struct Former {
  int state = -1;
  std::string failed;  // we are the former; why the successor has failed
};

Former former() {
  const char* text = getenv(kVariable);
  if (!text) return {};
  char* end = nullptr;
  const long fd = strtol(text, &end, 10);
  if (end == text || fd < 3 || fd > 1 << 20) return {};
  return {static_cast<int>(fd), *end == ':' ? end + 1 : ""};
}

// What the former supervisor left, as far as it stays the same in every form.
struct Handed {
  Json state;
  int form = 0;
  std::string version;
  int reply = -1;          // of who asked for it
  int former = -1;         // the program before
  std::vector<int> fds;    // all of the above and the state's; close-on-exec now
};

Result<Handed> read_handed(int fd) {
  const Error foreign = plain_error("SUPERVISE_SUCCESSION is not for you: it names what a supervisor left for its successor; unset it");
  std::error_code error;
  const auto target = std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", fd), error);
  if (error || !target.string().starts_with(fmt::format("/memfd:{}", kMemory))) return foreign;
  ASSIGN_OR_RETURN(const std::string text, read_from_start(fd));
  Handed h;
  h.state = Json::parse(text, nullptr, false);
  try {
    h.form = h.state.at("form");
    h.version = h.state.at("version");
    h.reply = h.state.at("reply");
    h.former = h.state.at("former");
    h.fds = h.state.at("fds").get<std::vector<int>>();
  } catch (const Json::exception&) {
    return foreign;
  }
  for (int each : h.fds) fcntl(each, F_SETFD, FD_CLOEXEC);
  return h;
}

Status take(Session& session, Events& events, const Handed& handed) {
  if (handed.form != kSuccessionForm)
    return plain_error(fmt::format("the former supervisor's state has form {}, this program's is {}", handed.form, kSuccessionForm));
  try {
    const Json& j = handed.state.at("log");
    LogOptions log;
    log.events_file = j.at("events");
    log.format = static_cast<LogFormat>(j.at("format").get<int>());
    log.level = static_cast<LogLevel>(j.at("level").get<int>());
    RETURN_IF_ERROR(add_log_sinks(events, log));
    RETURN_IF_ERROR(fault_point("adopt.begin"));
    return session.succeed(handed.state, log);
  } catch (const Json::exception& e) {
    return plain_error(std::string("the former supervisor's state: ") + e.what());
  }
}

}  // namespace

Error exec_successor(int program, Json state, PassedFds& fds) {
  UniqueFd self(open("/proc/self/exe", O_PATH | O_CLOEXEC));
  UniqueFd memory(static_cast<int>(syscall(SYS_memfd_create, kMemory, MFD_CLOEXEC)));
  if (!self || !memory) return errno_error("descriptors for the successor");
  state["former"] = fds.pass(self);
  fds.pass(memory);
  state["fds"] = fds.numbers();
  const std::string text = state.dump(-1, ' ', false, Json::error_handler_t::replace);
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = write(memory.get(), text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("write the state for the successor");
    at += static_cast<std::size_t>(n);
  }
  fds.keep_open();
  return exec_program(program, std::to_string(memory.get()));
}

bool is_successor() { return former().state >= 0; }

int run_successor() {
  const Former from = former();
  unsetenv(kVariable);
  const bool back = !from.failed.empty();
  if (back) disarm_fault_points();
  auto handed = read_handed(from.state);
  if (!handed) return complain(handed.error().message(), 125);

  // Nothing here is ever destroyed unless it succeeds: what the objects stand for is the application's.
  auto* events = new Events;
  auto* session = new Session({}, *events);
  if (Status status = take(*session, *events, *handed); !status) {
    events->error("adopt.failed", status.error().message());
    if (back) _exit(125);  // the former one's keeper takes over
    session->stand_down();
    for (int fd : handed->fds) fcntl(fd, F_SETFD, 0);
    const Error error = exec_program(handed->former, fmt::format("{}:{}", from.state, status.error().message()));
    events->error("adopt.failed", error.message());
    _exit(125);
  }
  // The keeper, which is forked next, is not to have them.
  for (int fd : {from.state, handed->former}) close(fd);
  session->settle(handed->version);
  if (handed->reply >= 0) {
    if (back)
      send_control_reply(handed->reply, false, from.failed + "; the version before goes on", {});
    else
      send_control_reply(handed->reply, true, {},
                         Json{{"pid", getpid()},
                              {"version", SUPERVISE_VERSION},
                              {"former_version", handed->version},
                              {"stood_ms", session->stood_ms()}}.dump());
    shutdown(handed->reply, SHUT_RDWR);  // the keeper has it, too
    close(handed->reply);
  }
  const int result = session->loop();
  delete session;
  delete events;
  return result;
}

}  // namespace supervise
