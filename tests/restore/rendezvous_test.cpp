#include "restore/rendezvous.h"

#include <sys/time.h>

#include "restore/host_identity.h"
#include "restore/image_layout.h"
#include "tests/restore/test_support.h"

namespace supervise {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;

HostIdentity host(const std::string& name) {
  HostIdentity id = HostIdentity::self();
  id.host = name;
  return id;
}

class RendezvousTest : public testing::Test {
 protected:
  static void age(const std::string& path, int seconds) {
    timeval tv[2];
    gettimeofday(&tv[0], nullptr);
    tv[0].tv_sec -= seconds;
    tv[1] = tv[0];
    ASSERT_EQ(utimes(path.c_str(), tv), 0);
  }
  std::vector<std::string> files() { return names_in(d_.path()).value(); }

  ScratchDir d_;
  Rendezvous meet_{d_.path()};
};

TEST_F(RendezvousTest, FreshBeatsAreSeenAtOnce) {
  EXPECT_TRUE(meet_.standbys(Millis(1000)).value().empty());
  ASSERT_TRUE(meet_.beat({host("b"), 1, "image", {"data", "logs"}}).ok());
  ASSERT_TRUE(meet_.beat({host("c/../x"), 1, "parked", {}}).ok());
  auto before = Clock::now();
  auto seen = meet_.standbys(Millis(1000)).value();
  EXPECT_LT(ms_between(before, Clock::now()), 500);
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].who.host, "b");
  EXPECT_EQ(seen[0].paths, (std::vector<std::string>{"data", "logs"}));
  EXPECT_EQ(seen[1].who.host, "c/../x");
  EXPECT_EQ(seen[1].level, "parked");
  EXPECT_THAT(files(), testing::ElementsAre("standby-b.json", "standby-c%2f..%2fx.json"));
}

TEST_F(RendezvousTest, WallClocksOfHostsMayDisagree) {
  // Its own idea of the time is ten years off: only the file's time counts.
  ASSERT_TRUE(meet_.beat({host("b"), unix_now_ns() - 315'360'000'000'000'000, "image", {}}).ok());
  EXPECT_EQ(meet_.standbys(Millis(300)).value().size(), 1u);
}

TEST_F(RendezvousTest, AnOldBeatIsNoneUnlessItMoves) {
  for (int skew : {3600, -3600}) {  // the file system's time may be off, too
    ASSERT_TRUE(meet_.beat({host("b"), 1, "image", {}}).ok());
    age(d_ / "standby-b.json", skew);
    auto before = Clock::now();
    EXPECT_TRUE(meet_.standbys(Millis(150)).value().empty());
    EXPECT_GE(ms_between(before, Clock::now()), 149);
    pid_t beater = in_child([&] {
      for (std::int64_t n = 2; n < 400; ++n) {
        if (!meet_.beat({host("b"), n, "image", {}})) return 1;
        age(d_ / "standby-b.json", skew);
        usleep(5000);
      }
      return 0;
    });
    usleep(30000);
    EXPECT_EQ(meet_.standbys(Millis(1000)).value().size(), 1u) << skew;
    kill(beater, SIGKILL);
    wait_for(beater, Millis(1000));
    meet_.leave(host("b"));
  }
}

TEST_F(RendezvousTest, ADeadProcessOfThisHostIsNoStandby) {
  pid_t dead = in_child([&] { return meet_.beat({HostIdentity::self(), 1, "image", {}}).ok() ? 0 : 1; });
  ASSERT_EQ(wait_for(dead, Millis(2000)), 0);
  auto before = Clock::now();
  EXPECT_TRUE(meet_.standbys(Millis(5000)).value().empty());
  EXPECT_LT(ms_between(before, Clock::now()), 1000);
}

TEST_F(RendezvousTest, LeavingRemovesOnlyOnesOwnBeat) {
  ASSERT_TRUE(meet_.beat({host("b"), 1, "image", {}}).ok());
  auto other = host("b");
  other.pid = 1;
  meet_.leave(other);
  EXPECT_EQ(files().size(), 1u);
  meet_.leave(host("b"));
  EXPECT_TRUE(files().empty());
}

TEST_F(RendezvousTest, HalfWrittenFilesAreNotTaken) {
  put(d_ / "standby-b.json", "{\"who\": {\"ho");
  put(d_ / "standby-c.json", "");
  put(d_ / ".standby-d.json.x.tmp", "{}");
  EXPECT_TRUE(meet_.standbys(Millis(30)).value().empty());
  ASSERT_TRUE(meet_.request("prepare", 1, "/img", host("a")).ok());
  put(d_ / "ready-1-b.json", "{\"request_id\"");
  auto a = meet_.await_answer("prepare", 1, Deadline::in(Millis(30)));
  ASSERT_FALSE(a.ok());
  EXPECT_EQ(a.error().err, ETIMEDOUT);
}

TEST_F(RendezvousTest, ARequestReachesTheStandbyAndItsAnswerComesBack) {
  pid_t standby = in_child([&] {
    Rendezvous there(d_.path());
    auto deadline = Deadline::in(Millis(5000));
    std::string answered;
    int count = 0;
    while (!deadline.passed() && count < 2) {
      if (!there.beat({host("b"), unix_now_ns(), "image", {}})) return 1;
      auto r = there.pending();
      if (r && *r && (*r)->id != answered) {
        if ((*r)->image_dir != d_ / ".tmp-000004" || (*r)->origin.host != "a") return 2;
        answered = (*r)->id;
        ++count;
        if (!there.answer(**r, {host("b"), true, (*r)->kind + " done"})) return 3;
      }
      usleep(2000);
    }
    return count == 2 ? 0 : 4;
  });
  for (const char* kind : {"prepare", "verify"}) {
    ASSERT_TRUE(meet_.request(kind, 4, d_ / ".tmp-000004", host("a")).ok());
    auto a = meet_.await_answer(kind, 4, Deadline::in(Millis(5000)));
    ASSERT_TRUE(a.ok()) << a.error().message();
    EXPECT_TRUE(a->ok);
    EXPECT_EQ(a->who.host, "b");
    EXPECT_EQ(a->reason, std::string(kind) + " done");
  }
  EXPECT_EQ(wait_for(standby, Millis(6000)), 0);
  meet_.withdraw(3);
  EXPECT_EQ(files().size(), 4u) << "another generation's files stay";
  meet_.withdraw(4);
  EXPECT_THAT(files(), testing::ElementsAre("standby-b.json"));
  EXPECT_FALSE(meet_.pending().value().has_value());
}

TEST_F(RendezvousTest, RefusalsAreCollectedWhenAllHaveRefused) {
  ASSERT_TRUE(meet_.beat({host("b"), 1, "image", {}}).ok());
  ASSERT_TRUE(meet_.beat({host("c"), 1, "image", {}}).ok());
  ASSERT_TRUE(meet_.request("verify", 2, "/img", host("a")).ok());
  auto r = *meet_.pending().value();
  ASSERT_TRUE(meet_.answer(r, {host("b"), false, "part pages-1.img: is missing"}).ok());
  auto before = Clock::now();
  auto half = meet_.await_answer("verify", 2, Deadline::in(Millis(60)));
  EXPECT_GE(ms_between(before, Clock::now()), 59) << "c may still say yes";
  ASSERT_TRUE(half.ok());
  EXPECT_FALSE(half->ok);
  EXPECT_EQ(half->reason, "b: part pages-1.img: is missing");
  ASSERT_TRUE(meet_.answer(r, {host("c"), false, "no path data"}).ok());
  before = Clock::now();
  auto all = meet_.await_answer("verify", 2, Deadline::in(Millis(5000)));
  EXPECT_LT(ms_between(before, Clock::now()), 1000);
  ASSERT_TRUE(all.ok());
  EXPECT_FALSE(all->ok);
  EXPECT_EQ(all->reason, "b: part pages-1.img: is missing; c: no path data");
  ASSERT_TRUE(meet_.answer(r, {host("d"), true, ""}).ok());
  EXPECT_TRUE(meet_.await_answer("verify", 2, Deadline::in(Millis(50)))->ok);
}

TEST_F(RendezvousTest, AnAnswerToAFormerRequestCountsForNothing) {
  ASSERT_TRUE(meet_.request("prepare", 2, "/img", host("a")).ok());
  auto old = *meet_.pending().value();
  meet_.withdraw(2);
  ASSERT_TRUE(meet_.request("prepare", 2, "/img", host("a")).ok());
  ASSERT_TRUE(meet_.answer(old, {host("b"), true, "late"}).ok());
  auto a = meet_.await_answer("prepare", 2, Deadline::in(Millis(50)));
  ASSERT_FALSE(a.ok());
  EXPECT_EQ(a.error().err, ETIMEDOUT);
  EXPECT_THAT(a.error().message(), AllOf(HasSubstr("generation 2"), HasSubstr(d_.path())));
}

TEST_F(RendezvousTest, WrongUseIsNamed) {
  EXPECT_THAT(meet_.request("dance", 1, "/x", host("a")).error().message(), HasSubstr("\"dance\""));
  EXPECT_EQ(meet_.await_answer("prepare", 1, Deadline::in(Millis(50))).error().err, ENOENT);
  Rendezvous nowhere(d_ / "missing");
  EXPECT_THAT(nowhere.standbys(Millis(10)).error().message(), HasSubstr("/missing"));
  EXPECT_FALSE(nowhere.beat({host("b"), 1, "", {}}).ok());
  put(d_ / "request.json", "[1]");
  EXPECT_THAT(meet_.pending().error().message(), HasSubstr("request.json"));
}

}  // namespace
}  // namespace supervise
