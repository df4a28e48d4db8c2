// What this host can do, found by trying (never by version numbers). Each probe runs in a child
// with a deadline and leaves nothing behind. A failed one names the capability or knob and the way
// to set it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "supervisor/options.h"

namespace supervise {

enum class Need {
  Supervise,  // without it nothing works
  Paths,      // without it a storage path can't be switched
  Handover,   // without it there are no images and no hand-over
  Extra,      // good to have; does not count for the exit status
};
enum class Verdict { Ok, Failed, Skipped };

struct Probe {
  std::string name;
  Need need = Need::Extra;
  Verdict verdict = Verdict::Skipped;
  std::string detail;
  std::string remedy;  // of a failed one
  double ms = 0;
};

using ProbeSink = std::function<void(const Probe&)>;

void probe_tracing(const ProbeSink& sink);       // ptrace, seccomp, memory, kcmp, pidfd
void probe_namespaces(const ProbeSink& sink);    // namespaces, mounts, PIDs
void probe_capabilities(const ProbeSink& sink);
void probe_storage(const DoctorOptions& options, const ProbeSink& sink);
void probe_criu(const ProbeSink& sink);          // smoke dump and restore

// Body of the process that the smoke test dumps: listens on a TCP port, stops itself, and when it
// is continued says by its exit status whether it still listens on that port.
int doctor_guest();

std::string_view to_string(Need need);
std::string_view to_string(Verdict verdict);

// `fn` in a worker; its text becomes the detail, its error (with `remedy`) a failure.
Probe run_probe(const std::string& name, Need need, const std::string& remedy, Millis limit,
                const std::function<Result<std::string>()>& fn);

}  // namespace supervise
