// One stream of events; the log on stderr, the events file (JSON lines) and later metrics and
// traces are readers of it. An event has a level, an incident id (0: none), a name of fixed
// vocabulary ("error.intercepted", "handover.step"), a sentence for people, and typed fields.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/options.h"

namespace supervise {

struct Field {
  std::string key;
  std::variant<std::int64_t, double, bool, std::string> value;
};

struct Event {
  LogLevel level = LogLevel::Info;
  std::uint64_t incident = 0;
  std::string name;
  std::string text;
  std::vector<Field> fields;
  std::chrono::system_clock::time_point at = std::chrono::system_clock::now();
};

class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void on_event(const Event&) = 0;
};

class Events {
 public:
  void add(std::unique_ptr<EventSink> sink) { sinks_.push_back(std::move(sink)); }
  void emit(Event event);
  void error(std::string name, std::string text, std::vector<Field> fields = {});
  void warn(std::string name, std::string text, std::vector<Field> fields = {});
  void info(std::string name, std::string text, std::vector<Field> fields = {});
  void debug(std::string name, std::string text, std::vector<Field> fields = {});
  // Incident under which the four above are filed until it is set to 0 again.
  void set_incident(std::uint64_t id) { incident_ = id; }
  std::uint64_t incident() const { return incident_; }

 private:
  std::vector<std::unique_ptr<EventSink>> sinks_;
  std::uint64_t incident_ = 0;
};

// A sink for stderr (text or JSON) and, when options name one, for the events file.
Status add_log_sinks(Events& events, const LogOptions& options);

}  // namespace supervise
