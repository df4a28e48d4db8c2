// One supervised run: owns the world, the tracer, the storage paths and the loop
// (wait, step, resume). The way of a call: on_entry -> handlers -> on_exit -> on success the
// journal learns, on an error recovery names the rung, and what needs all threads held is done by
// the loop (fail_over, handover, checkpoint), never inside a stop.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "restore/image_store.h"
#include "restore/manifest.h"
#include "supervisor/drain_pace.h"
#include "supervisor/events.h"
#include "supervisor/handlers/call_context.h"
#include "supervisor/keeper.h"
#include "supervisor/options.h"
#include "supervisor/recovery.h"
#include "supervisor/ring_journal.h"
#include "supervisor/standby_link.h"
#include "supervisor/storage_path.h"
#include "supervisor/warm/warm_point.h"
#include "supervisor/world.h"
#include "tracer/tracer.h"

struct signalfd_siginfo;

namespace supervise {

class ControlReply;
class ControlServer;
struct ControlRequest;
class PassedFds;
class Relocation;
class Snapshot;

struct SessionConfig {
  std::string name;
  bool name_given = true;  // a default name gets our PID when it is taken
  std::vector<PathSpec> paths;    // dirs on this host
  std::vector<std::string> places;  // where the application sees them, in the order of `paths`
  std::vector<Rule> rules;
  bool observe = false;
  JournalMode journal = JournalMode::Content;
  std::uint64_t journal_limit = 256ull << 20;
  StubMode stub = StubMode::Off;
  bool outlive = false;           // the application goes on when its supervisor dies at any time
  std::string standby;            // dir:PATH or HOST:PORT, empty: none
  std::string images_dir;
  std::string tls_dir;            // for a standby at HOST:PORT
  TcpPolicy tcp = TcpPolicy::Keep;
  int handover_exit_code = 113;
  Millis path_deadline{30000};
  WarmRules warm;
  Millis refresh{0};              // a new warm image every so often; 0: none
  std::vector<std::string> command;  // for the manifest and status
  LogOptions log;                 // as `events` of the session has them
  std::string claim;              // the image that was claimed for it (claim_watch.h), empty: none
  int instance = 0;               // it is a standby's copy, activated from that image as this one; 0: it is not
  std::string activated;          // which image was activated here, and since when; empty: none
};

struct Incident {
  std::uint64_t id = 0;
  std::int64_t first_error_unix_ns = 0;
  Clock::time_point first_error{};
};

// One failed call on its way through the ladder; lives until the call succeeds or is reported.
struct FailedCall {
  StoragePath* path = nullptr;
  int nr = -1;
  int err = 0;
  CallKind kind = CallKind::Ordinary;
  Ladder ladder;
  Attempts attempts;
  Clock::time_point again_at{};   // retry and wait: when it is released
  enum { Timer, Replay, Alternate, Running } waits_for = Timer;
  bool sigbus = false;
  std::uint64_t sigbus_addr = 0;
  std::uint64_t incident = 0;
};

// A transfer that is finished in pieces.
struct Pieces {
  Args original{};
  std::uint64_t done = 0;
};

class Session : public TracerPolicy {
 public:
  Session(SessionConfig config, Events& events);
  ~Session() override;

  // Creates the world and the application in it, stopped before its first instruction runs freely.
  Status launch(const std::vector<std::string>& argv);
  // Takes over a restored tree (its root's PID inside) in `world`; every thread is held until wake(),
  // which does nothing else, or loop().
  // `guarded`: inner PIDs that got a handler for SIGTRAP for the dump (tracer/snapshot.h).
  Status adopt(std::unique_ptr<World> world, int root, const std::set<pid_t>& stopped,
               const std::set<int>& guarded);
  void wake() { tracer_.resume_all(); }
  Status open_control();  // it answers; launch() does this itself
  pid_t first_process() const { return app_pid_; }
  pid_t world_init() const { return world_ ? world_->init_pid() : 0; }
  // The name of the control socket (empty: as it is), what it answers to a further `activate`, the image and
  // the instance.
  void on_activated(const std::string& name, const std::string& answer, const std::string& image, int instance) {
    if (!name.empty()) config_.name = name;
    config_.activated = answer;
    config_.claim = image;
    config_.instance = instance;
  }
  // Before any thread is let go, when the application becomes another instance of itself.
  Status tell_generation(std::uint64_t generation, int instance) {
    return world_->tell_generation(generation, instance);
  }
  bool has_processes() const { return tracer_.has_tasks(); }
  bool serve_tracees() { return tracer_.drain(); }  // while they are held: notices ends
  // `work`, which must not block, is called in loop() at each of its turns; that `fd` becomes readable
  // makes one turn, once, and once more in each keeper that takes over. A successor is given the descriptor.
  void watch(int fd, std::function<void()> work);
  // After wake(): from the next turn of loop() on the application goes on when we die (with SessionConfig::outlive).
  void outlive() { keeper_missed_ = true; }
  // Until the application has ended or was handed over. Returns supervise's exit status.
  int loop();

  // In a successor (succession.h): all that the former one was, threads held. stand_down() lets them go again,
  // settle() is the end of it: from there on there is no way back to the former one.
  Status succeed(const nlohmann::json& state, const LogOptions& log);
  void stand_down();
  void settle(const std::string& former_version);
  double stood_ms() const { return stood_ms_; }  // how long the threads stood for it

  void carry(std::uint64_t incidents) { incidents_ = incidents; }

  // On the second host: told once, at the first good I/O on a storage path.
  std::function<void()> on_first_io;
  // In a keeper: it has become the supervisor. In each supervisor: the application has ended, with this status.
  std::function<void()> on_taken_over;
  std::function<void(int status)> on_over;

  // TracerPolicy
  EntryDecision on_entry(Task& task) override;
  ExitAction on_exit(Task& task, long result, ptrace_raw::Regs& regs) override;
  ExitAction on_result(Task& task, long result, ptrace_raw::Regs& regs, const StubNote& note) override;
  ExitAction on_left_behind(Task& task, long result, ptrace_raw::Regs& regs) override;
  void on_ring_filling() override;
  void on_call_dropped(Task& task) override;
  SignalAction on_signal(Task& task, const siginfo_t& info) override;
  void on_new_task(Task& task, pid_t parent) override;
  void on_exec(Task& task) override;
  void on_end(const Task& task, const Stop& stop) override;
  void on_other_child(pid_t pid, const Stop& stop) override;

 private:
  // session_recovery.cpp
  ExitAction fail(Task& task, CallContext& ctx, int err, ptrace_raw::Regs& regs);
  ExitAction give_result(Task& task, long result, ptrace_raw::Regs& regs);
  SignalAction on_sigbus(Task& task, const siginfo_t& info);
  void step_ladder(Task& task, FailedCall& call);
  void report_failed(Task& task, FailedCall& call);
  void open_incident(StoragePath& path, const std::string& what);
  void close_incident_if_done();
  Surroundings surroundings(const StoragePath& path) const;
  void completed(Task& task, FailedCall& call);
  void serve_recovery();               // timers, replays, alternates that are due
  void serve_replays();

  // session_durable.cpp
  // On the path in use: synced; with `rewrite` (a sync has failed) replayed and proven.
  bool make_durable(StoragePath& path, const char* why, bool rewrite = false);
  Status sync_in_place(StoragePath& path);
  void refresh_mapped(StoragePath& path);
  void forget_deleted(StoragePath& path);  // session_deleted.cpp
  Status replay_on(StoragePath& path, const std::string& dir);
  Result<std::string> read_back(const StoragePath& path, const std::string& name, std::uint64_t ino,
                                std::uint64_t offset, std::uint64_t length);
  bool finish_at_end();                // the application ended: what is not durable yet

  // session_stub.cpp
  void start_stub();
  void refresh_stub();       // paths or rules have changed
  void refresh_stub_flags();
  void drain_ring();
  void serve_ring();
  void renew_descriptors();  // with everything held
  void give_hint(Task& task, const CallContext& ctx);
  void learn_for_stub(const Task& task, const CallContext& ctx, long result);
  bool take_file_lock(const Task& task, const CallContext& ctx);
  bool lock_names(const Task& task, const CallContext& ctx);
  void unlock_names(const Task& task, const CallContext& ctx);
  void share_directory(const Task& task, StoragePath& path, const std::string& name);
  void serve_stub();

  // session_failover.cpp
  bool fail_over(StoragePath& path);   // switch to an alternate with everything held
  bool try_alternate(StoragePath& path, std::size_t index);
  Status run_hook(const StoragePath& path, const std::string& command, const std::string& dir,
                  const std::string& from, const std::string& reason);
  void move_late();                    // as far as their threads are held by now

  // session_keeper.cpp
  // A keeper with everything as it is now; with all threads held they are safe.
  enum class Stage { Calm, Image, Incident };
  void protect(Stage stage = Stage::Incident);
  void unprotect();   // it is over: the keeper of a calm run stands again, or none
  bool stand();       // a keeper of a calm run, if there is to be one
  void serve_keeper();
  void stop_tasks(pid_t dying, bool at_exit);  // in the keeper
  void forget_calls();
  void note_pieces(const Task& task, const Pieces& pieces);
  void forget_pieces(pid_t tid);
  void begin_journal_anew(StoragePath& path);
  void set_step(int step);
  int survive(pid_t dead);  // in the keeper, after the supervisor's death
  int go_on_after(pid_t dead);
  void watch_signals();

  // session_succession.cpp
  void give_way(const ControlRequest& request, ControlReply reply);
  std::string why_not_now() const;  // empty: a successor may come
  nlohmann::json succession_json(PassedFds& fds, Clock::time_point began);
  Status regain(const std::vector<pid_t>& roots, const std::set<pid_t>& stopped);

  // session.cpp
  Status fill_paths(bool look = true);  // at the directories; they may be dead later
  void learn_criu_version();
  bool release_waiting_writers(const InodeKey& key);
  void after_stop_work();
  void serve_control();
  void serve_signals();
  void forward(const signalfd_siginfo& info) const;
  void stop_as_job();
  int exit_status() const;
  void tell_over(int status);
  Clock::time_point next_timer() const;
  std::string status_json() const;
  void run_handover(const std::string& reason);

  // session_ship.cpp
  StandbyTarget standby_target() const;
  Status learn_standby();     // at HOST:PORT: its certificate files can be read
  void begin_shipping(const ImageStore::Draft& draft);
  void serve_shipping();      // of an image that the application does not wait for
  void stop_shipping();
  void tell_shipping(const ShipNews& news);
  void await_shipping();      // as long as something moves

  // session_warm.cpp
  void watch_warm_point();
  bool holds_for_warm_point(const Task& task);
  void serve_warm_point();
  void end_warm_point();
  void note_threads();

  // session_image.cpp
  // Everything held: the image's facts; parks, dumps, finishes the image. The application is in
  // state T and untraced afterwards, whatever the result.
  struct Made {
    ImageRef image;
    Manifest manifest;
    Millis frozen{0};
    double dump_ms = 0, ship_ms = 0;
  };
  Result<std::vector<pid_t>> image_roots() const;
  Result<Made> make_image(ImageStore& store, const std::string& reason, std::uint64_t epoch,
                          const std::function<void(const ImageStore::Draft&)>& begun = {});
  void fill_manifest(Manifest& manifest, pid_t root, const std::string& reason) const;
  Status take_back(const std::vector<pid_t>& roots);  // re-adopts after make_image
  void guard();    // tracer/snapshot.h's guard_traps
  void unguard();
  void let_go();   // of what is held and was not parked
  Result<std::string> run_checkpoint(bool stop, const std::string& reason = "checkpoint");

  SessionConfig config_;
  Events& events_;
  Policy policy_;
  std::unique_ptr<World> world_;
  Tracer tracer_;
  StoragePaths paths_;
  pid_t app_pid_ = 0;          // first process of the application, as we see it
  std::optional<Stop> app_end_;
  std::map<pid_t, CallContext> calls_;
  std::map<pid_t, FailedCall> failed_;
  std::map<pid_t, Pieces> pieces_;
  struct Queue {
    pid_t owner = 0;
    std::list<pid_t> waiting;
  };
  std::unique_ptr<RingJournal> ring_;   // nothing: no stub
  DrainPace drain_pace_;
  std::set<pid_t> wait_for_lock_;       // held: the stub has the file's lock
  bool stub_by_mount_ = false;
  std::string stub_problem_;            // why there is none although it was wanted
  bool want_renewal_ = false;           // the tables that the stub reads are full
  std::map<InodeKey, Queue> writers_;  // one write with an implicit offset at a time per file
  Incident incident_;
  Keeper keeper_;
  Stage stage_ = Stage::Calm;           // which keeper it is
  Clock::time_point next_keeper_{};
  bool keeper_missed_ = false;          // one is to stand, and none does yet
  pid_t took_over_from_ = 0;
  std::set<pid_t> halted_;              // processes that the keeper has stopped
  std::shared_ptr<Snapshot> parked_;  // of the threads, as they were parked for a dump
  std::set<pid_t> default_traps_;     // processes that have a handler for SIGTRAP while they are dumped
  bool guarded_ = false;
  struct Late {  // what waits for a thread that waits for its vfork child
    std::shared_ptr<Relocation> relocation;
    pid_t tid = 0;
  };
  std::vector<Late> late_;
  std::uint64_t incidents_ = 0;
  bool keep_incident_ = false;  // until the hand-over that belongs to it is decided
  bool want_handover_ = false;
  std::string handover_reason_;
  bool handover_failed_ = false;
  bool handed_over_ = false;
  bool first_io_told_ = false;
  bool resumed_ = false;       // from an image, by this process
  Clock::time_point began_succession_;
  double stood_ms_ = 0;
  int forwarded_signals_ = 0;
  bool want_job_stop_ = false; // the application is being stopped as a job
  bool job_stopping_ = false;  // our own process group has been told so
  std::unique_ptr<ControlServer> control_;
  UniqueFd signal_fd_, epoll_;
  std::function<void()> watched_;
  int watched_fd_ = -1;
  Clock::time_point started_ = Clock::now();
  std::vector<std::function<void()>> deferred_;  // control requests that need everything held
  struct ThreadNote {
    std::string reason, ref_class, peer;
    std::vector<std::string> stack;
  };
  std::map<pid_t, ThreadNote> thread_notes_;  // what the next image tells of each thread
  std::vector<ImageFact> image_facts_;
  std::unique_ptr<WarmPoint> warm_;
  Shipper shipper_;
  std::optional<ShipTarget> ship_target_;
  Clock::time_point next_ship_report_{};
  Clock::time_point next_warm_report_{};
  Clock::time_point next_refresh_ = Clock::time_point::max();
  std::string last_image_, criu_version_;
};

}  // namespace supervise
