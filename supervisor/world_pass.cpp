// A world that another program version takes over in the same process: what it has to know, as JSON, and
// the descriptors that it inherits (world.h, pass and take). The world itself notices nothing of it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>

#include <nlohmann/json.hpp>

#include "supervisor/base/passed_fds.h"
#include "supervisor/world_impl.h"

namespace supervise {

using Json = nlohmann::json;

namespace {

constexpr Millis kAskTime{10000};

Json to_json(const termios& t) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(&t);
  return std::vector<unsigned>(bytes, bytes + sizeof t);
}

bool from_json(const Json& j, termios& t) {
  const auto bytes = j.get<std::vector<unsigned>>();
  if (bytes.size() != sizeof t) return false;
  auto* to = reinterpret_cast<unsigned char*>(&t);
  for (std::size_t i = 0; i < bytes.size(); ++i) to[i] = static_cast<unsigned char>(bytes[i]);
  return true;
}

}  // namespace

Json InitLink::pass(PassedFds& fds) {
  drain();
  Json exits = Json::array();
  for (const auto& [pid, status] : exits_) exits.push_back({pid, status});
  return {{"socket", fds.pass(socket_)}, {"pid", pid_}, {"serial", serial_}, {"exits", exits}};
}

Result<std::unique_ptr<InitLink>> InitLink::take(const Json& j) {
  ASSIGN_OR_RETURN(UniqueFd socket, PassedFds::take(j.at("socket")));
  std::unique_ptr<InitLink> link(new InitLink(std::move(socket), j.at("pid").get<pid_t>()));
  link->serial_ = j.at("serial");
  for (const Json& exit : j.at("exits")) link->exits_[exit.at(0)] = exit.at(1);
  return link;
}

Json WorldMounts::pass(PassedFds& fds) const {
  Json places = Json::array();
  for (const auto& [name, p] : places_)
    places.push_back({{"name", name}, {"place", p.place}, {"real", p.real}, {"root", fds.pass(p.root)}});
  return {{"places", places}, {"made", made_}, {"warnings", warnings_}};
}

Status WorldMounts::take(const Json& j) {
  for (const Json& p : j.at("places")) {
    Place& place = places_[p.at("name")];
    place.place = p.at("place");
    place.real = p.at("real");
    ASSIGN_OR_RETURN(place.root, PassedFds::take(p.at("root")));
  }
  made_ = j.at("made").get<std::vector<std::string>>();
  warnings_ = j.at("warnings").get<std::vector<std::string>>();
  return {};
}

Json PipeRelay::pass(PassedFds& fds) const { return {{"pid", pid_}, {"alive", fds.pass(alive_)}}; }

Result<std::unique_ptr<PipeRelay>> PipeRelay::take(const Json& j) {
  ASSIGN_OR_RETURN(UniqueFd alive, PassedFds::take(j.at("alive")));
  return std::unique_ptr<PipeRelay>(new PipeRelay(j.at("pid").get<pid_t>(), std::move(alive)));
}

Json PtyRelay::pass(PassedFds& fds) const {
  return {{"pid", pid_},       {"terminal", terminal_},          {"original", to_json(original_)},
          {"slave", slave_name_}, {"master", fds.pass(master_)}, {"control", fds.pass(control_)}};
}

Result<std::unique_ptr<PtyRelay>> PtyRelay::take(const Json& j) {
  std::unique_ptr<PtyRelay> relay(new PtyRelay());
  if (!from_json(j.at("original"), relay->original_)) return plain_error("a terminal's settings of another size");
  ASSIGN_OR_RETURN(relay->master_, PassedFds::take(j.at("master")));
  ASSIGN_OR_RETURN(relay->control_, PassedFds::take(j.at("control")));
  relay->slave_name_ = j.at("slave");
  relay->terminal_ = j.at("terminal");
  relay->pid_ = j.at("pid");
  return relay;
}

Json WorldStdio::pass(PassedFds& fds) const {
  Json own = Json::array(), given = Json::array(), saved = Json::array(), infos = Json::array(), relays = Json::array();
  const auto info = [](const StdioInfo& s) { return Json{{"fd", s.fd}, {"kind", s.kind}, {"id", s.id}}; };
  for (const Own& o : own_)
    own.push_back({{"kind", static_cast<int>(o.kind)}, {"flags", o.flags}, {"name", o.name}, {"device", o.device},
                   {"dev", o.dev}, {"ino", o.ino}, {"same_as", o.same_as.value_or(-1)}});
  for (const Given& g : given_)
    given.push_back({{"number", g.number}, {"fd", fds.pass(g.fd)}, {"info", info(g.info)}, {"is_file", g.is_file}});
  for (const UniqueFd& fd : saved_) saved.push_back(fds.pass(fd));
  for (const StdioInfo& s : infos_) infos.push_back(info(s));
  for (const Relay& r : relays_) relays.push_back({{"input", r.input}, {"process", r.process->pass(fds)}});
  return {{"own", own},     {"given", given},           {"saved", saved},
          {"infos", infos}, {"externals", externals_}, {"relays", relays},
          {"pty", pty_ ? pty_->pass(fds) : Json()}};
}

Status WorldStdio::take(const Json& j) {
  const auto info = [](const Json& s) { return StdioInfo{s.at("fd"), s.at("kind"), s.at("id")}; };
  for (std::size_t n = 0; n < own_.size(); ++n) {
    const Json& o = j.at("own").at(n);
    own_[n] = {static_cast<Kind>(o.at("kind").get<int>()), o.at("flags"), o.at("name"), o.at("device"),
               o.at("dev"), o.at("ino"), {}};
    if (const int same = o.at("same_as"); same >= 0) own_[n].same_as = same;
    ASSIGN_OR_RETURN(saved_[n], PassedFds::take(j.at("saved").at(n)));
  }
  for (const Json& g : j.at("given")) {
    Given given;
    given.number = g.at("number");
    ASSIGN_OR_RETURN(given.fd, PassedFds::take(g.at("fd")));
    given.info = info(g.at("info"));
    given.is_file = g.at("is_file");
    given_.push_back(std::move(given));
  }
  for (const Json& s : j.at("infos")) infos_.push_back(info(s));
  externals_ = j.at("externals").get<std::vector<std::string>>();
  for (const Json& r : j.at("relays")) {
    ASSIGN_OR_RETURN(auto process, PipeRelay::take(r.at("process")));
    relays_.push_back({r.at("input"), std::move(process)});
  }
  if (!j.at("pty").is_null()) {
    ASSIGN_OR_RETURN(pty_, PtyRelay::take(j.at("pty")));
  }
  return {};
}

Json World::pass(PassedFds& fds) {
  Impl& w = *impl_;
  return {{"link", w.link ? w.link->pass(fds) : Json()},
          {"mounts", w.mounts->pass(fds)},
          {"stdio", w.stdio->pass(fds)},
          {"limits", w.limits},
          {"root", fds.pass(w.root)},
          {"generation", fds.pass(w.generation)},
          {"kept_pids", w.kept_pids},
          {"app_inner", w.app_inner},
          {"app_outer", w.app_outer}};
}

Result<std::unique_ptr<World>> World::take(const Json& j) {
  auto* world = new World(std::make_unique<Impl>());  // never destroyed when this fails: the application is not ours to end
  Impl& w = *world->impl_;
  if (!j.at("link").is_null()) {
    ASSIGN_OR_RETURN(w.link, InitLink::take(j.at("link")));
  }
  w.connect();
  RETURN_IF_ERROR(w.mounts->take(j.at("mounts")));
  RETURN_IF_ERROR(w.stdio->take(j.at("stdio")));
  w.limits = j.at("limits").get<std::vector<std::string>>();
  ASSIGN_OR_RETURN(w.root, PassedFds::take(j.at("root")));
  ASSIGN_OR_RETURN(w.generation, PassedFds::take(j.at("generation")));
  w.kept_pids = j.at("kept_pids").get<std::set<int>>();
  w.app_inner = j.at("app_inner");
  w.app_outer = j.at("app_outer");
  return std::unique_ptr<World>(world);
}

}  // namespace supervise
