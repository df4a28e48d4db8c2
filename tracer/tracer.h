// Follows every thread of the application: waits, turns wait statuses into stops, keeps the tree of
// tasks, asks the policy at call entries, exits and signals, and can hold, inject into, park and
// adopt all of them. Knows no policy; the policy never calls ptrace.
//
// Facts it stands on (ptrace(2), verified on Linux 6.18):
//  - A child's first stop can come before its parent's birth event: it is kept until announced.
//  - An exec from a thread that is not the leader makes that thread take the leader's TID; the
//    leader and the old TID vanish without a report.
//  - A task in group stop is answered with PTRACE_LISTEN.
//  - A thread whose call was interrupted only by us (restart codes, or -EINTR with no signal to
//    deliver) is rewound to the call, so that no call ever returns EINTR on our account.
//  - While a vfork is open the parent can't be stopped: the child runs on until exec or exit.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"
#include "tracer/notes.h"
#include "tracer/ptrace_raw.h"
#include "tracer/stub/layout.h"
#include "tracer/task.h"

namespace supervise {

namespace stub {
class Stub;
struct Known;
}

enum class EntryAction {
  Pass,   // no exit stop
  Watch,  // on_exit will be asked
  Hold,   // stays before the call until release(); then the entry is asked again
  Skip,   // not executed; returns `result`
};
struct EntryDecision {
  EntryAction action = EntryAction::Pass;
  long result = 0;
};

enum class ExitAction {
  Continue,  // registers as they are now in `regs`
  Again,     // run the call again at once, with the arguments now in `regs`
  AgainHeld,     // the same, but not before release()
  ContinueHeld,  // Continue, but not before release()
};

enum class SignalAction {
  Deliver,
  Drop,
  DropHeld,  // drop it and keep the task stopped until release()
  Stop,      // SIGSTOP in its place: the kernel lets no other signal stop an orphaned process group
};

// What the stub knew of a call that it made.
struct StubNote {
  std::uint64_t entered = 0;  // ring position at its entry; 0: it did not look
  std::uint32_t file = 0;     // 1 + index of the file in stub::Control::files; 0: not known
  std::uint32_t path = 0;     // 1 + index of the storage path
  std::uint64_t learned = 0;  // stub::Control::learned at its entry
  bool facts_known = false;   // of a call that changes names: what they stood for before it
  stub::Area::Fact facts[2] = {};

  StubNote() = default;
  explicit StubNote(const stub::Area& area)
      : entered(area.entered), file(area.file), path(area.path), learned(area.learned),
        facts_known(area.facts_known), facts{area.facts[0], area.facts[1]} {}
};

class TracerPolicy {
 public:
  virtual ~TracerPolicy() = default;
  virtual EntryDecision on_entry(Task& task) = 0;
  virtual ExitAction on_exit(Task& task, long result, ptrace_raw::Regs& regs) = 0;
  // A call that the stub made and could not end alone: `result` is what came and stands in regs.rax.
  virtual ExitAction on_result(Task&, long /*result*/, ptrace_raw::Regs&, const StubNote&) { return ExitAction::Continue; }
  // A call that ended between two tracers.
  virtual ExitAction on_left_behind(Task& task, long result, ptrace_raw::Regs& regs) {
    return on_result(task, result, regs, StubNote());
  }
  virtual void on_ring_filling() {}  // the journal's ring is half full
  // The call that was entered will be entered again from the beginning (hold, restart).
  virtual void on_call_dropped(Task& task) = 0;
  virtual SignalAction on_signal(Task& task, const siginfo_t& info) = 0;
  virtual void on_new_task(Task& task, pid_t parent) = 0;
  virtual void on_exec(Task& task) = 0;
  virtual void on_end(const Task& task, const Stop& stop) = 0;
  // A child of ours that is no tracee ended (the world's init, a relay).
  virtual void on_other_child(pid_t pid, const Stop& stop) = 0;
};

class Tracer {
 public:
  explicit Tracer(TracerPolicy& policy);
  ~Tracer();
  // Before the first task. Nothing is patched without it, or while it is paused.
  void use_stub(std::unique_ptr<stub::Stub> stub);
  stub::Stub* stub() const { return stub_.get(); }
  // With everything held: takes what is shared with us out of all processes, as an image must have it;
  // or puts it in again (also after adopt() of an image's processes, whose arenas it finds).
  void unshare_stub(Deadline deadline);
  // `mapped`: what is shared is there, but new to this tracer, which may not run anything in them yet.
  void share_stub(Deadline deadline, bool mapped = false);
  // The control block's flags have changed, or, with everything held, all of it.
  void renew_copies(bool all_of_it);

  // Where it notes what nobody else can tell when it dies.
  void note_in(TracerNotes* notes) { notes_ = notes; }
  TracerNotes* notes() const { return notes_; }
  // Tasks are killed when this process dies (PTRACE_O_EXITKILL); so at first. To be told before tasks are
  // seized; of those that are there already only stopped ones learn it, so with everything held, or of the
  // first, which stands.
  bool exit_kill() const { return exit_kill_; }
  void set_exit_kill(bool on);

  // Seizes a process that waits before its exec.
  Status seize_new(pid_t pid);
  // Serves what is there, at most a few rounds. False when nothing was.
  bool drain();
  bool has_tasks() const { return !tasks_.empty(); }

  std::map<pid_t, Task>& tasks() { return tasks_; }
  const std::map<pid_t, Task>& all() const { return tasks_; }
  Task* find(pid_t tid);
  std::vector<pid_t> processes() const;  // thread group ids, ascending
  Task* any_thread(pid_t tgid);          // one that is stopped and clean when there is one

  void release(Task& task);  // lets a held task go on
  bool holding() const { return holding_; }
  // All of them stand: hold_all or adopt has ended well. While hold_all is under way, results that the stub
  // had are told, so the policy can be asked before.
  bool held() const { return held_; }

  // Brings every task to a clean stop, except a vfork child that the policy holds at its call and
  // the parent that waits for it (it runs no instruction either). The error names the thread and the call that would not
  // stop in time (uninterruptible sleep); everything goes on then.
  Status hold_all(Deadline deadline);
  void resume_all();  // except tasks that the policy holds
  // With everything held: lets one held task run until its call has ended, then holds it again.
  Status run_call_alone(Task& task, Deadline deadline);

  // From the held state: every process in state T (SIGSTOP), no tracer. What the application had
  // stopped itself is in stopped_by_app().
  Status park(Deadline deadline);
  const std::set<pid_t>& stopped_by_app() const { return stopped_by_app_; }
  // Takes over the trees of `roots` in state T; held afterwards (resume_all lets them go).
  // `before_any_runs`: with all of them stopped, before signals of our own are taken.
  Status adopt(const std::vector<pid_t>& roots, const std::set<pid_t>& stopped_by_app, Deadline deadline,
               const std::function<void()>& before_any_runs = {});
  // The same after another tracer's death, whose notes these are; its tasks have been sent SIGSTOP and did
  // nothing since but end the call that they were in. None is in the stub afterwards, open vforks are finished.
  // Then tell_results(): those calls' errors.
  Status take_over(const std::vector<pid_t>& roots, TracerNotes& notes, Deadline deadline);
  void tell_results();
  // With everything held: queues SIGSTOP and takes EXITKILL off, so that the death of this process
  // leaves the application stopped and not running without a tracer; undo_safety takes it back.
  Status make_safe();
  void undo_safety();

  struct Figures {
    std::uint64_t stops = 0, entries = 0, exits = 0, signals = 0;
  };
  const Figures& figures() const { return figures_; }

 private:
  friend class Injector;
  // tracer/stub_tasks.cpp
  void begin(Task& task);
  void learn_parentage(Task& parent, Task& child);
  bool leave_stub(Task& task, ptrace_raw::Regs& regs);
  void tell_result(Task& task, long result, std::uint64_t slow, const StubNote& note, ptrace_raw::Regs& regs);
  bool serve_report(Task& task, const ptrace_raw::CallInfo& info);
  void give_area(Task& task);
  bool write_area(Task& task);
  // tracer/stub_start.cpp
  void serve_soon(pid_t tid);
  bool start_program(Task& task);  // true: it runs, under Task::start
  bool serve_start(Task& task, std::uint64_t ip);
  bool share_with(Task& task);
  std::vector<stub::Known> learn_site(const Task& task, std::uint64_t site, int nr, bool first);
  // `known`: sites that are due since they are busy in other processes; true: this one is due by itself.
  bool patch_due(Task& task, std::uint64_t site, int nr, std::vector<stub::Known>& known);
  static void enter_slot(const Task& task, std::uint64_t site, ptrace_raw::Regs& regs);
  bool patch(Task& task, std::uint64_t site, int nr);
  bool patch_known(Task& task, const std::vector<stub::Known>& sites);
  void patch_wanted(Task& task);
  // By the task itself, in its arena; it stands at the entry of a call, and has to be put back to `regs`.
  Status run_in_arena(Task& task, const ptrace_raw::Regs& regs, std::uint32_t code, std::span<std::byte> table);
  Status make_maps(Task& task, const ptrace_raw::Regs& regs, stub::BootMap (&maps)[stub::kBootMaps + 1]);
  Status make_calls(Task& task, const ptrace_raw::Regs& regs, std::span<stub::ArenaCall> calls);
  Status share_at_entry(Task& task, const ptrace_raw::Regs& regs);
  bool stop_others(const Task& self, std::vector<std::pair<pid_t, int>>& stopped, bool sleeping_too = false);
  void drop_area(Task& task);
  void forget_descriptors(const Task& task, const Call& call);
  bool replaces_descriptor(const Task& task) const;
  void look_at_own_rules(Task& task);
  void refuse_space(Task& task, const char* why, bool all);
  void ask_entry(Task& task, bool ours);
  Task& add(pid_t tid, pid_t parent_tgid = 0);
  void remove(pid_t tid);
  void handle(pid_t tid, int status);
  void handle_birth(Task& task);
  void handle_exec(Task& task);
  void handle_entry(Task& task);
  void handle_exit(Task& task);
  void handle_signal(Task& task);
  void stop_woken(const Task& self);
  void leave_signals(const Task& task);
  void handle_interrupted(Task& task);
  void handle_group_stop(Task& task);
  void stay_stopped(Task& task);
  // Resumes a task after its stop was served; while holding, towards a clean stop instead.
  void go_on(Task& task, int sig = 0);
  bool must_hold(const Task& task) const;
  void drop_call(Task& task);
  void rewind(Task& task, ptrace_raw::Regs& regs);
  void settle(Task& task);  // a clean stop: rewinds an interrupted call
  bool is_alone(const Task& task) const;  // its process has no other thread
  bool has_held_vfork_child(const Task& parent) const;
  unsigned long options() const;
  // tracer/take_over.cpp
  void put_injected_back(const TracerNotes& notes);
  void leave_handlers(Task& task);
  Status finish_vforks(Deadline deadline);
  bool finds_vfork(Task& task);
  bool wait_and_handle(Deadline deadline);
  std::string describe_stuck() const;

  TracerPolicy& policy_;
  std::map<pid_t, Task> tasks_;
  bool holding_ = false;
  bool held_ = false;
  bool safe_ = false;
  bool exit_kill_ = true;
  TracerNotes* notes_ = nullptr;
  std::set<pid_t> stopped_by_app_;
  Figures figures_;
  std::unique_ptr<stub::Stub> stub_;
};

// Waits for a SIGCHLD (which the program keeps blocked) or the deadline.
void wait_for_sigchld(Deadline deadline);

}  // namespace supervise
