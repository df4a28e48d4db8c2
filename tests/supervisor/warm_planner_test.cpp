// When the warm image is due, and which references stop a thread. Pure.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <cstring>

#include "supervisor/warm/planner.h"
#include "supervisor/warm/sampler.h"
#include "supervisor/warm/sockets.h"

namespace supervise {
namespace {

using testing::HasSubstr;

Clock::time_point at(int ms) { return Clock::time_point{} + std::chrono::hours(1) + Millis(ms); }

WaitSample sample(int ms, WaitKind kind, std::uint64_t switches = 1, std::uint64_t cpu_us = 0, std::uint64_t pc = 7) {
  WaitSample s;
  s.at = at(ms);
  s.kind = kind;
  s.nr = SYS_futex;
  s.sp = 100;
  s.pc = pc;
  s.switches = switches;
  s.cpu_ns = cpu_us * 1000;
  return s;
}

ThreadView waits(WaitKind kind, std::initializer_list<WaitSample> samples, pid_t tid = 1) {
  ThreadView v;
  v.tid = tid;
  for (WaitSample s : samples) {
    s.kind = s.kind == WaitKind::Running ? s.kind : kind;
    add_sample(v.samples, s);
  }
  return v;
}
ThreadView still(WaitKind kind, pid_t tid = 1) { return waits(kind, {sample(0, kind), sample(400, kind)}, tid); }
ThreadView loops(WaitKind kind, std::uint64_t cpu_us) {
  return waits(kind, {sample(0, kind, 1, 0), sample(300, kind, 2, cpu_us / 4), sample(600, kind, 3, cpu_us / 2),
                      sample(900, kind, 4, cpu_us)});
}
ThreadView stopped(const std::string& peer, pid_t tid = 9) {
  ThreadView v;
  v.tid = tid;
  v.held = Reference{RefClass::Connect, "connect", peer, OtherEnd::Outside};
  return v;
}
bool done(const ThreadView& v, int now = 400) { return judge(v, at(now), Millis(300)).done; }

TEST(WarmPlanner, AWaitMustLastForTheSettleTime) {
  EXPECT_TRUE(done(still(WaitKind::Event)));
  EXPECT_TRUE(done(still(WaitKind::Timed)));
  EXPECT_FALSE(done(waits(WaitKind::Event, {sample(200, WaitKind::Event), sample(400, WaitKind::Event)})));
  // The last look is too long ago.
  EXPECT_FALSE(done(still(WaitKind::Event), 800));
}

TEST(WarmPlanner, WhoRunsOrReadsTheDiskIsNotDone) {
  EXPECT_FALSE(done(still(WaitKind::Running)));
  EXPECT_FALSE(done(still(WaitKind::Disk)));
  EXPECT_FALSE(done(ThreadView{}));
  EXPECT_TRUE(done(still(WaitKind::Stopped)));
}

TEST(WarmPlanner, AWaitThatIsWokenIsProgress) {
  EXPECT_FALSE(done(waits(WaitKind::Event, {sample(0, WaitKind::Event, 1), sample(150, WaitKind::Event, 2),
                                            sample(400, WaitKind::Event, 3)})));
  EXPECT_FALSE(done(waits(WaitKind::Event, {sample(0, WaitKind::Event), sample(50, WaitKind::Running),
                                            sample(200, WaitKind::Event), sample(400, WaitKind::Event)})));
  // Woken once, long ago.
  EXPECT_TRUE(done(waits(WaitKind::Event, {sample(0, WaitKind::Event, 1), sample(50, WaitKind::Event, 2),
                                           sample(400, WaitKind::Event, 2)})));
}

TEST(WarmPlanner, ALoopIsIdleWhenItUsesNoCpu) {
  // A poll loop, and the servant of one.
  for (WaitKind kind : {WaitKind::Timed, WaitKind::Sleep, WaitKind::Event}) {
    EXPECT_TRUE(done(loops(kind, 1000), 900));
    EXPECT_FALSE(done(loops(kind, 300000), 900));
  }
}

TEST(WarmPlanner, ALoopMayDoSomethingBetweenItsWaits) {
  ThreadView v;
  for (int i = 0; i < 60; ++i) {
    auto s = sample(i * 20, WaitKind::Sleep, static_cast<std::uint64_t>(i / 2), static_cast<std::uint64_t>(i) * 50);
    if (i % 5 == 4) s.kind = WaitKind::Running;
    if (i % 7 == 6) s.pc = 8;
    add_sample(v.samples, s);
    if (i > 50) { EXPECT_TRUE(done(v, i * 20)) << i; }
  }
  // Most of the time elsewhere: no loop around this wait.
  ThreadView busy;
  for (int i = 0; i < 60; ++i)
    add_sample(busy.samples, sample(i * 20, i % 3 ? WaitKind::Disk : WaitKind::Sleep, static_cast<std::uint64_t>(i)));
  EXPECT_FALSE(done(busy, 1180));
}

TEST(WarmPlanner, ALoopThatOthersKeepFromItsWaitIsOne) {
  // Of each 100 ms 30 in its wait, then two looks at something else.
  const auto loop = [](WaitKind second, WaitKind third, std::uint64_t cpu_us) {
    ThreadView v;
    std::uint64_t cpu = 0, n = 0;
    for (int i = 0; i < 3000; i += 100, ++n) {
      add_sample(v.samples, sample(i, WaitKind::Sleep, n, cpu, 7));
      add_sample(v.samples, sample(i + 30, second, n, cpu, 8));
      cpu += cpu_us;
      add_sample(v.samples, sample(i + 70, third, n, cpu, 9));
    }
    add_sample(v.samples, sample(3000, WaitKind::Sleep, n, cpu, 7));
    return done(v, 3000);
  };
  EXPECT_TRUE(loop(WaitKind::Running, WaitKind::Running, 100)) << "it has no CPU, or is being served";
  EXPECT_TRUE(loop(WaitKind::Running, WaitKind::Event, 100)) << "another thread's answer";
  EXPECT_FALSE(loop(WaitKind::Running, WaitKind::Running, 9000)) << "it computes, in the little time that it gets";
  EXPECT_FALSE(loop(WaitKind::Running, WaitKind::Disk, 100));
  EXPECT_FALSE(loop(WaitKind::Running, WaitKind::Timed, 100)) << "another wait";
}

TEST(WarmPlanner, OneSleepIsNoLoop) {
  EXPECT_FALSE(done(still(WaitKind::Sleep)));
  EXPECT_FALSE(done(waits(WaitKind::Sleep, {sample(0, WaitKind::Sleep, 1), sample(400, WaitKind::Sleep, 2)})));
  // Slow loops are seen over their whole stay.
  EXPECT_TRUE(done(waits(WaitKind::Sleep, {sample(0, WaitKind::Sleep, 1), sample(2000, WaitKind::Sleep, 2),
                                           sample(4000, WaitKind::Sleep, 3)}), 4000));
  // Another place in the program is another sleep.
  EXPECT_FALSE(done(waits(WaitKind::Sleep, {sample(0, WaitKind::Sleep, 1, 0, 7), sample(2000, WaitKind::Sleep, 2, 0, 8),
                                            sample(4000, WaitKind::Sleep, 3, 0, 9)}), 4000));
}

TEST(WarmPlanner, TakesTheImageWhenAllAreDone) {
  WarmRules rules;
  rules.mode = WarmRules::Auto;
  const WarmClock clock{at(400), at(0)};
  EXPECT_EQ(plan_warm({stopped("tcp 1.2.3.4:5"), still(WaitKind::Event)}, rules, clock, false).answer, WarmPlan::Take);
  EXPECT_EQ(plan_warm({stopped("tcp 1.2.3.4:5"), still(WaitKind::Running)}, rules, clock, false).answer, WarmPlan::Wait);
  EXPECT_EQ(plan_warm({}, rules, clock, false).answer, WarmPlan::Wait);
  const auto plan = plan_warm({stopped("tcp 1.2.3.4:5")}, rules, clock, false);
  EXPECT_THAT(plan.threads[0].reason, HasSubstr("stopped before connect: tcp 1.2.3.4:5"));
}

TEST(WarmPlanner, TheDeadlineCountsFromTheFirstThatStopped) {
  WarmRules rules;
  rules.mode = WarmRules::Auto;
  rules.deadline = Millis(1000);
  const std::vector<ThreadView> threads{stopped("x"), still(WaitKind::Running)};
  EXPECT_EQ(plan_warm(threads, rules, {at(999), at(0)}, false).answer, WarmPlan::Wait);
  EXPECT_EQ(plan_warm(threads, rules, {at(1000), at(0)}, false).answer, WarmPlan::TakeLate);
  EXPECT_EQ(plan_warm({still(WaitKind::Running)}, rules, {at(5000), {}}, false).answer, WarmPlan::Wait);
}

TEST(WarmPlanner, WithoutAReferenceAllMustBeIdleForLonger) {
  WarmRules rules;
  rules.mode = WarmRules::Auto;
  EXPECT_EQ(plan_warm({still(WaitKind::Event)}, rules, {at(400), {}}, false).answer, WarmPlan::Wait);
  const auto longer = waits(WaitKind::Event, {sample(0, WaitKind::Event), sample(1000, WaitKind::Event)});
  EXPECT_EQ(plan_warm({longer}, rules, {at(1000), {}}, false).answer, WarmPlan::Take);
  rules.mode = WarmRules::Connect;
  EXPECT_EQ(plan_warm({longer}, rules, {at(1000), {}}, true).answer, WarmPlan::Wait);
  rules.mode = WarmRules::Accept;
  EXPECT_EQ(plan_warm({longer}, rules, {at(1000), {}}, false).answer, WarmPlan::Wait);
  EXPECT_EQ(plan_warm({longer}, rules, {at(1000), {}}, true).answer, WarmPlan::Take);
}

TEST(WarmSampler, KnowsWhichWaitsHaveATimeOut) {
  std::uint64_t futex[6] = {0, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0};
  EXPECT_EQ(wait_kind(SYS_futex, futex), WaitKind::Event);
  futex[3] = 0x1000;
  EXPECT_EQ(wait_kind(SYS_futex, futex), WaitKind::Timed);
  std::uint64_t poll[6] = {0x1000, 1, static_cast<std::uint32_t>(-1), 0, 0, 0};
  EXPECT_EQ(wait_kind(SYS_poll, poll), WaitKind::Event);
  poll[2] = 50;
  EXPECT_EQ(wait_kind(SYS_poll, poll), WaitKind::Timed);
  poll[1] = 0;
  EXPECT_EQ(wait_kind(SYS_poll, poll), WaitKind::Sleep);
  std::uint64_t none[6] = {};
  EXPECT_EQ(wait_kind(SYS_accept4, none), WaitKind::Event);
  EXPECT_EQ(wait_kind(SYS_clock_nanosleep, none), WaitKind::Sleep);
}

TEST(WarmSampler, ReadsTheKernelsLine) {
  int nr = 0;
  std::uint64_t args[6] = {}, sp = 0, pc = 0;
  EXPECT_TRUE(parse_proc_syscall("202 0x7f 0x189 0x0 0x10 0x0 0xffffffff 0x7ffe10 0x7f33\n", nr, args, sp, pc));
  EXPECT_EQ(nr, 202);
  EXPECT_EQ(args[3], 0x10u);
  EXPECT_EQ(sp, 0x7ffe10u);
  EXPECT_EQ(pc, 0x7f33u);
  EXPECT_FALSE(parse_proc_syscall("running\n", nr, args, sp, pc));
  EXPECT_TRUE(parse_proc_syscall("-1 0x10 0x20\n", nr, args, sp, pc));
  EXPECT_EQ(nr, -1);
}

TEST(WarmSampler, KeepsTheEndsOfAStay) {
  std::deque<WaitSample> samples;
  for (int ms = 0; ms < 10000; ms += 20) add_sample(samples, sample(ms, WaitKind::Event));
  EXPECT_EQ(samples.size(), 2u);
  for (int i = 0; i < 1000; ++i) add_sample(samples, sample(10000 + i, WaitKind::Event, static_cast<std::uint64_t>(i) + 2));
  EXPECT_LE(samples.size(), 64u);
}

template <class T>
std::optional<Address> parsed(const T& raw, std::size_t size = sizeof(T)) {
  return parse_address(std::as_bytes(std::span(reinterpret_cast<const char*>(&raw), size)));
}

TEST(WarmReference, ReadsAddresses) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(5432);
  in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto a = parsed(in);
  ASSERT_TRUE(a);
  EXPECT_TRUE(a->loopback);
  EXPECT_EQ(to_string(*a, "tcp"), "tcp 127.0.0.1:5432");
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  in6.sin6_addr = in6addr_loopback;
  in6.sin6_port = htons(80);
  EXPECT_EQ(to_string(*parsed(in6), "udp"), "udp [::1]:80");
  EXPECT_TRUE(parsed(in6)->loopback);
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  strcpy(un.sun_path, "/run/x");
  EXPECT_EQ(to_string(*parsed(un), ""), "unix /run/x");
  un.sun_path[0] = '\0';
  EXPECT_EQ(to_string(*parsed(un, offsetof(sockaddr_un, sun_path) + 6), ""), "unix @run/x");
  sockaddr nothing{};
  EXPECT_FALSE(parsed(nothing));
  EXPECT_FALSE(parsed(in, 4));
  EXPECT_FALSE(parse_address({}));
}

Reference of(RefClass cls, OtherEnd end = OtherEnd::Outside, const char* call = "x") {
  return {cls, call, "tcp 10.0.0.1:80", end};
}

TEST(WarmReference, EachPointStopsAtItsOwnClasses) {
  const auto stops = [](const char* point, const Reference& r) {
    WarmRules rules;
    EXPECT_TRUE(parse_warm_point(point, rules)) << point;
    return stops_at(rules, r);
  };
  for (auto cls : {RefClass::Connect, RefClass::Datagram, RefClass::Listen, RefClass::Netlink, RefClass::Socket,
                   RefClass::Fifo, RefClass::Device, RefClass::Terminal, RefClass::Shm, RefClass::NetworkFile}) {
    EXPECT_TRUE(stops("auto", of(cls))) << to_string(cls);
    EXPECT_FALSE(stops("auto", of(cls, OtherEnd::Inside))) << to_string(cls);
    EXPECT_FALSE(stops("auto", of(cls, OtherEnd::Nobody))) << to_string(cls);
    EXPECT_FALSE(stops("manual", of(cls)));
    EXPECT_EQ(stops("connect", of(cls)), cls == RefClass::Connect || cls == RefClass::Datagram);
    EXPECT_EQ(stops("bind", of(cls)), cls == RefClass::Listen);
  }
  EXPECT_FALSE(stops("auto", of(RefClass::Accept)));
  EXPECT_TRUE(stops("accept", of(RefClass::Accept)));
  EXPECT_FALSE(stops("listen", of(RefClass::Listen, OtherEnd::Outside, "bind")));
  EXPECT_TRUE(stops("listen", of(RefClass::Listen, OtherEnd::Outside, "listen")));
  EXPECT_TRUE(stops("call:connect", of(RefClass::Call, OtherEnd::Outside, "connect")));
  WarmRules rules;
  EXPECT_FALSE(parse_warm_point("call:nonsense", rules));
  EXPECT_FALSE(parse_warm_point("sometimes", rules));
}

TEST(WarmReference, OverridesWin) {
  WarmRules rules;
  rules.mode = WarmRules::Auto;
  rules.internal = {"10.0.0.*:80"};
  EXPECT_FALSE(stops_at(rules, of(RefClass::Connect)));
  rules.internal = {"tcp 10.*"};
  EXPECT_FALSE(stops_at(rules, of(RefClass::Connect)));
  rules.internal = {"udp 10.*"};
  EXPECT_TRUE(stops_at(rules, of(RefClass::Connect)));
  rules.classes = {RefClass::Datagram};
  EXPECT_FALSE(stops_at(rules, of(RefClass::Connect)));
  EXPECT_TRUE(stops_at(rules, of(RefClass::Datagram)));
}

TEST(WarmSockets, ReadsTheKernelsTables) {
  const char* text =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
      "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n"
      "   1: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1\n";
  const auto rows = parse_net_table(text);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].port, 8080);
  EXPECT_TRUE(rows[0].listens);
  EXPECT_EQ(rows[0].ino, 4711u);
  EXPECT_FALSE(rows[1].listens);
}

TEST(WarmSockets, OneAddressOneTaker) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(80);
  in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const Address loopback = *parsed(in);
  EXPECT_EQ(loopback.raw, "0100007F");
  using Inodes = std::vector<std::uint64_t>;
  const PortOwner own{"0100007F", 80, true, 1}, other{"0500000A", 80, true, 2}, all{"00000000", 80, true, 3},
      mapped{"0000000000000000FFFF00000100007F", 80, true, 4}, quiet{"0100007F", 80, false, 5};
  EXPECT_EQ(takers({own, other, all, quiet}, loopback), (Inodes{1}));
  EXPECT_EQ(takers({other, all}, loopback), (Inodes{3}));
  EXPECT_EQ(takers({other}, loopback), (Inodes{}));
  EXPECT_EQ(takers({mapped, all}, loopback), (Inodes{4}));
  in.sin_addr.s_addr = 0;
  EXPECT_EQ(takers({own}, *parsed(in)), (Inodes{1}));
}

}  // namespace
}  // namespace supervise
