#include "supervisor/standby_store.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include "restore/criu.h"
#include "restore/host_facts.h"
#include "restore/host_identity.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "restore/rendezvous.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/scope_exit.h"
#include "supervisor/resume.h"

namespace supervise {
namespace {

using nlohmann::json;

constexpr Millis kBeat{200};

// How often the store is looked at: where each look is a round trip to a server, less often.
struct Pace {
  int request_ms;
  Millis list;
};
constexpr Pace kLocal{5, Millis(25)}, kRemote{25, Millis(100)};
constexpr std::size_t kLongest = 256 << 10;

std::string dumped(const json& j) { return j.dump(-1, ' ', false, json::error_handler_t::replace); }

std::string stamp_of(const std::string& image_dir) {
  struct stat st{};
  if (stat((image_dir + "/" + kManifestName).c_str(), &st) != 0 && stat(image_dir.c_str(), &st) != 0) return "gone";
  return fmt::format("{}-{}-{}-{}", image_dir, st.st_ino, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

Pace pace_for(const std::string& dir) {
  constexpr std::uint32_t kServers[] = {0x6969 /* NFS */, 0xff534d42 /* CIFS */, 0xfe534d42 /* SMB2 */, 0x65735546 /* FUSE */,
                                        0x01021997 /* 9P */, 0x00c36400 /* Ceph */, 0x5346414f /* AFS */};
  struct statfs fs{};
  if (statfs(dir.c_str(), &fs) != 0) return kRemote;
  const auto type = static_cast<std::uint32_t>(fs.f_type);
  return std::find(std::begin(kServers), std::end(kServers), type) == std::end(kServers) ? kLocal : kRemote;
}

class Watcher {
 public:
  Watcher(const StandbyOptions& options, Events& events, const std::string& dir, const HostIdentity& who)
      : options_(options), events_(events), dir_(dir), rendezvous_(dir), ownership_(dir) {
    info_.who = who;
    info_.level = "image";
    for (const PathSpec& p : options.paths) info_.paths.push_back(p.name);
  }

  int run(int line) {
    std::string told;
    Clock::time_point last_list{};
    const Pace pace = pace_for(dir_);
    for (;;) {
      beat();
      if (answers_) answer();
      if (Clock::now() - last_list >= pace.list) {
        last_list = Clock::now();
        const std::string now = look();
        if (now != told && send(line, now.data(), now.size(), MSG_NOSIGNAL) >= 0) told = now;
      }
      pollfd p{line, POLLIN, 0};
      if (poll(&p, 1, pace.request_ms) <= 0) continue;
      char text[1 << 14];
      const ssize_t n = recv(line, text, sizeof text, MSG_DONTWAIT);
      if (n == 0) return 0;
      if (n < 0) continue;
      const json j = json::parse(text, text + n, nullptr, false);
      if (!j.is_object()) continue;
      info_.level = j.value("level", info_.level);
      info_.holds = j.value("holds", info_.holds);
      const bool answers = j.value("answers", answers_);
      if (answers_ && !answers) rendezvous_.leave(info_.who);
      answers_ = answers;
      last_beat_ = {};
    }
  }

 private:
  void beat() {
    if (!answers_ || Clock::now() - last_beat_ < kBeat) return;
    last_beat_ = Clock::now();
    info_.beat_unix_ns = unix_now_ns();
    auto s = rendezvous_.beat(info_);
    if (!s && !beat_failed_) events_.warn("standby.beat", s.error().message());
    beat_failed_ = !s;
  }

  void answer() {
    auto request = rendezvous_.pending();
    if (!request || !*request || answered_.contains((*request)->id)) return;
    const auto& r = **request;
    Answer answer{info_.who, true, ""};
    fault_point("standby." + r.kind).ignore();
    if (r.kind == "verify") {
      auto manifest = verify_image(r.image_dir);
      Status good = manifest ? covers(options_, *manifest) : Status(manifest.error());
      if (good) good = has_files_of(r.image_dir, *manifest);
      if (good) {
        if (criu_.empty())
          if (auto criu = Criu::find()) criu_ = criu_version(criu->binary(), Deadline::in(Millis(5000))).value_or("");
        if (auto why = why_foreign(*manifest, options_.name, host_facts(), criu_)) good = plain_error(*why);
      }
      if (!good) answer = {info_.who, false, good.error().message()};
    }
    events_.info("standby.answer", fmt::format("{} generation {}: {}", r.kind, r.generation,
                                               answer.ok ? "yes" : answer.reason));
    if (auto s = rendezvous_.answer(r, answer); s) answered_.insert(r.id);
  }

  std::string look() {
    json out{{"images", json::array()}, {"committed", ""}, {"trouble", ""}};
    auto names = names_in(dir_);
    if (!names) {
      out["trouble"] = names.error().message();
      return dumped(out);
    }
    std::vector<SeenImage> images;
    for (const auto& name : *names) {
      if (!name.starts_with("gen-")) continue;
      SeenImage image;
      image.dir = dir_ + "/" + name;
      image.generation = strtoull(name.c_str() + 4, nullptr, 10);
      image.stamp = stamp_of(image.dir);
      auto known = known_.find(image.stamp);
      if (known == known_.end()) {
        auto manifest = load_manifest(image.dir);
        if (!manifest) {
          image.broken = manifest.error().message();
        } else {
          image.handover = manifest->reason == "handover";
          image.origin = manifest->origin_host;
          image.created_unix_ns = manifest->created_unix_ns;
        }
        known = known_.emplace(image.stamp, image).first;
      }
      images.push_back(known->second);
    }
    std::erase_if(known_, [&](const auto& k) {
      return std::none_of(images.begin(), images.end(), [&](const SeenImage& i) { return i.stamp == k.first; });
    });
    std::sort(images.begin(), images.end(),
              [](const SeenImage& a, const SeenImage& b) { return a.generation < b.generation; });
    const SeenImage* newest = nullptr;
    for (const auto& image : images)
      if (image.broken.empty()) newest = &image;
    if (newest) {
      auto commit = ownership_.committed(newest->dir);
      if (commit && *commit) out["committed"] = newest->dir;
    }
    // The newest are all that is ever looked at.
    const std::size_t first = images.size() > 50 ? images.size() - 50 : 0;
    for (std::size_t i = first; i < images.size(); ++i) {
      const SeenImage& s = images[i];
      out["images"].push_back({{"generation", s.generation}, {"dir", s.dir}, {"stamp", s.stamp},
                               {"broken", s.broken}, {"handover", s.handover}, {"origin", s.origin},
                               {"created", s.created_unix_ns}});
      const Slots& slots = slots_of(s.dir);
      out["images"].back()["free"] = slots.free;
      out["images"].back()["taken_by"] = slots.taken_by;
    }
    return dumped(out);
  }

  // Who has what changes with the directory, and now and then because an owner died.
  struct Slots {
    std::int64_t changed = -1;
    Clock::time_point read{};
    int free = 0;
    std::string taken_by;
  };
  const Slots& slots_of(const std::string& image) {
    Slots& s = slots_[image];
    struct stat st{};
    const std::int64_t changed = stat(image.c_str(), &st) == 0 ? st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec : 0;
    const auto age = Clock::now() - s.read;
    if (age > Millis(1000) || (changed != s.changed && age > Millis(100))) {
      s.taken_by.clear();
      s.free = ownership_.free_slots(image, options_.instances, &s.taken_by);
      s.changed = changed;
      s.read = Clock::now();
    }
    return s;
  }

  const StandbyOptions& options_;
  Events& events_;
  std::map<std::string, Slots> slots_;
  std::string dir_;
  Rendezvous rendezvous_;
  Ownership ownership_;
  StandbyInfo info_;
  Clock::time_point last_beat_{};
  bool answers_ = true, beat_failed_ = false;
  std::set<std::string> answered_;
  std::map<std::string, SeenImage> known_;
  std::string criu_;
};

// What was written for claims that have not been made yet, by image and owner.
using Prepared = std::map<std::string, std::string>;

std::string key_of(const json& order) { return order.at("image").get<std::string>() + " " + order.at("owner").get<std::string>(); }

void prepare_now(Ownership& ownership, const json& order, Prepared& prepared) {
  auto owner = identity_from_json("owner", order.at("owner").get<std::string>());
  if (!owner) return;
  // Without it a claim takes a little longer, and its failure is told then.
  if (auto file = ownership.prepare_slot(order.at("image").get<std::string>(), *owner)) prepared[key_of(order)] = *file;
}

json claim_now(Ownership& ownership, const json& order, const std::string& prepared) {
  for (const auto& [file, size] : order.at("files").get<std::vector<std::pair<std::string, std::uint64_t>>>()) {
    struct stat st{};
    if (stat(file.c_str(), &st) != 0)
      return {{"taken", true}, {"why", errno_error(file + ", which the image has open").message()}};
    if (static_cast<std::uint64_t>(st.st_size) != size)
      return {{"taken", true},
              {"why", fmt::format("{}, which the image has open, has {} bytes now and had {}: the image is out of date",
                                  file, st.st_size, size)}};
  }
  auto owner = identity_from_json("owner", order.at("owner").get<std::string>());
  if (!owner) return {{"why", owner.error().message()}};
  auto slot = ownership.claim_slot(order.at("image").get<std::string>(), order.at("slots").get<int>(), *owner,
                                   order.at("from").get<int>(), prepared);
  if (slot) return {{"slot", *slot}};
  const int err = slot.error().err;
  return {{"taken", err == EBUSY || err == EALREADY}, {"why", slot.error().message()}};
}

Status update_now(Ownership& ownership, const json& order) {
  const auto image = order.at("image").get<std::string>();
  const int slot = order.at("slot").get<int>();
  ASSIGN_OR_RETURN(const HostIdentity owner, identity_from_json("owner", order.at("owner").get<std::string>()));
  const auto state = order.at("state").get<std::string>();
  if (state == "claimed") return ownership.release_slot(image, slot, owner);
  Claim claim;
  auto there = ownership.slot_claimed(image, slot);
  if (there && *there) claim = **there;
  claim.owner = owner;
  claim.state = state;
  claim.since_unix_ns = unix_now_ns();
  if (!order.contains("former")) return ownership.update_slot(image, slot, claim);
  ASSIGN_OR_RETURN(const HostIdentity former, identity_from_json("owner", order.at("former").get<std::string>()));
  return ownership.update_slot(image, slot, claim, &former);
}

int serve_claims(Events& events, const std::string& dir, int line) {
  Ownership ownership(dir);
  Prepared prepared;
  ScopeExit tidy([&] {
    for (const auto& [key, file] : prepared) unlink(file.c_str());
  });
  std::vector<char> text(kLongest);
  for (;;) {
    const ssize_t n = recv(line, text.data(), text.size(), 0);
    if (n == 0) return 0;
    if (n < 0) continue;
    try {
      const json order = json::parse(text.data(), text.data() + n);
      if (order.contains("state")) {
        if (auto s = update_now(ownership, order); !s) events.warn("standby.claim", s.error().message());
        continue;
      }
      if (order.contains("prepare")) {
        prepare_now(ownership, order, prepared);
        continue;
      }
      const auto ready = prepared.extract(key_of(order));
      const std::string answer = dumped(claim_now(ownership, order, ready ? ready.mapped() : ""));
      (void)!send(line, answer.data(), answer.size(), MSG_NOSIGNAL);
      if (ready) unlink(ready.mapped().c_str());
    } catch (const json::exception& e) {
      events.warn("standby.claim", e.what());
    }
  }
}

}  // namespace

Status StoreWatch::start(const StandbyOptions& options, Events& events, const std::string& app_dir,
                         const std::function<void()>& in_child) {
  const HostIdentity who = HostIdentity::self();
  return helper_.start([&](int line) {
    in_child();
    return Watcher(options, events, app_dir, who).run(line);
  });
}

void StoreWatch::tell(const std::string& level, bool answers, const std::vector<std::string>& holds) {
  helper_.send_text(dumped({{"level", level}, {"answers", answers}, {"holds", holds}}));
}

std::optional<StoreNews> StoreWatch::read_news() {
  auto text = helper_.receive();
  if (!text) return std::nullopt;
  StoreNews news;
  try {
    const json j = json::parse(*text);
    news.committed = j.at("committed").get<std::string>();
    news.trouble = j.at("trouble").get<std::string>();
    for (const json& i : j.at("images")) {
      SeenImage s;
      s.generation = i.at("generation").get<std::uint64_t>();
      s.dir = i.at("dir").get<std::string>();
      s.stamp = i.at("stamp").get<std::string>();
      s.broken = i.at("broken").get<std::string>();
      s.handover = i.at("handover").get<bool>();
      s.origin = i.at("origin").get<std::string>();
      s.created_unix_ns = i.at("created").get<std::int64_t>();
      s.free_slots = i.at("free").get<int>();
      s.taken_by = i.at("taken_by").get<std::string>();
      news.images.push_back(std::move(s));
    }
  } catch (const json::exception&) {
    return std::nullopt;
  }
  return news;
}

Status StoreClaims::start(Events& events, const std::string& app_dir, const std::function<void()>& in_child) {
  return helper_.start([&](int line) {
    in_child();
    return serve_claims(events, app_dir, line);
  });
}

bool StoreClaims::claim(const ClaimOrder& order) {
  return helper_.send_text(dumped({{"image", order.image}, {"slots", order.slots}, {"from", order.from},
                                   {"owner", identity_to_json(order.owner)}, {"files", order.files}}));
}

void StoreClaims::prepare(const ClaimOrder& order) {
  helper_.send_text(dumped({{"prepare", true}, {"image", order.image}, {"owner", identity_to_json(order.owner)}}));
}

std::optional<ClaimAnswer> StoreClaims::read_answer() {
  auto text = helper_.receive();
  if (!text) return std::nullopt;
  const json j = json::parse(*text, nullptr, false);
  ClaimAnswer answer;
  if (!j.is_object()) return answer;
  answer.slot = j.value("slot", 0);
  answer.taken = j.value("taken", false);
  answer.why = j.value("why", "");
  return answer;
}

void StoreClaims::update(const std::string& image, int slot, const HostIdentity& owner, const std::string& state,
                         const HostIdentity* former) {
  json order{{"image", image}, {"slot", slot}, {"owner", identity_to_json(owner)}, {"state", state}};
  if (former) order["former"] = identity_to_json(*former);
  helper_.send_text(dumped(order));
}

}  // namespace supervise
