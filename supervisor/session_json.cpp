#include "supervisor/session_json.h"

#include <nlohmann/json.hpp>

#include "supervisor/base/errno_class.h"

namespace supervise {

using nlohmann::json;

std::string run_options_to_json(const SessionConfig& c) {
  json rules = json::array();
  for (const Rule& r : c.rules) {
    json errnos = json::array();
    for (int e : r.errnos) errnos.push_back(errno_name(e));
    rules.push_back({{"where", r.where},
                     {"calls", r.calls},
                     {"errnos", errnos},
                     {"ladder", to_string(r.ladder)}});
  }
  return json{{"rules", rules},
              {"observe", c.observe},
              {"journal", static_cast<int>(c.journal)},
              {"journal_limit", c.journal_limit},
              {"stub", static_cast<int>(c.stub)},
              {"tcp", static_cast<int>(c.tcp)},
              {"path_deadline_ms", c.path_deadline.count()},
              {"outlive", c.outlive},
              {"handover_exit_code", c.handover_exit_code}}
      .dump();
}

Status run_options_from_json(const std::string& text, SessionConfig& c) {
  const json j = json::parse(text, nullptr, false);
  if (!j.is_object()) return plain_error("the image's run options are no JSON object");
  try {
    for (const json& r : j.at("rules")) {
      Rule rule;
      rule.where = r.at("where").get<std::string>();
      rule.calls = r.at("calls").get<std::set<std::string>>();
      for (const json& e : r.at("errnos")) {
        auto number = errno_from_name(e.get<std::string>());
        if (!number) return plain_error("the image's rule names an unknown errno " + e.dump());
        rule.errnos.insert(*number);
      }
      ASSIGN_OR_RETURN(rule.ladder, parse_ladder(r.at("ladder").get<std::string>()));
      c.rules.push_back(std::move(rule));
    }
    c.observe = j.at("observe").get<bool>();
    c.journal = static_cast<JournalMode>(j.at("journal").get<int>());
    c.journal_limit = j.at("journal_limit").get<std::uint64_t>();
    c.stub = static_cast<StubMode>(j.value("stub", static_cast<int>(StubMode::Off)));
    c.outlive = j.value("outlive", true);
    c.tcp = static_cast<TcpPolicy>(j.at("tcp").get<int>());
    c.path_deadline = Millis(j.at("path_deadline_ms").get<std::int64_t>());
    c.handover_exit_code = j.at("handover_exit_code").get<int>();
  } catch (const json::exception& e) {
    return plain_error(std::string("the image's run options: ") + e.what());
  }
  return {};
}

std::string carried_state_to_json(const CarriedState& s) {
  return json{{"stopped", s.stopped}, {"incidents", s.incidents}, {"last_pid", s.last_pid}, {"guarded", s.guarded}}.dump();
}

Result<CarriedState> carried_state_from_json(const std::string& text) {
  const json j = json::parse(text, nullptr, false);
  if (!j.is_object()) return plain_error("the image's state is no JSON object");
  try {
    CarriedState s;
    s.stopped = j.at("stopped").get<std::set<int>>();
    s.incidents = j.at("incidents").get<std::uint64_t>();
    s.last_pid = j.at("last_pid").get<int>();
    if (j.contains("guarded")) s.guarded = j.at("guarded").get<std::set<int>>();
    return s;
  } catch (const json::exception& e) {
    return plain_error(std::string("the image's state: ") + e.what());
  }
}

}  // namespace supervise
