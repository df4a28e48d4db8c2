#include "supervisor/succession.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
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

LogOptions log_options(const Json& j) {
  LogOptions log;
  log.events_file = j.at("events");
  log.format = static_cast<LogFormat>(j.at("format").get<int>());
  log.level = static_cast<LogLevel>(j.at("level").get<int>());
  return log;
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

Status take(Session& session, const Json& state) {
  try {
    return session.succeed(state);
  } catch (const Json::exception& e) {
    return plain_error(std::string("the former supervisor's state: ") + e.what());
  }
}

}  // namespace

Error exec_successor(int program, Json state, PassedFds& fds) {
  UniqueFd self(open("/proc/self/exe", O_PATH | O_CLOEXEC));
  UniqueFd memory(static_cast<int>(syscall(SYS_memfd_create, "supervise-succession", MFD_CLOEXEC)));
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
  auto text = read_from_start(from.state);
  const Json state = text ? Json::parse(*text, nullptr, false) : Json();
  if (!state.is_object() || !state.contains("form"))
    return complain("SUPERVISE_SUCCESSION is not for you: it names what a supervisor left for its successor", 125);

  // Nothing here is ever destroyed unless it succeeds: what the objects stand for is the application's.
  auto* events = new Events;
  auto* session = new Session({}, *events);
  Status status = state.at("form") == kSuccessionForm
                      ? add_log_sinks(*events, log_options(state.at("log")))
                      : plain_error(fmt::format("the former supervisor's state has form {}, this program's is {}",
                                                state.at("form").dump(), kSuccessionForm));
  if (status) status = fault_point("adopt.begin");
  if (status) status = take(*session, state);
  const int reply = state.at("reply");
  if (!status) {
    events->error("adopt.failed", status.error().message());
    if (back) _exit(125);  // the former one's keeper takes over
    session->stand_down();
    for (int fd : state.at("fds")) fcntl(fd, F_SETFD, 0);
    const Error error = exec_program(state.at("former"), fmt::format("{}:{}", from.state, status.error().message()));
    events->error("adopt.failed", error.message());
    _exit(125);
  }
  for (int fd : {from.state, state.at("former").get<int>()}) close(fd);
  if (back)
    send_control_reply(reply, false, from.failed + "; the version before goes on", {});
  else
    send_control_reply(reply, true, {},
                       Json{{"pid", getpid()},
                            {"version", SUPERVISE_VERSION},
                            {"former_version", state.at("version")},
                            {"stood_ms", session->stood_ms()}}.dump());
  if (reply >= 0) close(reply);
  const int result = session->loop();
  if (session->on_over) session->on_over();
  delete session;
  delete events;
  return result;
}

}  // namespace supervise
