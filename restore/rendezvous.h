// How origin and standby speak over a shared directory (dir: transport): small files, written
// durably, polled every few milliseconds. The standby keeps standby-HOST.json fresh (a heartbeat
// every 200 ms); the origin writes request.json ("prepare for generation G"), standbys answer in
// ready-G-HOST.json (ready, or the reason why not); before the commit the standby verifies the
// image and answers in verified-G-HOST.json. Clocks of different hosts are never compared: a beat is
// fresh by its file's time against the file system's own clock, or because it changes between two
// reads. Requests have an id, so that an answer to a former one counts for nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "restore/ownership.h"
#include "supervisor/base/clock.h"

namespace supervise {

struct StandbyInfo {
  HostIdentity who;
  std::int64_t beat_unix_ns = 0;
  std::string level;  // "image", "cached", "parked"
  std::vector<std::string> paths;
  std::vector<std::string> holds{};  // names of the images that it has ready or is making ready
};

struct Answer {
  HostIdentity who;
  bool ok = false;
  std::string reason;
};

class Rendezvous {
 public:
  explicit Rendezvous(std::string app_dir) : dir_(std::move(app_dir)) {}

  // Origin's side
  // Those that beat within max_age. Waits up to max_age for a change when no beat looks fresh.
  Result<std::vector<StandbyInfo>> standbys(Millis max_age) const;
  Status request(const std::string& kind, std::uint64_t generation, const std::string& image_dir,
                 const HostIdentity& origin);   // kind: "prepare", "verify"
  // First positive answer; the refusals (ok false, reasons of all) when every standby that there
  // is has refused, or at the deadline when any has; ETIMEDOUT otherwise.
  Result<Answer> await_answer(const std::string& kind, std::uint64_t generation,
                              Deadline deadline) const;
  void withdraw(std::uint64_t generation);      // rollback: removes request and answers

  // Standby's side
  Status beat(const StandbyInfo& info);
  void leave(const HostIdentity& who);
  struct Request {
    std::string kind;
    std::uint64_t generation = 0;
    std::string image_dir;
    HostIdentity origin;
    std::string id;         // of this request
  };
  // The request that stands, answered or not. A relative image_dir was made absolute here.
  Result<std::optional<Request>> pending() const;
  Status answer(const Request& request, const Answer& answer);

 private:
  std::string dir_;
};

}  // namespace supervise
