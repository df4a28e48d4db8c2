#include "restore/rendezvous.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <random>

#include "restore/host_identity.h"
#include "restore/identity_members.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "restore/store_files.h"

namespace supervise {

template <class V, json_io::Of<StandbyInfo> P>
void members(V& v, P& s) {
  v("who", s.who);
  v("beat_unix_ns", s.beat_unix_ns);
  v("level", s.level);
  v("paths", s.paths);
  v("holds", s.holds);
}

template <class V, json_io::Of<Rendezvous::Request> P>
void members(V& v, P& r) {
  v("kind", r.kind);
  v("generation", r.generation);
  v("image_dir", r.image_dir);
  v("origin", r.origin);
  v("id", r.id);
}

namespace {

struct WrittenAnswer {
  std::string request_id;
  HostIdentity who;
  bool ok = false;
  std::string reason;
};

template <class V, json_io::Of<WrittenAnswer> P>
void members(V& v, P& a) {
  v("request_id", a.request_id);
  v("who", a.who);
  v("ok", a.ok);
  v("reason", a.reason);
}

constexpr const char* kRequest = "request.json";
constexpr std::string_view kStandby = "standby-";
constexpr std::string_view kSuffix = ".json";
constexpr int kPollMs = 5;

// A host's name as part of a file name.
std::string file_safe(const std::string& host) {
  std::string out;
  for (unsigned char c : host) {
    bool plain = isalnum(c) || c == '-' || c == '_' || c == '.';
    out += plain ? std::string(1, static_cast<char>(c)) : fmt::format("%{:02x}", c);
  }
  return out;
}

Result<std::string> answer_prefix(const std::string& kind, std::uint64_t generation) {
  if (kind == "prepare") return fmt::format("ready-{}-", generation);
  if (kind == "verify") return fmt::format("verified-{}-", generation);
  return errno_error(EINVAL, fmt::format("\"{}\" is no kind of request (prepare, verify)", kind));
}

Result<std::vector<std::string>> files_like(const std::string& dir, std::string_view prefix) {
  ASSIGN_OR_RETURN(auto names, names_in(dir));
  std::erase_if(names, [&](const std::string& n) {
    return !std::string_view(n).starts_with(prefix) || !std::string_view(n).ends_with(kSuffix);
  });
  return names;
}

// Nothing when the file is gone or unreadable: its writer will write it again.
template <class T>
std::optional<T> read_now(const std::string& path) {
  auto text = read_file_if_there(path);
  if (!text || !text.value()) return std::nullopt;
  auto value = json_io::read_object<T>(path, **text);
  if (!value) return std::nullopt;
  return value.take();
}

double ms_of(const timespec& t) {
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

// What a file made now would bear as its time; nothing when none can be made (a full store).
std::optional<double> file_system_now_ms(const std::string& dir) {
  auto probe = write_temp_file(dir + "/clock", "", false);
  if (!probe) return std::nullopt;
  struct stat st{};
  bool ok = stat(probe->c_str(), &st) == 0;
  unlink(probe->c_str());
  if (!ok) return std::nullopt;
  return ms_of(st.st_mtim);
}

std::string new_id() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

}  // namespace

Result<std::vector<StandbyInfo>> Rendezvous::standbys(Millis max_age) const {
  auto deadline = Deadline::in(max_age);
  auto now = file_system_now_ms(dir_);
  std::map<std::string, StandbyInfo> doubtful;
  std::vector<StandbyInfo> fresh;
  ASSIGN_OR_RETURN(auto names, files_like(dir_, kStandby));
  for (const auto& name : names) {
    std::string path = dir_ + "/" + name;
    struct stat st{};
    if (stat(path.c_str(), &st) != 0) continue;
    auto info = read_now<StandbyInfo>(path);
    if (!info) continue;
    auto liveness = liveness_of(info->who);
    if (liveness == Liveness::Gone) continue;
    double age = now ? *now - ms_of(st.st_mtim) : -1;
    // A little in the future is what the time between probe and stat makes of a fresh beat.
    if (now && age > -500 && age <= static_cast<double>(max_age.count())) {
      fresh.push_back(std::move(*info));
    } else {
      doubtful.emplace(name, std::move(*info));
    }
  }
  while (fresh.empty() && !doubtful.empty() && !deadline.passed()) {
    poll(nullptr, 0, std::min(kPollMs, deadline.left_ms()));
    for (const auto& [name, before] : doubtful) {
      auto info = read_now<StandbyInfo>(dir_ + "/" + name);
      if (info && info->beat_unix_ns != before.beat_unix_ns) fresh.push_back(std::move(*info));
    }
  }
  return fresh;
}

Status Rendezvous::request(const std::string& kind, std::uint64_t generation,
                           const std::string& image_dir, const HostIdentity& origin) {
  auto known = answer_prefix(kind, generation);
  if (!known) return known.error();
  // Each host may have the store mounted elsewhere.
  std::string relative = image_dir;
  if (relative.starts_with(dir_ + "/")) relative.erase(0, dir_.size() + 1);
  return write_file_durably(dir_ + "/" + kRequest,
                            json_io::write_object(Request{kind, generation, relative, origin, new_id()}));
}

Result<Answer> Rendezvous::await_answer(const std::string& kind, std::uint64_t generation,
                                        Deadline deadline) const {
  ASSIGN_OR_RETURN(std::string prefix, answer_prefix(kind, generation));
  const std::string request_path = dir_ + "/" + kRequest;
  for (;;) {
    auto request = read_now<Request>(request_path);
    if (!request || request->kind != kind || request->generation != generation) {
      return errno_error(ENOENT, fmt::format("{}: no request \"{}\" for generation {} stands", request_path,
                                             kind, generation));
    }
    ASSIGN_OR_RETURN(auto names, files_like(dir_, prefix));
    Answer refusal;
    std::size_t refused = 0;
    for (const auto& name : names) {
      auto a = read_now<WrittenAnswer>(dir_ + "/" + name);
      if (!a || a->request_id != request->id) continue;
      if (a->ok) return Answer{a->who, true, a->reason};
      refusal.who = a->who;
      refusal.reason += fmt::format("{}{}: {}", refused ? "; " : "", a->who.host, a->reason);
      ++refused;
    }
    bool late = deadline.passed();
    if (refused > 0) {
      std::size_t standby_count = 0;
      for (const auto& name : files_like(dir_, kStandby).value_or({})) {
        auto info = read_now<StandbyInfo>(dir_ + "/" + name);
        if (info && liveness_of(info->who) != Liveness::Gone) ++standby_count;
      }
      if (late || refused >= standby_count) return refusal;
    }
    if (late) {
      return errno_error(ETIMEDOUT, fmt::format("no standby answered \"{}\" for generation {} in {}", kind,
                                                generation, dir_));
    }
    poll(nullptr, 0, std::min(kPollMs, deadline.left_ms()));
  }
}

void Rendezvous::withdraw(std::uint64_t generation) {
  auto request = read_now<Request>(dir_ + "/" + kRequest);
  if (request && request->generation == generation) unlink((dir_ + "/" + kRequest).c_str());
  for (const char* kind : {"prepare", "verify"}) {
    auto prefix = answer_prefix(kind, generation).value_or("");
    for (const auto& name : files_like(dir_, prefix).value_or({})) unlink((dir_ + "/" + name).c_str());
  }
}

Status Rendezvous::beat(const StandbyInfo& info) {
  return replace_file(fmt::format("{}/{}{}{}", dir_, kStandby, file_safe(info.who.host), kSuffix),
                      json_io::write_object(info));
}

void Rendezvous::leave(const HostIdentity& who) {
  std::string path = fmt::format("{}/{}{}{}", dir_, kStandby, file_safe(who.host), kSuffix);
  auto info = read_now<StandbyInfo>(path);
  if (info && same_process(info->who, who)) unlink(path.c_str());
}

Result<std::optional<Rendezvous::Request>> Rendezvous::pending() const {
  std::string path = dir_ + "/" + kRequest;
  ASSIGN_OR_RETURN(auto text, read_file_if_there(path));
  if (!text) return std::optional<Request>();
  ASSIGN_OR_RETURN(Request request, json_io::read_object<Request>(path, *text));
  if (!request.image_dir.starts_with("/")) request.image_dir = dir_ + "/" + request.image_dir;
  return std::optional<Request>(std::move(request));
}

Status Rendezvous::answer(const Request& request, const Answer& answer) {
  ASSIGN_OR_RETURN(std::string prefix, answer_prefix(request.kind, request.generation));
  return write_file_durably(dir_ + "/" + prefix + file_safe(answer.who.host) + std::string(kSuffix),
                            json_io::write_object(WrittenAnswer{request.id, answer.who, answer.ok, answer.reason}));
}

}  // namespace supervise
