#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "supervisor/base/clock.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/events.h"
#include "supervisor/events_format.h"

namespace supervise {
namespace {

constexpr Millis kPatience{200};  // for a reader that does not read; then the line is dropped
constexpr std::size_t kChunk = 4096;  // PIPE_BUF: fits when poll says writable

// SIGPIPE of a write in this scope is swallowed; the disposition, which children inherit, is left
// alone.
class NoSigpipe {
 public:
  NoSigpipe() {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
    sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
  }
  ~NoSigpipe() {
    const timespec now{};
    if (!was_pending_)
      while (::sigtimedwait(&pipe_, nullptr, &now) < 0 && errno == EINTR) {
      }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;

 private:
  sigset_t pipe_, before_;
  bool was_pending_ = false;
};

// 0 or the errno; ETIMEDOUT when the reader did not take it in time.
int write_line(int fd, std::string_view line) {
  const NoSigpipe guard;
  const auto deadline = Deadline::in(kPatience);
  while (!line.empty()) {
    pollfd p{fd, POLLOUT, 0};
    const int ready = ::poll(&p, 1, deadline.left_ms());
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return ETIMEDOUT;
    const ssize_t n = ::write(fd, line.data(), std::min(line.size(), kChunk));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
      if (deadline.passed()) return ETIMEDOUT;
      continue;
    }
    if (n < 0) return errno;
    line.remove_prefix(static_cast<std::size_t>(n));
  }
  return 0;
}

class StderrSink : public EventSink {
 public:
  StderrSink(LogFormat format, LogLevel level) : format_(format), level_(level) {}

  void on_event(const Event& event) override {
    if (event.level > level_) return;
    if (lost_ > 0 && write(fmt::format("supervise: {} events were lost here, stderr took nothing\n",
                                       lost_), format_ == LogFormat::Text))
      lost_ = 0;
    const auto line =
        (format_ == LogFormat::Json ? event_as_json(event) : event_as_text(event)) + '\n';
    if (!write(line, true)) ++lost_;
  }

 private:
  bool write(const std::string& line, bool wanted) {
    return !wanted || write_line(STDERR_FILENO, line) == 0;
  }

  LogFormat format_;
  LogLevel level_;
  std::uint64_t lost_ = 0;
};

// Every line is there or missing as a whole, also with two writers: O_APPEND and one write.
class FileSink : public EventSink {
 public:
  FileSink(UniqueFd fd, std::string path, LogLevel level)
      : fd_(std::move(fd)), path_(std::move(path)), level_(std::max(level, LogLevel::Info)) {}

  void on_event(const Event& event) override {
    if (event.level > level_) return;
    const std::string line = event_as_json(event) + '\n';
    ssize_t n;
    {
      const NoSigpipe guard;
      do n = ::write(fd_.get(), line.data(), line.size());
      while (n < 0 && errno == EINTR);
    }
    const bool failed = n != static_cast<ssize_t>(line.size());
    if (failed && !failing_) {
      const auto error = n < 0 ? errno_error("write to the events file " + path_)
                               : plain_error("write to the events file " + path_ + " was cut short");
      write_line(STDERR_FILENO, "supervise: " + error.message() + "; events are lost there\n");
    }
    failing_ = failed;
  }

 private:
  UniqueFd fd_;
  std::string path_;
  LogLevel level_;
  bool failing_ = false;
};

}  // namespace

Status add_log_sinks(Events& events, const LogOptions& options) {
  events.add(std::make_unique<StderrSink>(options.format, options.level));
  if (options.events_file.empty()) return ok_status();
  UniqueFd fd(::open(options.events_file.c_str(),
                     O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0640));
  if (!fd) return errno_error("--events: open " + options.events_file);
  events.add(std::make_unique<FileSink>(std::move(fd), options.events_file, options.level));
  return ok_status();
}

}  // namespace supervise
