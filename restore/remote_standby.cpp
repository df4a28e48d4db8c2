#include "restore/remote_standby.h"

#include <fmt/format.h>

#include <random>

#include "restore/host_identity.h"
#include "restore/standby_protocol.h"

namespace supervise {

using protocol::Reply;
using protocol::Request;

namespace {

// Whatever it costs to hash and sync an image on the other side.
Result<Reply> reply_in(const std::string& peer, const std::string& text) {
  ASSIGN_OR_RETURN(Reply reply, json_io::read_object<Reply>("answer of " + peer, text));
  if (!reply.error.empty()) return errno_error(reply.err, fmt::format("{}: {}", peer, reply.error));
  return reply;
}

}  // namespace

std::string new_upload_id() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

Result<std::string> RemoteStandby::request(const std::string& text, Deadline deadline, bool* asked) {
  // A half-sent request has not been understood by anybody.
  RETURN_IF_ERROR(wire::send(*stream_, text, deadline));
  if (asked) *asked = true;
  ASSIGN_OR_RETURN(auto message, wire::receive(*stream_, deadline));
  return std::move(message.text);
}

Result<RemoteStandby> RemoteStandby::connect(const TlsContext& tls, const NetAddress& where, const std::string& app,
                                             Deadline deadline) {
  ASSIGN_OR_RETURN(TlsStream stream, TlsStream::connect(tls, where, deadline));
  RemoteStandby remote;
  remote.stream_.emplace(std::move(stream));
  Request hello;
  hello.what = "hello";
  hello.app = app;
  hello.origin = HostIdentity::self();
  ASSIGN_OR_RETURN(const auto text, remote.request(json_io::write_object(hello), deadline));
  ASSIGN_OR_RETURN(const Reply reply, reply_in(remote.peer(), text));
  return remote;
}

Result<RemoteStandby::State> RemoteStandby::state(Deadline deadline) {
  Request r;
  r.what = "state";
  ASSIGN_OR_RETURN(const auto text, request(json_io::write_object(r), deadline));
  ASSIGN_OR_RETURN(const Reply reply, reply_in(peer(), text));
  State state;
  state.level = reply.level;
  state.beats = reply.beats;
  state.committed = reply.image;
  if (!reply.commit.empty()) state.commit = reply.commit.front();
  if (!reply.claim.empty()) state.claim = reply.claim.front();
  return state;
}

Result<std::uint64_t> RemoteStandby::epoch(Deadline deadline) {
  Request r;
  r.what = "epoch";
  ASSIGN_OR_RETURN(const auto text, request(json_io::write_object(r), deadline));
  ASSIGN_OR_RETURN(const Reply reply, reply_in(peer(), text));
  return reply.number;
}

Result<Answer> RemoteStandby::ask(const std::string& kind, const std::string& image, Deadline deadline) {
  Request r;
  r.what = "ask";
  r.kind = kind;
  r.image = image;
  r.patience_ms = std::max(deadline.left_ms() - 500, 100);
  ASSIGN_OR_RETURN(const auto text, request(json_io::write_object(r), deadline));
  ASSIGN_OR_RETURN(const Reply reply, reply_in(peer(), text));
  return Answer{reply.who, reply.ok, reply.reason};
}

void RemoteStandby::withdraw(std::uint64_t generation, Deadline deadline) {
  Request r;
  r.what = "withdraw";
  r.at = generation;
  (void)request(json_io::write_object(r), deadline);
}

Result<std::map<std::string, std::uint64_t>> RemoteStandby::begin(const std::string& upload,
                                                                 std::optional<ArrivedImage>& arrived,
                                                                 Deadline deadline) {
  Request r;
  r.what = "begin";
  r.upload = upload;
  ASSIGN_OR_RETURN(const auto text, request(json_io::write_object(r), deadline));
  ASSIGN_OR_RETURN(const Reply reply, reply_in(peer(), text));
  std::map<std::string, std::uint64_t> there;
  if (!reply.image.empty()) arrived = ArrivedImage{reply.image, reply.number};
  for (const auto& part : reply.parts) there[part.name] = part.size;
  return there;
}

Status RemoteStandby::data(const std::string& part, std::uint64_t at, const char* bytes, std::size_t size,
                           Deadline deadline) {
  Request r;
  r.what = "data";
  r.part = part;
  r.at = at;
  return wire::send(*stream_, json_io::write_object(r), bytes, size, &packer_, deadline, &sent_);
}

Result<ArrivedImage> RemoteStandby::finish(const std::string& manifest, std::vector<std::string>& damaged,
                                           Deadline deadline) {
  Request r;
  r.what = "finish";
  r.manifest = manifest;
  ASSIGN_OR_RETURN(const auto text, request(json_io::write_object(r), deadline));
  ASSIGN_OR_RETURN(const Reply reply, reply_in(peer(), text));
  damaged.clear();
  for (const auto& part : reply.parts) damaged.push_back(part.name);
  return ArrivedImage{reply.image, reply.number};
}

Status RemoteStandby::commit(const std::string& image, const Commit& commit, Deadline deadline) {
  Request r;
  r.what = "commit";
  r.image = image;
  r.commit.push_back(commit);
  bool asked = false;
  auto text = request(json_io::write_object(r), deadline, &asked);
  if (!text) return asked ? errno_error(ENOTRECOVERABLE, text.error().message()) : text.error();
  auto reply = reply_in(peer(), *text);
  return reply ? ok_status() : Status(reply.error());
}

Status RemoteStandby::retract(const std::string& image, Deadline deadline) {
  Request r;
  r.what = "retract";
  r.image = image;
  bool asked = false;
  auto text = request(json_io::write_object(r), deadline, &asked);
  if (!text) return asked ? errno_error(ENOTRECOVERABLE, text.error().message()) : text.error();
  auto reply = reply_in(peer(), *text);
  return reply ? ok_status() : Status(reply.error());
}

Result<std::optional<Claim>> RemoteStandby::claimed(const std::string& image, Deadline deadline) {
  Request r;
  r.what = "claimed";
  r.image = image;
  ASSIGN_OR_RETURN(const auto text, request(json_io::write_object(r), deadline));
  ASSIGN_OR_RETURN(const Reply reply, reply_in(peer(), text));
  if (reply.claim.empty()) return std::optional<Claim>();
  return std::optional<Claim>(reply.claim.front());
}

}  // namespace supervise
