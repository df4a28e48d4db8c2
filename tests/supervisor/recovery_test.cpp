#include "supervisor/recovery.h"

#include <gtest/gtest.h>

#include <tuple>

namespace supervise {
namespace {

Ladder ladder(const char* text) {
  auto r = parse_ladder(text);
  EXPECT_TRUE(r.ok());
  return r.ok() ? *r : Ladder{};
}

const char* name(Act a) {
  switch (a) {
    case Act::RunAgain: return "run";
    case Act::ReplayRunAgain: return "replay";
    case Act::Alternate: return "alternate";
    case Act::Handover: return "handover";
    case Act::Report: return "report";
  }
  return "?";
}

// The acts of one call that fails again and again; an alternate is used up once it was taken.
std::string acts(const char* text, CallKind kind, Surroundings around, int paths, int most = 40) {
  Ladder l = ladder(text);
  Attempts attempts;
  std::string out;
  for (int i = 0; i < most; ++i) {
    around.alternate_available = paths > 0;
    NextStep s = next_step(l, kind, attempts, around);
    if (!out.empty()) out += " ";
    out += name(s.act);
    if (s.delay.count()) out += "+" + std::to_string(s.delay.count());
    if (s.act == Act::Report || s.act == Act::Handover) return out;
    if (s.act == Act::Alternate) --paths;
    attempts = s.attempts;
  }
  return out + " ...";
}

constexpr char kDefault[] = "retry(2,20ms),alternate,handover,report";

TEST(Recovery, OrdinaryCallsAreRetriedThenGoOverTheAlternate) {
  EXPECT_EQ(acts(kDefault, CallKind::Ordinary, {}, 1), "run+20 run+20 alternate report");
  EXPECT_EQ(acts(kDefault, CallKind::Ordinary, {}, 2), "run+20 run+20 alternate alternate report");
  EXPECT_EQ(acts(kDefault, CallKind::Ordinary, {}, 0), "run+20 run+20 report");
}

TEST(Recovery, AFailedSyncIsNeverSimplyRunAgain) {
  for (CallKind kind : {CallKind::Durability, CallKind::Close}) {
    EXPECT_EQ(acts(kDefault, kind, {}, 1), "alternate report");
    EXPECT_EQ(acts(kDefault, kind, {}, 0), "replay+20 replay+20 report");
    EXPECT_EQ(acts("retry(2,5ms),report", kind, {}, 1), "replay+5 replay+5 report")
        << "an alternate that the ladder does not use";
    EXPECT_EQ(acts("alternate,retry(1,5ms),report", kind, {}, 1), "alternate replay+5 report");
    EXPECT_EQ(acts("wait(150ms),report", kind, {}, 1), "replay+100 replay+50 report");
  }
}

TEST(Recovery, WaitingBacksOffUpToASecondUntilTheTimeOut) {
  EXPECT_EQ(acts("wait(5s),report", CallKind::Ordinary, {}, 0),
            "run+100 run+200 run+400 run+800 run+1000 run+1000 run+1000 run+500 report");
  EXPECT_EQ(acts("wait(0ms),report", CallKind::Ordinary, {}, 0), "report");
  EXPECT_EQ(acts("wait(100ms),wait(250ms)", CallKind::Ordinary, {}, 0),
            "run+100 run+100 run+150 report")
      << "each rung has its own time";
  Millis total{0};
  Attempts attempts;
  Ladder l = ladder("wait(10m),report");
  for (;;) {
    NextStep s = next_step(l, CallKind::Ordinary, attempts, {});
    if (s.act == Act::Report) break;
    total += s.delay;
    attempts = s.attempts;
  }
  EXPECT_EQ(total, Millis(600'000));
}

TEST(Recovery, EachRetryRungCountsForItself) {
  EXPECT_EQ(acts("retry(1,1ms),retry(2,2ms),report", CallKind::Ordinary, {}, 0),
            "run+1 run+2 run+2 report");
}

TEST(Recovery, ALadderThatEndsAndAnEmptyOneReport) {
  EXPECT_EQ(acts("alternate", CallKind::Ordinary, {}, 0), "report");
  EXPECT_EQ(acts("retry(1,1ms)", CallKind::Ordinary, {}, 0), "run+1 report");
  EXPECT_EQ(next_step({}, CallKind::Ordinary, {}, {}).act, Act::Report);
}

// Every kind and every combination of what is there, at each rung of its own.
TEST(Recovery, HandsOverOnlyWithTheCallCompletedAndAStandby) {
  Ladder l = ladder("handover,report");
  for (CallKind kind : {CallKind::Ordinary, CallKind::Durability, CallKind::Close}) {
    for (int bits = 0; bits < 16; ++bits) {
      bool done = bits & 1, standby = bits & 2, failed = bits & 4, alternate = bits & 8;
      Attempts attempts;
      attempts.alternate_done = done;
      NextStep s = next_step(l, kind, attempts, {alternate, standby, failed});
      EXPECT_EQ(s.act, done && standby && !failed ? Act::Handover : Act::Report) << bits;
      EXPECT_EQ(s.attempts.alternate_done, done);
    }
  }
}

TEST(Recovery, EveryRungInEveryConditionGivesWhatItsMeaningSays) {
  struct Row {
    const char* rung;
    Act ordinary, durable;
  };
  for (auto [text, ordinary, durable] :
       {Row{"retry(1,1ms),report", Act::RunAgain, Act::ReplayRunAgain},
        Row{"wait(1s),report", Act::RunAgain, Act::ReplayRunAgain},
        Row{"report", Act::Report, Act::Report}}) {
    for (bool alternate : {false, true}) {
      for (bool standby : {false, true}) {
        Surroundings around{alternate, standby, false};
        EXPECT_EQ(next_step(ladder(text), CallKind::Ordinary, {}, around).act, ordinary) << text;
        EXPECT_EQ(next_step(ladder(text), CallKind::Durability, {}, around).act, durable) << text;
        EXPECT_EQ(next_step(ladder(text), CallKind::Close, {}, around).act, durable) << text;
      }
    }
  }
  for (CallKind kind : {CallKind::Ordinary, CallKind::Durability, CallKind::Close}) {
    EXPECT_EQ(next_step(ladder("alternate,report"), kind, {}, {true, false, false}).act,
              Act::Alternate);
    EXPECT_EQ(next_step(ladder("alternate,report"), kind, {}, {false, true, false}).act,
              Act::Report);
  }
}

TEST(Recovery, SaysWhetherAHandoverFollowsTheAlternate) {
  const Surroundings standby{false, true, false};
  EXPECT_TRUE(ladder_wants_handover(ladder(kDefault), standby));
  EXPECT_TRUE(ladder_wants_handover(ladder("alternate,wait(1s),handover"), standby));
  EXPECT_FALSE(ladder_wants_handover(ladder("alternate,report"), standby));
  EXPECT_FALSE(ladder_wants_handover(ladder("handover,report"), standby));
  EXPECT_FALSE(ladder_wants_handover(ladder("handover,alternate"), standby));
  EXPECT_FALSE(ladder_wants_handover(ladder(kDefault), {true, false, false}));
  EXPECT_FALSE(ladder_wants_handover(ladder(kDefault), {true, true, true}));
  EXPECT_FALSE(ladder_wants_handover({}, standby));
}

}  // namespace
}  // namespace supervise
