#include "supervisor/doctor.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "supervisor/commands/commands.h"

namespace supervise {
namespace {

bool counts(const Probe& probe) {
  return probe.verdict == Verdict::Failed && probe.need != Need::Extra;
}

std::string one_line(std::string text) {
  for (std::size_t at; (at = text.find('\n')) != std::string::npos;) text.replace(at, 1, "; ");
  return text;
}

std::string as_text(const Probe& probe) {
  const char* word = probe.verdict == Verdict::Ok ? "ok"
                     : probe.verdict == Verdict::Skipped ? "-"
                     : probe.need == Need::Extra ? "note"
                                                 : "FAIL";
  auto line = fmt::format("{:<5}{:<30} {}\n", word, probe.name, one_line(probe.detail));
  if (!probe.remedy.empty()) line += fmt::format("{:5}{:<30} way out: {}\n", "", "", probe.remedy);
  return line;
}

std::string as_json(const std::vector<Probe>& probes, bool all) {
  nlohmann::ordered_json object{{"ok", all}, {"probes", nlohmann::ordered_json::array()}};
  for (const auto& probe : probes) {
    nlohmann::ordered_json item{{"name", probe.name},
                                {"need", to_string(probe.need)},
                                {"verdict", to_string(probe.verdict)},
                                {"detail", probe.detail}};
    if (!probe.remedy.empty()) item["remedy"] = probe.remedy;
    item["ms"] = probe.ms;
    object["probes"].push_back(std::move(item));
  }
  return object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string verdict_of(const std::vector<Probe>& probes) {
  const auto broken = [&](Need need) {
    for (const auto& probe : probes)
      if (probe.need == need && probe.verdict == Verdict::Failed) return true;
    return false;
  };
  const bool supervise = !broken(Need::Supervise);
  const bool paths = supervise && !broken(Need::Paths);
  const bool handover = paths && !broken(Need::Handover);
  const auto word = [](bool yes) { return yes ? "yes" : "NO"; };
  return fmt::format("\nsupervision: {}   switching a storage path: {}   images and hand-over: {}\n",
                     word(supervise), word(paths), word(handover));
}

}  // namespace

int command_doctor(const DoctorOptions& options) {
  std::vector<Probe> probes;
  int status = 0;
  const ProbeSink sink = [&](const Probe& probe) {
    probes.push_back(probe);
    if (counts(probe)) status = std::max(status, 1);
    if (!options.json) status = std::max(status, print_out(as_text(probe)));
  };
  probe_tracing(sink);
  probe_namespaces(sink);
  probe_capabilities(sink);
  probe_storage(options, sink);
  probe_criu(sink);
  return print_out(options.json ? as_json(probes, status == 0) : verdict_of(probes), status);
}

}  // namespace supervise
