// Sends an image to a standby that listens (restore/remote_standby), from a process of its own: it
// begins while CRIU still writes the image, goes on where it was when a connection breaks, and never
// holds the application.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "restore/remote_standby.h"
#include "supervisor/base/helper.h"

namespace supervise {

struct ShipTarget {
  NetAddress where;
  TlsContext tls;
  std::string app;
};

struct ShipNews {
  enum { Progress, Trouble, Done, Failed } kind = Progress;
  ArrivedImage image;      // Done
  std::string text;        // Trouble, Failed
  std::uint64_t bytes = 0, sent = 0;  // of the image so far, and what went over the network for them
  double ms = 0;           // since the image was complete here
};

class Shipper {
 public:
  // Sends what appears in the directory. `patient`: tries for as long as it takes to reach the standby;
  // otherwise gives up when it could not be reached for 20 s.
  Status follow(int dir_fd, const ShipTarget& target, bool patient);
  void complete();         // all is there, and the manifest
  void stop() { helper_.stop(); }
  void forget() { helper_.forget(); }  // in a forked child
  bool busy() const { return helper_.fd() >= 0; }
  int fd() const { return helper_.fd(); }
  // The end of the process without another word is a Failed.
  std::optional<ShipNews> read_news();
  // Done or Failed; nothing when nothing moved for so long.
  // `told`: of each Progress and Trouble.
  std::optional<ShipNews> await(Millis patience, const std::function<void(const ShipNews&)>& told = {});

 private:
  Helper helper_;
};

}  // namespace supervise
