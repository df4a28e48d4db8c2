// Ownership when many want it at once: processes that raise the epoch, claim and retract.
#include <poll.h>

#include <set>

#include "tests/restore/ownership_fixture.h"

namespace supervise {
namespace {

using namespace test;

TEST_F(OwnershipTest, ProcessesThatRaiseTheEpochAtOnceGetDifferentOnes) {
  constexpr int kProcesses = 10, kEach = 20;
  std::vector<pid_t> pids;
  for (int p = 0; p < kProcesses; ++p) {
    pids.push_back(in_child([&] {
      for (int i = 0; i < kEach; ++i) {
        auto e = own_.raise_epoch();
        if (!e || !write_file_durably(d_ / ("got-" + std::to_string(*e) + "-" + std::to_string(getpid())), "")) return 1;
      }
      return 0;
    }));
  }
  for (pid_t pid : pids) EXPECT_EQ(wait_for(pid, Millis(30000)), 0);
  EXPECT_EQ(own_.epoch().value(), std::uint64_t{kProcesses * kEach});
  std::set<std::string> numbers;
  auto names = names_in(d_.path()).value();
  for (const auto& n : names) {
    if (!n.starts_with("got-")) continue;
    EXPECT_TRUE(numbers.insert(n.substr(4, n.rfind('-') - 4)).second) << n;
  }
  EXPECT_EQ(numbers.size(), std::size_t{kProcesses * kEach});
}

#ifdef __SANITIZE_ADDRESS__
constexpr int kSlower = 5;  // a fork of an instrumented program is dear
#else
constexpr int kSlower = 1;
#endif

// All wait at a pipe, all claim at once, all stay alive until everybody has an answer.
int winners(Ownership& own, const std::string& img, int processes) {
  int go[2], stay[2], answer[2];
  if (pipe(go) || pipe(stay) || pipe(answer)) return -1;
  std::vector<pid_t> pids;
  for (int p = 0; p < processes; ++p) {
    pids.push_back(in_child([&] {
      close(go[1]);
      close(stay[1]);
      char c;
      (void)!read(go[0], &c, 1);
      auto s = own.claim(img, 5);
      c = s.ok() ? 'w' : s.error().err == EBUSY ? 'l' : 'e';
      (void)!write(answer[1], &c, 1);
      (void)!read(stay[0], &c, 1);
      return 0;
    }));
  }
  close(go[0]);
  close(go[1]);
  int won = 0, answers = 0;
  auto deadline = Deadline::in(Millis(20000));
  while (answers < processes && !deadline.passed()) {
    pollfd p{answer[0], POLLIN, 0};
    char c;
    if (poll(&p, 1, deadline.left_ms()) != 1 || read(answer[0], &c, 1) != 1) break;
    ++answers;
    if (c == 'w') ++won;
    if (c == 'e') won += 1000;
  }
  close(stay[0]);
  close(stay[1]);
  for (pid_t pid : pids) wait_for(pid, Millis(5000));
  close(answer[0]);
  close(answer[1]);
  return answers == processes ? won : -answers;
}

TEST_F(OwnershipTest, OfFiftyExactlyOneWinsAFreshImage) {
  for (int round = 0; round < 25 / kSlower; ++round) ASSERT_EQ(winners(own_, image(round), 50), 1) << round;
}

TEST_F(OwnershipTest, OfFiftyExactlyOneTakesOverFromTheDead) {
  for (int round = 0; round < 15 / kSlower; ++round) {
    std::string img = image(round);
    claim_by_dead(img, "claimed");
    ASSERT_EQ(winners(own_, img, 50), 1) << round;
  }
}

TEST_F(OwnershipTest, CommitAndRetractAgainstSixClaims) {
  // Whoever wins, never both: the origin goes on only when the retraction succeeded.
  int retracted = 0, taken = 0;
  for (int round = 0; round < 30; ++round) {
    std::string img = image(round);
    ASSERT_TRUE(own_.commit(img, a_commit()).ok());
    std::vector<pid_t> pids;
    for (int p = 0; p < 6; ++p) {
      pids.push_back(in_child([&, p] {
        usleep(static_cast<useconds_t>(p * 150));
        return own_.claim(img, 2).ok() ? 1 : 0;
      }));
    }
    usleep(static_cast<useconds_t>(round * 60));
    bool origin = own_.retract(img).ok();
    int successors = 0;
    for (pid_t pid : pids) successors += WEXITSTATUS(wait_for(pid, Millis(5000)));
    if (origin) {
      EXPECT_EQ(successors, 0) << round;
      EXPECT_FALSE(own_.committed(img).value().has_value());
    } else {
      EXPECT_GE(successors, 1) << round;  // more than one only after the former winner's death
      EXPECT_TRUE(own_.committed(img).value().has_value());
    }
    (origin ? retracted : taken)++;
  }
  RecordProperty("retracted", retracted);
  RecordProperty("taken", taken);
}

}  // namespace
}  // namespace supervise
