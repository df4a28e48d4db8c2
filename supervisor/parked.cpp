#include "supervisor/parked.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include <nlohmann/json.hpp>

#include "restore/host_identity.h"
#include "supervisor/copy_keeper.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {

using nlohmann::json;

constexpr std::size_t kLongest = 64 << 10;

}  // namespace

std::string news_to_text(const CopyNews& n) {
  json j{{"kind", static_cast<int>(n.kind)}, {"text", n.text.substr(0, 8192)}};
  if (n.kind == CopyNews::Ready)
    j.update({{"level", n.level}, {"clash", n.clash.substr(0, 8192)}, {"verify_ms", n.verify_ms},
              {"restore_ms", n.restore_ms}, {"bytes", n.image_bytes}, {"pinned", n.pinned_bytes},
              {"files", n.files}});
  if (n.kind == CopyNews::TakenOver) j.update({{"pid", n.pid}, {"init", n.init}});
  if (n.kind == CopyNews::Over) j["status"] = n.status;
  if (n.kind == CopyNews::Awake) j.update({{"wake_ms", n.wake_ms}, {"woken", n.woken_unix_ns}});
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<CopyNews> news_from_text(const std::string& text) {
  const json j = json::parse(text, nullptr, false);
  try {
    CopyNews n;
    const int kind = j.at("kind").get<int>();
    if (kind < 0 || kind > CopyNews::Over) return plain_error("news of no known kind");
    n.kind = static_cast<CopyNews::Kind>(kind);
    n.text = j.at("text").get<std::string>();
    n.level = j.value("level", "");
    n.clash = j.value("clash", "");
    n.verify_ms = j.value("verify_ms", 0.0);
    n.restore_ms = j.value("restore_ms", 0.0);
    n.wake_ms = j.value("wake_ms", 0.0);
    n.woken_unix_ns = j.value("woken", std::int64_t{0});
    n.pid = j.value("pid", 0);
    n.init = j.value("init", 0);
    n.status = j.value("status", 0);
    n.image_bytes = j.value("bytes", std::uint64_t{0});
    n.pinned_bytes = j.value("pinned", std::uint64_t{0});
    if (j.contains("files")) n.files = j["files"].get<decltype(n.files)>();
    return n;
  } catch (const json::exception& e) {
    return plain_error(std::string("news of a copy: ") + e.what());
  }
}

bool send_news(int line, const CopyNews& news) {
  const std::string text = news_to_text(news);
  return send(line, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno == EAGAIN;
}

std::optional<CopyNews> receive_news(int line) {
  std::string text(kLongest, '\0');
  ssize_t n;
  do n = line >= 0 ? recv(line, text.data(), text.size(), MSG_DONTWAIT) : 0;
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return std::nullopt;
  CopyNews lost;
  if (n <= 0) return lost;
  text.resize(static_cast<std::size_t>(n));
  auto news = news_from_text(text);
  if (news) return news.take();
  lost.text = news.error().message();
  return lost;
}

Result<std::unique_ptr<Copy>> Copy::start(const StandbyOptions& options, Events& events, const CopyPlan& plan,
                                          const std::function<void()>& in_child) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return errno_error("socketpair for a copy");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  const pid_t standby = getpid();
  const pid_t pid = fork();
  if (pid < 0) return errno_error("fork for a copy");
  if (pid == 0) {
    // Until it waits for its message. The standby may have died before this line.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != standby) _exit(125);
    ours.reset();
    in_child();
    _exit(keep_copy(options, events, plan, std::move(theirs)));
  }
  std::unique_ptr<Copy> copy(new Copy);
  copy->plan_ = plan;
  copy->pid_ = pid;
  copy->identity_ = HostIdentity::self();
  copy->identity_.pid = pid;
  copy->identity_.start_time = start_time_of(pid).value_or(0);
  copy->line_ = std::move(ours);
  return copy;
}

Copy::~Copy() {
  if (!woken_) end();
}

std::optional<CopyNews> Copy::read_news() {
  auto news = receive_news(line_.get());
  if (news && news->kind == CopyNews::Lost && news->text.empty()) {
    line_.reset();
    if (pidfd_) pid_ = 0;
  }
  return news;
}

Status Copy::wake(const WakeOrder& order) {
  // The number is read before the wake, the rest afterwards.
  const std::string text = fmt::format("{} ", order.slot) +
                           json{{"control", order.control_name}, {"activated", order.activated}}.dump(
                               -1, ' ', false, json::error_handler_t::replace);
  woken_ = true;
  if (send(line_.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return errno_error("wake the copy");
  return {};
}

void Copy::serve() { (void)!send(line_.get(), "s", 1, MSG_NOSIGNAL | MSG_DONTWAIT); }

void Copy::follow(pid_t pid, pid_t init) {
  // It is dead, so this does not take long.
  for (const Deadline soon = Deadline::in(Millis(1000)); pid_ > 0 && waitpid(pid_, nullptr, WNOHANG) == 0 && !soon.passed();)
    poll(nullptr, 0, 1);
  pid_ = pid;
  init_ = init;
  pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  identity_.pid = pid;
  identity_.start_time = start_time_of(pid).value_or(0);
}

bool Copy::signal(int sig) const {
  if (pidfd_) return syscall(SYS_pidfd_send_signal, pidfd_.get(), sig, nullptr, 0) == 0;
  return pid_ > 0 && kill(pid_, sig) == 0;
}

void Copy::end() {
  line_.reset();
  if (pid_ <= 0) return;
  // It ends its world by itself when its line is closed; in the middle of a restore it does not look.
  const Deadline patience = Deadline::in(Millis(2000));
  const Deadline last = Deadline::in(Millis(7000));
  bool killed = false;
  while (waitpid(pid_, nullptr, WNOHANG) == 0 && !last.passed()) {
    if (!killed && patience.passed()) {
      kill(pid_, SIGKILL);
      killed = true;
    }
    poll(nullptr, 0, 2);
  }
  pid_ = 0;
}

std::uint64_t Copy::resident_bytes() const {
  std::uint64_t pages = 0;
  if (pid_ > 0) {
    for (pid_t pid : process_tree_of(init_ > 0 ? init_ : pid_)) {
      if (pid == pid_) continue;
      std::uint64_t size = 0, resident = 0;
      std::ifstream(fmt::format("/proc/{}/statm", pid)) >> size >> resident;
      pages += resident;
    }
  }
  return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace supervise
