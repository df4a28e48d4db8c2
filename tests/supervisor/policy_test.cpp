#include "supervisor/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace supervise {
namespace {

using testing::HasSubstr;

std::string ladder(std::string_view text) {
  auto r = parse_ladder(text);
  return r.ok() ? to_string(*r) : "error: " + r.error().what;
}

TEST(Policy, ParsesAndPrintsLadders) {
  for (const char* text : {"retry(2,20ms),alternate,handover,report", "wait(10m),report", "report",
                           "alternate", "retry(1000000,1h)", "wait(0ms)", "wait(1500ms),handover"})
    EXPECT_EQ(ladder(text), text);
  EXPECT_EQ(ladder(" retry( 3 , 90s ) , report "), "retry(3,90s),report");
  EXPECT_EQ(ladder("wait(120s)"), "wait(2m)");
  EXPECT_EQ(ladder("wait(60m)"), "wait(1h)");
}

TEST(Policy, NamesTheWrongPartOfALadder) {
  struct Case {
    const char* text;
    const char* says;
  };
  for (auto [text, says] : {
           Case{"retry(2,20xs),report", "'20xs' at character 9: expected a duration"},
           Case{"retry(0,20ms)", "'0' at character 7: expected how often"},
           Case{"retry(9999999,20ms)", "'9999999' at character 7"},
           Case{"retry(2)", "'retry(2)' at character 1: expected retry(N,DELAY)"},
           Case{"alternate,jump", "'jump' at character 11: expected retry(N,DELAY), wait"},
           Case{"report,alternate", "'alternate' at character 8: expected nothing after report"},
           Case{"", "nothing at character 1"},
           Case{"alternate,,report", "nothing at character 11"},
           Case{"wait", "'wait' at character 1"},
           Case{"wait(10)", "'10' at character 6"},
           Case{"wait(1000h)", "at most 720h"},
           Case{"wait(99999999999999999999s)", "'99999999999999999999s' at character 6"},
           Case{"alternate)", "'alternate)' at character 1"},
           Case{"wait(1s", "'wait(1s' at character 1"},
       }) {
    auto r = parse_ladder(text);
    ASSERT_FALSE(r.ok()) << text;
    EXPECT_THAT(r.error().what, HasSubstr(says));
  }
}

TEST(Policy, ParsesRules) {
  auto r = parse_rule("data:fsync,fdatasync:EIO,ENOSPC=retry(1,1s),report");
  ASSERT_TRUE(r.ok()) << r.error().what;
  EXPECT_EQ(r->where, "data");
  EXPECT_THAT(r->calls, testing::ElementsAre("fdatasync", "fsync"));
  EXPECT_THAT(r->errnos, testing::ElementsAre(EIO, ENOSPC));
  EXPECT_EQ(to_string(r->ladder), "retry(1,1s),report");
  auto all = parse_rule("*:*:*=handover");
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->where, "*");
  EXPECT_TRUE(all->calls.empty());
  EXPECT_TRUE(all->errnos.empty());
}

TEST(Policy, NamesTheWrongPartOfARule) {
  struct Case {
    const char* text;
    const char* says;
  };
  for (auto [text, says] : {
           Case{"data:fsync:EIO", "expected WHERE:CALLS:ERRNOS=LADDER"},
           Case{"data:fsync=report", "'data:fsync' at character 1: expected WHERE:CALLS:ERRNOS"},
           Case{":fsync:EIO=report", "nothing at character 1: expected the name of a path"},
           Case{"a b:fsync:EIO=report", "'a b' at character 1"},
           Case{"data::EIO=report", "nothing at character 6: expected names of system calls"},
           Case{"data:fsync:EOI=report", "'EOI' at character 12: expected names of errors"},
           Case{"data:fsync:=report", "nothing at character 12"},
           Case{"data:fsync:EIO=reprot", "'reprot' at character 16"},
           Case{"data:fsync:EIO=", "nothing at character 16"},
       }) {
    auto r = parse_rule(text);
    ASSERT_FALSE(r.ok()) << text;
    EXPECT_THAT(r.error().what, HasSubstr(says));
  }
}

TEST(Policy, ParsesDurationsAndSizes) {
  EXPECT_EQ(parse_duration("20ms").value_or(Millis(-1)).count(), 20);
  EXPECT_EQ(parse_duration("10s").value_or(Millis(-1)).count(), 10'000);
  EXPECT_EQ(parse_duration("10m").value_or(Millis(-1)).count(), 600'000);
  EXPECT_EQ(parse_duration("1h").value_or(Millis(-1)).count(), 3'600'000);
  for (const char* bad : {"", "10", "s", "-1s", "+1s", "1.5s", "10 s", "1d", "1ss"})
    EXPECT_FALSE(parse_duration(bad).ok()) << bad;
  EXPECT_EQ(parse_size("4096").value_or(0), 4096u);
  EXPECT_EQ(parse_size("64K").value_or(0), 65536u);
  EXPECT_EQ(parse_size("16M").value_or(0), 16u << 20);
  EXPECT_EQ(parse_size("2G").value_or(0), 2ull << 30);
  EXPECT_EQ(parse_size("1T").value_or(0), 1ull << 40);
  for (const char* bad : {"", "K", "-1", "64k", "1.5M", "9999999999G", "16 M", "0x10"})
    EXPECT_FALSE(parse_size(bad).ok()) << bad;
}

TEST(Policy, HasTheDefaultLadders) {
  Policy p;
  for (int err : {EIO, ENXIO, ENODEV, EROFS, ESTALE, ENOTCONN, ESHUTDOWN, EHOSTDOWN, EHOSTUNREACH,
                  ETIMEDOUT, EREMOTEIO})
    EXPECT_EQ(to_string(p.ladder_for("data", "read", err)),
              "retry(2,20ms),alternate,handover,report");
  for (int err : {ENOSPC, EDQUOT})
    EXPECT_EQ(to_string(p.ladder_for("data", "write", err)), "wait(10m),report");
  for (int err : {ENOENT, EAGAIN, EINTR, EINVAL, EACCES, EEXIST, 0})
    EXPECT_TRUE(p.ladder_for("data", "open", err).empty());
  EXPECT_TRUE(p.ladder_for("", "read", EIO).empty()) << "outside declared paths";
}

TEST(Policy, TakesTheFirstRuleThatMatches) {
  std::vector<Rule> rules;
  for (const char* text : {"data:fsync:EIO=report", "data:*:EIO,ENOENT=alternate",
                           "*:write:*=wait(1s)", "*:*:ENOSPC=handover"}) {
    auto r = parse_rule(text);
    ASSERT_TRUE(r.ok());
    rules.push_back(r.take());
  }
  Policy p(rules);
  EXPECT_EQ(to_string(p.ladder_for("data", "fsync", EIO)), "report");
  EXPECT_EQ(to_string(p.ladder_for("data", "write", EIO)), "alternate");
  EXPECT_EQ(to_string(p.ladder_for("data", "openat", ENOENT)), "alternate");
  EXPECT_EQ(to_string(p.ladder_for("logs", "write", EIO)), "wait(1s)");
  EXPECT_EQ(to_string(p.ladder_for("logs", "write", ENOSPC)), "wait(1s)");
  EXPECT_EQ(to_string(p.ladder_for("logs", "read", ENOSPC)), "handover");
  EXPECT_EQ(to_string(p.ladder_for("logs", "read", EIO)),
            "retry(2,20ms),alternate,handover,report");
  EXPECT_TRUE(p.ladder_for("logs", "write", EAGAIN).empty())
      << "* does not cover what is no failure of the storage";
  EXPECT_TRUE(p.ladder_for("", "write", EIO).empty());
}

}  // namespace
}  // namespace supervise
