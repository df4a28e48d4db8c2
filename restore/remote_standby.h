// The origin's end of a connection to a standby that listens: questions and answers, and the parts of
// an image. The standby keeps what arrives of an image under the name of its upload, so that another
// connection goes on where this one broke. Every call has a deadline; an error that is not the
// standby's answer means that the connection is of no more use.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "restore/ownership.h"
#include "restore/rendezvous.h"
#include "restore/tls.h"
#include "restore/wire.h"

namespace supervise {

// Identifies the image of one dump, on all connections.
std::string new_upload_id();

struct ArrivedImage {
  std::string image;  // name in the standby's store, gen-NNNNNN
  std::uint64_t generation = 0;
};

class RemoteStandby {
 public:
  // Checks that the other side is a standby for `app` that speaks this version.
  static Result<RemoteStandby> connect(const TlsContext& tls, const NetAddress& where, const std::string& app,
                                       Deadline deadline);

  struct State {
    std::string level;                   // of its newest beat: image, cached, parked
    bool beats = false;                  // a standby process is there and answers
    std::string committed;               // the newest committed image; empty: none
    std::optional<Commit> commit;
    std::optional<Claim> claim;
  };
  Result<State> state(Deadline deadline);
  Result<std::uint64_t> epoch(Deadline deadline);
  // "prepare" (no image yet) or "verify"
  Result<Answer> ask(const std::string& kind, const std::string& image, Deadline deadline);
  void withdraw(std::uint64_t generation, Deadline deadline);

  // Begins an upload, or goes on with it: how much of each part is there. `arrived` takes the image when
  // all of it was there already.
  Result<std::map<std::string, std::uint64_t>> begin(const std::string& upload, std::optional<ArrivedImage>& arrived,
                                                     Deadline deadline);
  // Bytes of a part; nothing is answered. At most wire::kMaxBytes.
  Status data(const std::string& part, std::uint64_t at, const char* bytes, std::size_t size, Deadline deadline);
  // All was sent. `damaged` takes the parts that the standby wants again from their beginning; empty: the
  // image is in its store, whole, hashed and durable.
  Result<ArrivedImage> finish(const std::string& manifest, std::vector<std::string>& damaged, Deadline deadline);

  // ENOTRECOVERABLE: the request went out and no answer came: in doubt, ask again. Asking twice is harmless.
  Status commit(const std::string& image, const Commit& commit, Deadline deadline);
  // EBUSY: too late. ENOTRECOVERABLE as above.
  Status retract(const std::string& image, Deadline deadline);
  Result<std::optional<Claim>> claimed(const std::string& image, Deadline deadline);

  const std::string& peer() const { return stream_->peer(); }
  std::uint64_t bytes_sent() const { return sent_; }

 private:
  Result<std::string> request(const std::string& text, Deadline deadline, bool* asked = nullptr);

  std::optional<TlsStream> stream_;
  wire::Packer packer_;
  std::uint64_t sent_ = 0;
};

}  // namespace supervise
