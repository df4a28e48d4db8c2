#include "supervisor/doctor.h"

#include "supervisor/base/worker.h"

namespace supervise {

std::string_view to_string(Need need) {
  switch (need) {
    case Need::Supervise: return "supervise";
    case Need::Paths: return "paths";
    case Need::Handover: return "handover";
    case Need::Extra: return "extra";
  }
  return "?";
}

std::string_view to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::Ok: return "ok";
    case Verdict::Failed: return "failed";
    case Verdict::Skipped: return "skipped";
  }
  return "?";
}

Probe run_probe(const std::string& name, Need need, const std::string& remedy, Millis limit,
                const std::function<Result<std::string>()>& fn) {
  Probe probe{name, need, Verdict::Ok, {}, {}, 0};
  const auto start = Clock::now();
  const auto result = run_worker(name, Deadline::in(limit), [&]() -> Result<WorkerOutput> {
    auto text = fn();
    if (!text) return text.error();
    return WorkerOutput{text.take(), {}};
  });
  probe.ms = ms_between(start, Clock::now());
  if (result) {
    probe.detail = result.value().bytes;
  } else {
    probe.verdict = Verdict::Failed;
    probe.detail = result.error().message();
    if (probe.detail.starts_with(name + ": ")) probe.detail.erase(0, name.size() + 2);
    probe.remedy = remedy;
  }
  return probe;
}

}  // namespace supervise
