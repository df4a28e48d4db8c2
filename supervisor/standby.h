// The second host's loop: which copies there are, what is prepared, woken, swapped and ended, and the
// resumption of a committed hand-over, which always wins. It touches no file of the image store itself
// before a hand-over is committed (standby_store.h).
#pragma once

#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "supervisor/control.h"
#include "supervisor/parked.h"
#include "supervisor/receiver.h"
#include "supervisor/standby_plan.h"
#include "supervisor/standby_store.h"

struct signalfd_siginfo;

namespace supervise {

class Standby {
 public:
  // `receiver`: for --listen.
  Standby(const StandbyOptions& options, Events& events, std::string app_dir, std::unique_ptr<ImageReceiver> receiver);
  ~Standby();
  // Until the resumed or activated applications have ended, or a signal came. The exit status.
  int run();

 private:
  static constexpr int kTries = 3;
  static int exit_status_of(int wait_status);

  struct Held {
    std::unique_ptr<Copy> copy;
    CopyView view;
    std::string stamp;
    CopyNews ready;           // as it was told
    int slot = 0;
    std::string activated_at{}, unarbitrated{};
    double claim_ms = 0, wake_ms = 0, total_ms = 0;
    std::optional<Clock::time_point> settle_at{};  // what follows an activation is still to be done
    std::optional<int> over{};  // the application has ended, with this status
    int status = 0;             // of its supervisor that was our child and has ended
    std::vector<int> signals{}; // came while it had none
  };
  struct Activation {  // one at a time; others wait
    ControlReply reply;
    Clock::time_point asked;
    int id = 0;               // of the copy
    Clock::time_point claim_until{};
    bool claim_pending = false, retried = false;
    double claim_ms = 0;
    std::string unarbitrated{};  // why no claim could be made
  };

  // standby.cpp
  void wait_for_events();
  void let_go_in_child();
  void outlive_in_child();  // for a child that does not end with us
  std::optional<int> serve_signals();
  std::optional<int> serve_store();
  void serve_claims();
  std::optional<int> resume_committed();
  std::optional<int> status_if_over() const;
  int running() const;

  // standby_copies.cpp
  void serve_copies();
  void on_news(Held& held, const CopyNews& news);
  void follow(Held& held, const CopyNews& news);
  void reap();
  void on_copy_end(std::map<int, Held>::iterator it, int status);
  void plan();
  void start_copy(const SeenImage& image);
  void refuse(const SeenImage& image, const std::string& reason);
  void tell_level();

  // standby_control.cpp
  void serve_control();
  std::string status_json() const;
  void activate(ControlReply reply);
  void begin_next_activation();
  void gather(const Held& held) const;
  void scatter(const Held& held) const;
  void wake(const std::string& unarbitrated);
  void finish_activation(Held& held, const CopyNews& news);
  ClaimOrder claim_order(const Held& held) const;
  void settle_activated();
  void after_activation(Held& held);
  void fail_activation(const std::string& why);
  void run_on_activate(const Held& held);
  std::string nothing_ready() const;

  const StandbyOptions& options_;
  Events& events_;
  std::string app_dir_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<ImageReceiver> receiver_;
  StoreWatch watch_;
  StoreClaims claims_;
  UniqueFd signal_fd_;
  std::map<int, Held> copies_;
  int next_id_ = 1;
  std::vector<SeenImage> images_;
  std::set<std::string> refused_;             // stamps
  std::map<std::string, int> failures_;       // by stamp
  std::map<std::uint64_t, int> most_;
  std::set<std::string> verified_;            // stamps
  std::string last_refusal_;
  std::string committed_, trouble_;
  std::set<std::string> not_ours_;            // committed images that another host has
  bool commanded_ = false;                    // a committed image may be resumed
  int resume_failures_ = 0;
  Clock::time_point resume_again_{};
  std::optional<Activation> activation_;
  std::list<Activation> waiting_;
  std::set<int> readable_;                    // descriptors, at this turn of the loop
  bool reap_due_ = true, plan_due_ = true;
  std::set<pid_t> hooks_;                     // who run --on-activate commands; they outlive us
  std::optional<int> application_status_;     // of the activated ones that have ended
  bool was_activated_ = false;
};

}  // namespace supervise
