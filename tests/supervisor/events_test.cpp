#include "supervisor/events.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "supervisor/base/clock.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/events_format.h"

namespace supervise {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using Json = nlohmann::json;

Event sample() {
  Event event;
  event.level = LogLevel::Info;
  event.incident = 3;
  event.name = "error.intercepted";
  event.text = "write failed";
  event.fields = {{"errno", std::string("EIO")}, {"bytes", std::int64_t{42}}, {"ms", 1.5},
                  {"done", true}, {"file", std::string("/srv/a b")}, {"empty", std::string()}};
  event.at = std::chrono::system_clock::time_point(std::chrono::milliseconds(1700000000123));
  return event;
}

TEST(EventFormat, TextIsOneLineForPeople) {
  EXPECT_THAT(event_as_text(sample()),
              MatchesRegex("supervise: [0-9:]{8}\\.123 \\[i3\\] error\\.intercepted: write failed errno=EIO "
                           "bytes=42 ms=1\\.5 done=yes file=\"/srv/a b\" empty=\"\""));
  auto event = sample();
  event.incident = 0;
  event.level = LogLevel::Error;
  event.text = "two\nlines\x1b[31m\t";
  event.fields = {{"x", std::string("say \"hi\"\n")}};
  const auto line = event_as_text(event);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
  EXPECT_THAT(line, HasSubstr(" ERROR error.intercepted: two\\nlines\\x1b[31m\\t x=\"say \\\"hi\\\"\\n\""));
  EXPECT_EQ(line.find("[i"), std::string::npos);
}

TEST(EventFormat, JsonIsOneObject) {
  const auto json = Json::parse(event_as_json(sample()));
  EXPECT_EQ(json["time"], "2023-11-14T22:13:20.123Z");
  EXPECT_EQ(json["level"], "info");
  EXPECT_EQ(json["incident"], 3);
  EXPECT_EQ(json["event"], "error.intercepted");
  EXPECT_EQ(json["fields"]["bytes"], 42);
  EXPECT_EQ(json["fields"]["done"], true);
  EXPECT_EQ(json["fields"]["file"], "/srv/a b");
  auto event = sample();
  event.text = "broken \xff\xfe utf-8\n";
  const auto line = event_as_json(event);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_TRUE(Json::parse(line, nullptr, false).is_object());
}

class Collector : public EventSink {
 public:
  explicit Collector(std::vector<Event>& out) : out_(out) {}
  void on_event(const Event& event) override { out_.push_back(event); }

 private:
  std::vector<Event>& out_;
};

TEST(Events, IncidentIsFiledUntilItIsOver) {
  std::vector<Event> seen, also;
  Events events;
  events.add(std::make_unique<Collector>(seen));
  events.add(std::make_unique<Collector>(also));
  events.info("a", "first");
  events.set_incident(7);
  events.error("b", "second", {{"k", true}});
  events.set_incident(0);
  events.debug("c", "third");
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(also.size(), 3u);
  EXPECT_EQ(seen[0].incident, 0u);
  EXPECT_EQ(seen[1].incident, 7u);
  EXPECT_EQ(seen[1].level, LogLevel::Error);
  EXPECT_EQ(seen[1].fields.size(), 1u);
  EXPECT_EQ(seen[2].incident, 0u);
}

// Standard error replaced by another descriptor for a while.
class Stderr {
 public:
  explicit Stderr(int fd) : saved_(::fcntl(2, F_DUPFD_CLOEXEC, 10)) { ::dup2(fd, 2); }
  ~Stderr() { ::dup2(saved_.get(), 2); }

 private:
  UniqueFd saved_;
};

std::string drain(int fd) {
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  std::string text;
  char buffer[65536];
  for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<std::size_t>(n));
  return text;
}

TEST(LogSinks, StderrHasTheLevelsThatWereAskedFor) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  {
    const Stderr replaced(in.get());
    Events events;
    LogOptions options;
    options.level = LogLevel::Warn;
    ASSERT_TRUE(add_log_sinks(events, options).ok());
    events.info("quiet", "not shown");
    events.warn("loud", "shown");
  }
  const auto text = drain(out.get());
  EXPECT_THAT(text, HasSubstr("warning loud: shown\n"));
  EXPECT_EQ(text.find("quiet"), std::string::npos);
}

TEST(LogSinks, AReaderThatIsGoneOrStuckHarmsNobody) {
  struct sigaction action {}, before {};
  action.sa_handler = SIG_DFL;
  ASSERT_EQ(::sigaction(SIGPIPE, &action, &before), 0);
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd out(ends[0]);
  const UniqueFd in(ends[1]);
  Events events;
  ASSERT_TRUE(add_log_sinks(events, {}).ok());
  double stuck_ms = 0;
  {
    const Stderr replaced(in.get());
    const std::string block(4096, 'x');
    ::fcntl(in.get(), F_SETFL, O_NONBLOCK);
    while (::write(in.get(), block.data(), block.size()) > 0) {
    }
    ::fcntl(in.get(), F_SETFL, 0);
    const auto start = Clock::now();
    events.info("stuck", "nobody reads");
    stuck_ms = ms_between(start, Clock::now());
    drain(out.get());
    events.info("later", "somebody reads again");
  }
  EXPECT_LT(stuck_ms, 2000);
  EXPECT_THAT(drain(out.get()), HasSubstr("1 events were lost"));
  out.reset();
  {
    const Stderr replaced(in.get());
    events.info("gone", "nobody is there");  // SIGPIPE would end this test
  }
  sigset_t pending;
  ::sigpending(&pending);
  EXPECT_EQ(::sigismember(&pending, SIGPIPE), 0);
  ::sigaction(SIGPIPE, &before, nullptr);
}

TEST(LogSinks, EventsFileIsAppendedToAndItsFailureIsTold) {
  std::string path = "/tmp/supervise-events-XXXXXX";
  const UniqueFd made(::mkstemp(path.data()));
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd out(ends[0]), in(ends[1]);
  LogOptions options;
  options.events_file = path;
  options.level = LogLevel::Error;
  {
    const Stderr replaced(in.get());
    for (int i = 0; i < 2; ++i) {
      Events events;
      ASSERT_TRUE(add_log_sinks(events, options).ok());
      events.info("step", "one of two", {{"i", std::int64_t{i}}});
    }
    Events full;
    options.events_file = "/dev/full";
    ASSERT_TRUE(add_log_sinks(full, options).ok());
    full.info("lost", "first");
    full.info("lost", "second");
  }
  std::ifstream file(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1]["fields"]["i"], 1);
  const auto told = drain(out.get());
  EXPECT_THAT(told, HasSubstr("/dev/full"));
  EXPECT_EQ(told.find("/dev/full"), told.rfind("/dev/full")) << "told more than once: " << told;
  ::unlink(path.c_str());

  Events events;
  options.events_file = "/none/events";
  const auto status = add_log_sinks(events, options);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message(), HasSubstr("--events: open /none/events"));
}

}  // namespace
}  // namespace supervise
