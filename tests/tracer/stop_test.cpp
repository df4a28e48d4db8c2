#include "tracer/stop.h"

#include <gtest/gtest.h>
#include <linux/ptrace.h>
#include <signal.h>

#include <set>
#include <string>

namespace supervise {
namespace {

constexpr int stopped(int sig, int event = 0) { return event << 16 | sig << 8 | 0x7f; }

TEST(Stop, EndsCarryCodeOrSignal) {
  const Stop exited = classify(7 << 8);
  EXPECT_EQ(exited.kind, StopKind::Exited);
  EXPECT_EQ(exited.code, 7);
  const Stop killed = classify(SIGSEGV | 0x80);  // with a core
  EXPECT_EQ(killed.kind, StopKind::Killed);
  EXPECT_EQ(killed.signal, SIGSEGV);
  EXPECT_TRUE(exited.is_end() && killed.is_end());
}

TEST(Stop, EventsAreTold) {
  EXPECT_EQ(classify(stopped(SIGTRAP, PTRACE_EVENT_SECCOMP)).kind, StopKind::Seccomp);
  EXPECT_EQ(classify(stopped(SIGTRAP, PTRACE_EVENT_FORK)).kind, StopKind::Fork);
  EXPECT_EQ(classify(stopped(SIGTRAP, PTRACE_EVENT_VFORK)).kind, StopKind::Vfork);
  EXPECT_EQ(classify(stopped(SIGTRAP, PTRACE_EVENT_CLONE)).kind, StopKind::Clone);
  EXPECT_EQ(classify(stopped(SIGTRAP, PTRACE_EVENT_VFORK_DONE)).kind, StopKind::VforkDone);
  EXPECT_EQ(classify(stopped(SIGTRAP, PTRACE_EVENT_EXEC)).kind, StopKind::Exec);
  const Stop other = classify(stopped(SIGTRAP, 77));
  EXPECT_EQ(other.kind, StopKind::Other);
  EXPECT_EQ(other.code, 77);
  EXPECT_FALSE(other.is_end());
}

TEST(Stop, BirthsAreForkVforkAndClone) {
  for (int event : {PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE})
    EXPECT_TRUE(classify(stopped(SIGTRAP, event)).is_birth()) << event;
  for (int event : {PTRACE_EVENT_EXEC, PTRACE_EVENT_SECCOMP, PTRACE_EVENT_VFORK_DONE, PTRACE_EVENT_STOP})
    EXPECT_FALSE(classify(stopped(SIGTRAP, event)).is_birth()) << event;
}

TEST(Stop, AGroupStopCarriesItsSignalAnInterruptionSigtrap) {
  for (int sig : {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU}) {
    const Stop stop = classify(stopped(sig, PTRACE_EVENT_STOP));
    EXPECT_EQ(stop.kind, StopKind::GroupStop);
    EXPECT_EQ(stop.signal, sig);
    EXPECT_EQ(classify(stopped(sig)).kind, StopKind::Signal) << "the same signal before its delivery";
  }
  EXPECT_EQ(classify(stopped(SIGTRAP, PTRACE_EVENT_STOP)).kind, StopKind::Interrupted);
}

TEST(Stop, ACallStopIsNoSigtrapOfTheApplication) {
  EXPECT_EQ(classify(stopped(SIGTRAP | 0x80)).kind, StopKind::CallStop);
  const Stop trap = classify(stopped(SIGTRAP));
  EXPECT_EQ(trap.kind, StopKind::Signal);
  EXPECT_EQ(trap.signal, SIGTRAP);
}

TEST(Stop, EveryKindHasANameOfItsOwn) {
  std::set<std::string> names;
  for (int kind = 0; kind <= static_cast<int>(StopKind::Other); ++kind)
    EXPECT_TRUE(names.insert(name_of(static_cast<StopKind>(kind))).second) << kind;
  EXPECT_FALSE(names.contains("?"));
}

}  // namespace
}  // namespace supervise
