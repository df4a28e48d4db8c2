// From an image to a running session, in steps, so that a standby can be between any two of them: the
// world is made, the tree is restored and adopted with every thread held, it runs.
#pragma once

#include <memory>
#include <string>

#include "restore/file_drift.h"
#include "restore/manifest.h"
#include "restore/ownership.h"
#include "supervisor/events.h"
#include "supervisor/options.h"
#include "supervisor/session.h"
#include "supervisor/world.h"

namespace supervise {

// This host's own way to a storage path; nullptr when the options name none.
const PathSpec* own_way(const StandbyOptions& options, const std::string& name);
// Whether the options name a way to each path of the image.
Status covers(const StandbyOptions& options, const Manifest& manifest);
// The files that it has open outside of the storage paths are here, too, as they were.
Status has_files_of(const std::string& image, const Manifest& manifest);

class Resume {
 public:
  Resume(const StandbyOptions& options, Events& events, std::string image, const Manifest& manifest)
      : options_(options), events_(events), image_(std::move(image)), manifest_(manifest) {}

  // Paths whose --path-up must run before the image's files can be opened here. It may fence the host
  // that uses the path now, so that nothing may run it ahead of time.
  std::vector<std::string> paths_with_hooks() const;
  Status paths_up();
  void paths_down();

  // Files that are not as the image knows them. Nothing is repaired: another host may be writing to them.
  Result<std::vector<FileDrift>> drifts() const;

  // The session's configuration and the world with this host's ways in their places.
  Status make_world();
  // Files are compared, CRIU restores, all threads are seized and held. CRIU's log goes to the directory
  // `work_dir`, or to the image's when it is -1. The session's control socket is not opened.
  Status restore(int work_dir = -1);
  Session& session() { return *session_; }
  SessionConfig& config() { return config_; }
  // Ends what was made; nothing of the image is left.
  void drop();

 private:
  std::vector<DriftPlace> places() const;

  const StandbyOptions& options_;
  Events& events_;
  std::string image_;
  const Manifest& manifest_;
  SessionConfig config_;
  std::unique_ptr<World> world_;
  std::unique_ptr<Session> session_;
};

// A committed image (or, without `ownership`, any) from its claim to the end of the session. Returns
// the session's exit status; an error when the image could not be resumed (the paths are down again,
// nothing of it runs).
Result<int> resume_image(const StandbyOptions& options, Events& events, const std::string& image,
                         const Manifest& manifest, Ownership* ownership);

}  // namespace supervise
