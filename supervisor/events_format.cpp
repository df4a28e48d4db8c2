#include "supervisor/events_format.h"

#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

namespace supervise {
namespace {

using Json = nlohmann::ordered_json;

std::string one_line(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::string quoted_if_needed(const std::string& value) {
  const std::string plain = one_line(value);
  if (!plain.empty() && plain.find_first_of(" \"'=\\") == std::string::npos) return plain;
  std::string out = "\"";
  for (const char c : plain) {
    if (c == '"') out += '\\';
    out += c;
  }
  return out + '"';
}

struct FieldText {
  std::string operator()(std::int64_t v) const { return fmt::format("{}", v); }
  std::string operator()(double v) const { return fmt::format("{:.6g}", v); }
  std::string operator()(bool v) const { return v ? "yes" : "no"; }
  std::string operator()(const std::string& v) const { return quoted_if_needed(v); }
};

struct Moment {
  std::tm broken_down{};
  int millis = 0;
};

Moment moment(std::chrono::system_clock::time_point at, bool utc) {
  const auto ms = std::chrono::floor<std::chrono::milliseconds>(at);
  const auto s = std::chrono::floor<std::chrono::seconds>(ms);
  const std::time_t t = std::chrono::system_clock::to_time_t(s);
  Moment m;
  utc ? ::gmtime_r(&t, &m.broken_down) : ::localtime_r(&t, &m.broken_down);
  m.millis = static_cast<int>((ms - s).count());
  return m;
}

}  // namespace

std::string_view to_string(LogLevel level) {
  switch (level) {
    case LogLevel::Error: return "error";
    case LogLevel::Warn: return "warn";
    case LogLevel::Info: return "info";
    case LogLevel::Debug: return "debug";
  }
  return "?";
}

std::string event_as_text(const Event& event) {
  const auto m = moment(event.at, false);
  std::string line = fmt::format("supervise: {:02}:{:02}:{:02}.{:03} ", m.broken_down.tm_hour,
                                 m.broken_down.tm_min, m.broken_down.tm_sec, m.millis);
  if (event.incident != 0) line += fmt::format("[i{}] ", event.incident);
  if (event.level == LogLevel::Error) line += "ERROR ";
  if (event.level == LogLevel::Warn) line += "warning ";
  line += fmt::format("{}: {}", event.name, one_line(event.text));
  for (const auto& field : event.fields)
    line += fmt::format(" {}={}", field.key, std::visit(FieldText{}, field.value));
  return line;
}

std::string event_as_json(const Event& event) {
  const auto m = moment(event.at, true);
  Json object;
  object["time"] = fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                               m.broken_down.tm_year + 1900, m.broken_down.tm_mon + 1,
                               m.broken_down.tm_mday, m.broken_down.tm_hour, m.broken_down.tm_min,
                               m.broken_down.tm_sec, m.millis);
  object["level"] = to_string(event.level);
  object["incident"] = event.incident;
  object["event"] = event.name;
  object["text"] = event.text;
  Json fields = Json::object();
  for (const auto& field : event.fields)
    std::visit([&](const auto& v) { fields[field.key] = v; }, field.value);
  object["fields"] = std::move(fields);
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace supervise
