#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "supervisor/warm/portability.h"

namespace supervise {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;

auto fact(const char* what, const char* severity, const char* text) {
  return AllOf(Field(&PortabilityFact::what, what), Field(&PortabilityFact::severity, severity),
               Field(&PortabilityFact::text, HasSubstr(text)));
}

TEST(Portability, TellsWhatWasTaken) {
  PortabilityLog log;
  EXPECT_THAT(log.report({}, {}), IsEmpty());
  log.saw_random(16);
  log.saw_random(32);
  log.saw_open("/etc/machine-id", O_RDONLY);
  log.saw_open("/dev/urandom", O_RDONLY);
  log.saw_open("/run/app.pid", O_WRONLY | O_CREAT);
  log.saw_open("/run/other.pid", O_RDONLY);
  log.saw_open("/usr/lib/x.so", O_RDONLY);
  log.saw_uname();
  log.saw_interfaces();
  const auto facts = log.report({}, {});
  EXPECT_THAT(facts, Contains(fact("randomness", "warning", "48 bytes")));
  EXPECT_THAT(facts, Contains(fact("randomness", "warning", "/dev/urandom")));
  EXPECT_THAT(facts, Contains(fact("machine-id", "warning", "/etc/machine-id")));
  EXPECT_THAT(facts, Contains(fact("pid-file", "advice", "/run/app.pid")));
  EXPECT_THAT(facts, Contains(fact("host-name", "info", "uname")));
  EXPECT_THAT(facts, Contains(fact("addresses", "advice", "interfaces")));
  EXPECT_EQ(facts.size(), 6u);
}

TEST(Portability, ListsOpenAndMappedFiles) {
  char name[] = "/tmp/portability.XXXXXX";
  const int fd = mkstemp(name);
  ASSERT_GE(fd, 0);
  PortabilityLog log;
  EXPECT_THAT(log.report({getpid()}, {}), Contains(fact("file", "advice", name)));
  EXPECT_THAT(log.report({getpid()}, {"/tmp"}), testing::Not(Contains(fact("file", "advice", name))));
  char self[4096] = {};
  ASSERT_GT(readlink("/proc/self/exe", self, sizeof self - 1), 0);
  EXPECT_THAT(log.report({getpid()}, {}), Contains(fact("mapped-file", "info", self)));
  EXPECT_EQ(build_id_of(self).size(), 40u);
  EXPECT_EQ(build_id_of(name), "");
  close(fd);
  unlink(name);
}

}  // namespace
}  // namespace supervise
