// The main job's guest: processes and threads that write, sync, map, rename, lock and append under one
// directory, in lock-step rounds over pipes. Every result is checked; what the tree holds in the end
// depends on ROUNDS and SEED alone, except for the order of records in shared*.log and append.log.
//
//   writer DIR ROUNDS SEED [--delay MS] [--big MIB] [--limit SECONDS] [--no-locks]
//   writer --expect DIR ROUNDS SEED [--big MIB]   the tree of an undisturbed run, quickly
//   writer --compare DIR EXPECTED                 both trees: names, sizes, bytes, records once each
//
// Each round takes about MS milliseconds. Exit: 0 all as expected, 1 not, 2 usage.
#include <memory>
#include <signal.h>
#include <sys/wait.h>
#include <thread>
#include <vector>

#include "writer.h"

namespace writer {

std::string dir;
long rounds, seed, delay_ms, big_mib;

namespace {

bool locks = true;

// A worker's place: its own process, or a thread of main; driven by one byte a round over pipes.
struct Seat {
  std::vector<std::unique_ptr<Worker>> workers;
  bool process;
  int go[2], done[2];
  pid_t pid = 0;
  std::thread thread;
};

void serve(Seat& seat) {
  for (auto& w : seat.workers) w->open_all();
  char c = 'r';
  want("worker", "write(done)", write(seat.done[1], &c, 1), 1);
  for (long r = 0; r < rounds; ++r) {
    if (want("worker", "read(go)", read(seat.go[0], &c, 1), 1) != 1) return;
    for (auto& w : seat.workers) w->round(r);
    want("worker", "write(done)", write(seat.done[1], &c, 1), 1);
  }
  // Closed when all have done their last round: a holder's locks are tested until then.
  if (want("worker", "read(end)", read(seat.go[0], &c, 1), 1) != 1) return;
  for (auto& w : seat.workers) w->close_all();
}

void wait_for(Seat& seat) {
  char c;
  errno = 0;
  if (want("main", "read(done)", read(seat.done[0], &c, 1), 1) != 1) exit(1);
}

int run() {
  Partner partner;
  if (mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST) {
    line("FAIL mkdir %s: %s", dir.c_str(), strerror(errno));
    return 1;
  }
  partner.turns = want_fd("main", "open", open(in("turns.log").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644));
  partner.free = want_fd("main", "open", open(in("shared.log").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644));
  want("main", "pipe", pipe(partner.to_child) | pipe(partner.to_parent), 0);

  std::vector<std::unique_ptr<Seat>> seats;
  const auto seat = [&](bool process, auto... workers) {
    auto s = std::make_unique<Seat>();
    s->process = process;
    (s->workers.emplace_back(workers), ...);
    want("main", "pipe2", pipe2(s->go, 0) | pipe2(s->done, 0), 0);
    if (process) {
      s->pid = fork();
      want("main", "fork", s->pid >= 0, 1);
      if (s->pid == 0) {
        for (auto& other : seats) close(other->go[1]), close(other->done[0]);
        close(s->go[1]), close(s->done[0]);
        serve(*s);
        _exit(*guest::failures ? 1 : 0);
      }
      close(s->go[0]), close(s->done[1]);
    }
    seats.push_back(std::move(s));
  };
  seat(true, appender("a"));
  seat(true, appender("b"), mapped());
  seat(true, shared_offset(partner, true));
  seat(true, names());
  Seat* holders = nullptr;
  if (locks) {
    seat(true, lock_holder());
    holders = seats.back().get();
    wait_for(*holders);
    seat(true, refused(holders->pid));
  }
  // Threads after the last fork.
  const size_t first_thread = seats.size();
  seat(false, scatter());
  seat(false, log_of_lines(), appender("c"));
  seat(false, state());
  seat(false, shared_offset(partner, false));
  if (big_mib) seat(false, big());
  for (size_t i = first_thread; i < seats.size(); ++i)
    seats[i]->thread = std::thread([s = seats[i].get()] { serve(*s); });
  for (auto& s : seats)
    if (s.get() != holders) wait_for(*s);

  for (long r = 0; r < rounds; ++r) {
    char c = 'g';
    for (auto& s : seats) want("main", "write(go)", write(s->go[1], &c, 1), 1);
    for (auto& s : seats) wait_for(*s);
    line("round %ld", r + 1);
  }
  for (auto& s : seats) want("main", "write(end)", write(s->go[1], "e", 1), 1);
  for (auto& s : seats) {
    if (s->thread.joinable()) s->thread.join();
    if (!s->process) continue;
    int status = 0;
    want("main", "waitpid", waitpid(s->pid, &status, 0), s->pid);
    want("main", "a worker's exit", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), *guest::failures && WIFEXITED(status) ? WEXITSTATUS(status) & 1 : 0);
  }
  line("done: %ld rounds, %d failures", rounds, *guest::failures);
  return *guest::failures ? 1 : 0;
}

int usage() {
  line("usage: writer [--expect] DIR ROUNDS SEED [--delay MS] [--big MIB] [--limit SECONDS] [--no-locks]\n"
       "       writer --compare DIR EXPECTED");
  return 2;
}

}  // namespace
}  // namespace writer

using namespace writer;

int main(int argc, char** argv) {
  std::vector<std::string> names;
  bool expect = false, comparing = false;
  long limit = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const char* v = i + 1 < argc ? argv[i + 1] : "0";
    if (a == "--expect") expect = true;
    else if (a == "--compare") comparing = true;
    else if (a == "--no-locks") locks = false;
    else if (a == "--delay") delay_ms = atol(v), ++i;
    else if (a == "--big") big_mib = atol(v), ++i;
    else if (a == "--limit") limit = atol(v), ++i;
    else if (a.starts_with("--")) return usage();
    else names.push_back(a);
  }
  if (comparing) return names.size() >= 2 ? compare(names[0], names[1]) : usage();
  if (names.size() != 3 || (rounds = atol(names[1].c_str())) < 1) return usage();
  std::error_code error;
  dir = fs::absolute(names[0], error).string();
  seed = atol(names[2].c_str());
  if (expect) delay_ms = 0;
  alarm((unsigned)(limit ? limit : 120 + rounds * delay_ms / 200));
  signal(SIGPIPE, SIG_IGN);
  return run();
}
