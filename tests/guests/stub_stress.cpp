// A stress of the calls that are made often enough to be taken off the slow way: threads, processes, signals
// and cancellations meet them at every instruction. Prints "ok PART" for each part, the same in each run.
//
//   stub_stress DIR [--outside DIR] [--seed N] [--seconds N] [PART...]
//
// DIR must be there. Parts that go on for a time do so for --seconds (2) each.
#include <algorithm>

#include "stub_stress.h"

namespace {

const struct {
  const char* name;
  void (*run)();
} parts[] = {
    {"descriptors", stress::descriptors}, {"positions", stress::positions},         {"appends", stress::appends},
    {"errors", stress::errors},           {"registers", stress::registers},         {"stacks", stress::stacks},
    {"timers", stress::timers},           {"interruptions", stress::interruptions}, {"jumps", stress::jumps},
    {"storm", stress::storm},             {"cancellations", stress::cancellations}, {"processes", stress::processes},
    {"sharers", stress::sharers},
};

// A part that hangs ends the program, and says which it was.
const char* volatile now = "start";
std::atomic<double> last{0};
void watch() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  while (guest::seconds() < last) guest::pause_ms(200);
  guest::line("FAIL %s did not end in time", now);
  _exit(70);
}

}  // namespace

int main(int argc, char** argv) {
  using stress::options;
  if (argc > 1 && std::string(argv[1]) == "--child") return stress::child(argc, argv);
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--seed") options.seed = strtoul(argv[++i], nullptr, 10);
    else if (word == "--seconds") options.seconds = atof(argv[++i]);
    else if (word == "--outside") options.outside = argv[++i];
    else if (options.dir.empty()) options.dir = word;
    else wanted.push_back(word);
  }
  if (options.dir.empty()) return 2;
  if (options.outside.empty()) options.outside = options.dir;
  last = guest::seconds() + 120;
  std::thread(watch).detach();
  for (const auto& part : parts) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), part.name) == wanted.end()) continue;
    now = part.name;
    last = guest::seconds() + options.seconds + 120;
    stress::part_end = guest::seconds() + options.seconds;
    const int before = *guest::failures;
    stress::told = 0;
    part.run();
    if (*guest::failures == before) guest::line("ok   %s", part.name);
  }
  return guest::finish("stub_stress");
}
