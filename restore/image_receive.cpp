#include "restore/image_receive.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <map>

#include "restore/digest.h"
#include "restore/host_identity.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "restore/rendezvous.h"
#include "restore/standby_protocol.h"
#include "restore/store_files.h"
#include "restore/wire.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/scope_exit.h"

namespace supervise {
namespace {

using protocol::Reply;
using protocol::Request;

constexpr const char* kIncoming = "/.incoming";
constexpr long kOvertaken = 600;   // seconds: an upload with which nobody went on when another began
constexpr Millis kQuiet{600000};   // an origin keeps a connection only while it has something to say
constexpr Millis kAnswer{60000};
constexpr std::uint64_t kLargest = 1ull << 46;
constexpr std::size_t kKept = 3;   // images in the store, beside those that are in use

bool is_image_name(const std::string& name) {
  return name.starts_with("gen-") && name.size() > 4 && name.find_first_not_of("0123456789", 4) == std::string::npos;
}

bool is_upload_name(const std::string& name) {
  return !name.empty() && name.size() <= 64 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

bool is_plain_part(const std::string& name) {
  return !name.empty() && name.size() < 200 && name.find('/') == std::string::npos && is_part_name(name);
}

class Receiver {
 public:
  Receiver(TlsStream stream, const std::string& app_dir, const std::string& app, const ReceiveLog& log)
      : stream_(std::move(stream)), dir_(app_dir), app_(app), log_(log), ownership_(app_dir) {}

  Status run() {
    for (;;) {
      auto message = wire::receive(stream_, Deadline::in(kQuiet));
      if (!message) {
        if (!begun_ && message.error().err == ECONNRESET) return {};
        return message.error();
      }
      ASSIGN_OR_RETURN(const Request request, json_io::read_object<Request>(stream_.peer(), message->text));
      if (!known_ && request.what != "hello") return errno_error(EPROTO, stream_.peer() + " did not say hello");
      if (request.what == "data") {
        if (!failed_.ok()) continue;  // told when it is finished
        failed_ = data(request, message->bytes);
        continue;
      }
      auto reply = answer(request);
      if (!reply) {
        Reply refusal;
        refusal.error = reply.error().err ? reply.error().message() : reply.error().what;
        refusal.err = reply.error().err;
        reply = refusal;
      }
      RETURN_IF_ERROR(wire::send(stream_, json_io::write_object(*reply), Deadline::in(kAnswer)));
    }
  }

 private:
  Result<Reply> answer(const Request& r) {
    if (r.what == "hello") return hello(r);
    if (r.what == "state") return state();
    if (r.what == "epoch") {
      Reply reply;
      ASSIGN_OR_RETURN(reply.number, ownership_.epoch());
      return reply;
    }
    if (r.what == "ask") return ask(r);
    if (r.what == "withdraw") {
      Rendezvous(dir_).withdraw(r.at);
      return Reply{};
    }
    if (r.what == "begin") return begin(r);
    if (r.what == "finish") return finish(r);
    if (!is_image_name(r.image)) return errno_error(EINVAL, fmt::format("\"{}\" is no request for an image", r.what));
    const std::string image = dir_ + "/" + r.image;
    if (access((image + "/" + kManifestName).c_str(), F_OK) != 0) return errno_error("image " + image);
    if (r.what == "commit" && r.commit.size() == 1) {
      RETURN_IF_ERROR(fault_point("receive.commit"));
      RETURN_IF_ERROR(ownership_.commit(image, r.commit.front()));
      RETURN_IF_ERROR(fault_point("receive.committed"));
      return Reply{};
    }
    if (r.what == "retract") {
      RETURN_IF_ERROR(ownership_.retract(image));
      return Reply{};
    }
    if (r.what == "claimed") {
      Reply reply;
      ASSIGN_OR_RETURN(const auto claim, ownership_.claimed(image));
      if (claim) reply.claim.push_back(*claim);
      return reply;
    }
    return errno_error(EPROTO, fmt::format("\"{}\" is not known here", r.what));
  }

  Result<Reply> hello(const Request& r) {
    if (r.version != protocol::kVersion)
      return errno_error(EPROTO, fmt::format("protocol {} is spoken here, not {}: the same version of supervise is "
                                             "needed on both hosts", protocol::kVersion, r.version));
    if (r.app != app_)
      return errno_error(EPERM, fmt::format("this is a standby for \"{}\", not for \"{}\"", app_, r.app));
    origin_ = r.origin;
    known_ = true;
    return Reply{};
  }

  Result<Reply> state() {
    Reply reply;
    ASSIGN_OR_RETURN(const std::string image, ownership_.newest_committed());
    if (!image.empty()) {
      reply.image = name_of(image);
      ASSIGN_OR_RETURN(const auto commit, ownership_.committed(image));
      ASSIGN_OR_RETURN(const auto claim, ownership_.claimed(image));
      if (commit) reply.commit.push_back(*commit);
      if (claim) reply.claim.push_back(*claim);
    }
    auto standbys = Rendezvous(dir_).standbys(Millis(2000));
    if (standbys && !standbys->empty()) {
      reply.beats = true;
      reply.level = standbys->front().level;
      reply.who = standbys->front().who;
    }
    return reply;
  }

  // The standby process itself answers, as it does to an origin that shares the store.
  Result<Reply> ask(const Request& r) {
    const Millis patience(std::clamp<std::int64_t>(r.patience_ms, 100, 600000));
    std::uint64_t generation = 0;
    std::string image;
    if (r.kind == "verify") {
      if (!is_image_name(r.image)) return errno_error(EINVAL, "no image to verify");
      image = dir_ + "/" + r.image;
      generation = strtoull(r.image.c_str() + 4, nullptr, 10);
    } else {
      ASSIGN_OR_RETURN(const ImageStore store, open_store());
      ASSIGN_OR_RETURN(const auto newest, store.newest());
      generation = newest ? newest->generation + 1 : 1;
    }
    Rendezvous rendezvous(dir_);
    RETURN_IF_ERROR(rendezvous.request(r.kind, generation, image, origin_));
    ASSIGN_OR_RETURN(const Answer answer, rendezvous.await_answer(r.kind, generation, Deadline::in(patience)));
    Reply reply;
    reply.ok = answer.ok;
    reply.reason = answer.reason;
    reply.who = answer.who;
    reply.number = generation;
    return reply;
  }

  Result<Reply> begin(const Request& r) {
    if (!is_upload_name(r.upload)) return errno_error(EINVAL, "that is no name for an upload");
    parts_.clear();
    failed_ = {};
    upload_ = r.upload;
    upload_dir_ = dir_ + kIncoming + "/" + r.upload;
    for (const auto& d : {dir_ + kIncoming, upload_dir_})
      if (mkdir(d.c_str(), 0700) != 0 && errno != EEXIST) return errno_error("create directory " + d);
    RETURN_IF_ERROR(take_upload(dir_ + kIncoming + "/." + r.upload + ".lock"));
    begun_ = true;
    sweep_incoming(dir_, kOvertaken);
    Reply reply;
    // It was whole before, and only the answer was lost.
    if (auto done = read_small_file(done_file()); done && is_image_name(*done)) {
      reply.image = *done;
      reply.number = strtoull(done->c_str() + 4, nullptr, 10);
    }
    ASSIGN_OR_RETURN(const auto names, names_in(upload_dir_));
    for (const auto& name : names) {
      struct stat st{};
      if (is_plain_part(name) && stat((upload_dir_ + "/" + name).c_str(), &st) == 0)
        reply.parts.push_back({name, static_cast<std::uint64_t>(st.st_size)});
    }
    return reply;
  }

  // Two connections for one upload: the older one is dead, and its process does not know it yet.
  Status take_upload(const std::string& path) {
    lock_.reset();
    auto lock = lock_file(path, Deadline::in(Millis(50)));
    if (!lock && lock.error().err == ETIMEDOUT) {
      auto text = read_small_file(path);
      auto holder = text ? identity_from_json(path, *text) : Result<HostIdentity>(text.error());
      if (holder && liveness_of(*holder) == Liveness::Alive) kill(holder->pid, SIGKILL);
      lock = lock_file(path, Deadline::in(Millis(10000)));
    }
    if (!lock) return lock.error();
    lock_ = lock.take();
    const std::string self = identity_to_json(HostIdentity::self());
    if (ftruncate(lock_.get(), 0) != 0 || pwrite(lock_.get(), self.data(), self.size(), 0) != static_cast<ssize_t>(self.size()))
      return errno_error("write " + path);
    return {};
  }

  Status data(const Request& r, const std::string& bytes) {
    if (!begun_ || !is_plain_part(r.part) || r.at > kLargest)
      return errno_error(EINVAL, fmt::format("\"{}\" is no part of an image", r.part));
    RETURN_IF_ERROR(fault_point("receive.data"));
    UniqueFd& fd = parts_[r.part];
    const std::string path = upload_dir_ + "/" + r.part;
    if (!fd) {
      fd.reset(open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
      if (!fd) return errno_error("create " + path);
    }
    // From the beginning: what was there is not believed.
    if (r.at == 0 && ftruncate(fd.get(), 0) != 0) return errno_error("truncate " + path);
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = pwrite(fd.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(r.at + done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return errno_error("write " + path);
      done += static_cast<std::size_t>(n);
    }
    (void)sync_file_range(fd.get(), static_cast<off_t>(r.at), static_cast<off_t>(bytes.size()), SYNC_FILE_RANGE_WRITE);
    return {};
  }

  Result<Reply> finish(const Request& r) {
    if (!begun_) return errno_error(EPROTO, "nothing was begun");
    if (!failed_.ok()) {
      // A full disk, most likely: what is of no use any more must not fill it.
      parts_.clear();
      remove_tree(upload_dir_);
      begun_ = false;
      return failed_.error();
    }
    ASSIGN_OR_RETURN(Manifest manifest, Manifest::from_json(r.manifest));
    if (manifest.app_name != app_)
      return errno_error(EPERM, fmt::format("the image is of \"{}\", this is a standby for \"{}\"", manifest.app_name, app_));
    Reply reply;
    std::map<std::string, bool> listed;
    for (const ImagePart& part : manifest.parts) {
      if (!is_plain_part(part.name)) return errno_error(EINVAL, fmt::format("\"{}\" is no part of an image", part.name));
      listed[part.name] = true;
      const std::string path = upload_dir_ + "/" + part.name;
      // An empty part has no data that would have made it.
      UniqueFd fd(open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | (part.size == 0 ? O_CREAT : 0), 0600));
      std::uint64_t size = 0;
      auto hash = fd ? sha256_of_file(fd.get(), &size) : Result<std::string>(errno_error(path));
      if (!hash || size != part.size || *hash != part.sha256) reply.parts.push_back({part.name, part.size});
    }
    if (!reply.parts.empty()) {
      log_.warn(fmt::format("upload {} of {}: {} of {} parts are incomplete or damaged and asked for again", upload_,
                            stream_.peer(), reply.parts.size(), manifest.parts.size()));
      parts_.clear();
      return reply;
    }
    RETURN_IF_ERROR(fault_point("receive.whole"));
    ASSIGN_OR_RETURN(ImageStore store, open_store());
    ASSIGN_OR_RETURN(ImageStore::Draft draft, store.begin());
    ScopeExit abandon([&] { ImageStore::abandon(draft); });
    for (const auto& [name, yes] : listed)
      if (rename((upload_dir_ + "/" + name).c_str(), (draft.dir + "/" + name).c_str()) != 0)
        return errno_error(fmt::format("rename {}/{}", upload_dir_, name));
    parts_.clear();
    abandon.dismiss();
    ASSIGN_OR_RETURN(const ImageRef image, store.finish(std::move(draft), manifest));
    replace_file(done_file(), name_of(image.dir)).ignore();
    remove_tree(upload_dir_);
    begun_ = false;
    RETURN_IF_ERROR(fault_point("receive.finished"));
    log_.info(fmt::format("image {} has arrived from {}", image.dir, stream_.peer()));
    if (auto s = store.prune(kKept); !s) log_.warn(s.error().message());
    reply.image = name_of(image.dir);
    reply.number = image.generation;
    return reply;
  }

  std::string done_file() const { return dir_ + kIncoming + "/" + upload_ + ".done"; }
  Result<ImageStore> open_store() const { return ImageStore::open(parent_of(dir_), name_of(dir_), true); }

  TlsStream stream_;
  std::string dir_, app_;
  const ReceiveLog& log_;
  Ownership ownership_;
  HostIdentity origin_;
  bool known_ = false, begun_ = false;
  std::string upload_, upload_dir_;
  UniqueFd lock_;
  std::map<std::string, UniqueFd> parts_;
  Status failed_;
};

}  // namespace

Status serve_origin(TlsStream stream, const std::string& app_dir, const std::string& app, const ReceiveLog& log) {
  return Receiver(std::move(stream), app_dir, app, log).run();
}

// Its lock file is written at the beginning of each connection, and held by the one that is open.
void sweep_incoming(const std::string& app_dir, long seconds) {
  const std::string incoming = app_dir + kIncoming;
  for (const auto& name : names_in(incoming).value_or({})) {
    if (!name.starts_with(".") || !name.ends_with(".lock")) continue;
    const std::string lock_path = incoming + "/" + name;
    const std::string upload = incoming + "/" + name.substr(1, name.size() - 6);
    struct stat st{};
    if (stat(lock_path.c_str(), &st) != 0 || std::time(nullptr) - st.st_mtim.tv_sec < seconds) continue;
    auto lock = lock_file(lock_path, Deadline::in(Millis(0)));
    if (!lock) continue;
    remove_tree(upload);
    unlink((upload + ".done").c_str());
    unlink(lock_path.c_str());
  }
}

}  // namespace supervise
