// What the control socket asks of a running session, and the answer to `status`.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "supervisor/control.h"
#include "supervisor/session.h"
#include "tracer/stub/stub.h"

namespace supervise {

using nlohmann::json;

std::string Session::status_json() const {
  json paths = json::array();
  for (const auto& p : paths_.all()) {
    json dirs = json::array();
    for (std::size_t i = 0; i < p->dirs.size(); ++i)
      dirs.push_back({{"dir", p->dirs[i]},
                      {"state", i == p->active ? "in use" : p->given_up.contains(i) ? "given up" : "available"}});
    paths.push_back({{"name", p->name},
                     {"place", p->place},
                     {"dirs", dirs},
                     {"health", p->given_up.contains(p->active) ? "failed" : p->switches ? "on alternate" : "good"},
                     {"errors", p->errors},
                     {"switches", p->switches},
                     {"journal_bytes", p->journal.bytes()},
                     {"journal_files", p->journal.dirty_files()}});
  }
  json failed = json::array();
  for (const auto& [tid, f] : failed_) {
    static constexpr const char* kWaits[] = {"timer", "replay", "alternate", "running"};
    failed.push_back({{"tid", tid},
                      {"call", f.sigbus ? "mmap" : std::string(syscall_name(f.nr))},
                      {"path", f.path->name},
                      {"rung", to_string(f.ladder[std::min(f.attempts.rung, f.ladder.size() - 1)])},
                      {"waits_for", kWaits[f.waits_for]}});
  }
  const auto& figures = tracer_.figures();
  json in_process = {{"mode", config_.stub == StubMode::Off ? "off" : stub_problem_.empty() ? "on" : "unavailable"}};
  if (!stub_problem_.empty()) in_process["problem"] = stub_problem_;
  if (stub::Stub* s = tracer_.stub()) {
    const auto& f = s->figures;
    in_process.update({{"calls", s->control().calls}, {"address_spaces", f.spaces}, {"started", f.started}, {"patched", f.patched},
                       {"unpatchable", f.unpatchable}, {"reports", f.reports}, {"taken_out", f.left},
                       {"records", ring_ ? ring_->records() : 0}, {"last_refusal", f.last_refusal}});
  }
  return json{{"name", config_.name},
              {"pid", getpid()},
              {"version", SUPERVISE_VERSION},
              {"command", config_.command},
              {"uptime_s", std::chrono::duration<double>(Clock::now() - started_).count()},
              {"processes", tracer_.processes().size()},
              {"threads", tracer_.all().size()},
              {"supervisor_loss", !config_.outlive ? "kill" : keeper_.running() ? "keep" : "kill for now"},
              {"keeper", keeper_.pid()},
              {"took_over_from", took_over_from_},
              {"paths", paths},
              {"ladder", failed},
              {"incidents", incidents_},
              {"standby", config_.standby},
              {"images", config_.images_dir},
              {"last_image", last_image_},
              {"stops", {{"all", figures.stops}, {"calls", figures.entries}, {"signals", figures.signals}}},
              {"in_process", in_process},
              {"limits", world_ ? world_->limits() : std::vector<std::string>{}}}
      .dump(-1, ' ', false, json::error_handler_t::replace);  // names need not be UTF-8
}

void Session::serve_control() {
  control_->on_readable([this](const ControlRequest& request, ControlReply reply) {
    if (request.command == "status") {
      reply.ok(status_json());
    } else if (request.command == "checkpoint") {
      deferred_.push_back([this, request, reply]() mutable {
        auto image = run_checkpoint(request.stop);
        if (image) reply.ok(json{{"image", *image}}.dump());
        else reply.fail(image.error().message());
      });
    } else if (request.command == "handover") {
      deferred_.push_back([this, request, reply]() mutable {
        if (!request.to.empty()) {
          config_.standby = request.to;
          ship_target_.reset();
          if (auto s = learn_standby(); !s) return reply.fail(s.error().message());
        }
        handover_failed_ = false;
        run_handover("asked for");
        if (handed_over_) reply.ok(json{{"image", last_image_}}.dump());
        else reply.fail("the hand-over failed; the application goes on here (the log says why)");
      });
    } else if (request.command == "adopt") {
      deferred_.push_back([this, request, reply] { give_way(request, reply); });
    } else if (request.command == "activate" && !config_.activated.empty()) {
      reply.fail(config_.activated);
    } else {
      reply.fail(fmt::format("`{}` is not for a running application", request.command));
    }
  });
}

}  // namespace supervise
