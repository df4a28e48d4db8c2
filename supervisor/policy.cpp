#include "supervisor/policy.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>

#include "supervisor/base/errno_class.h"

namespace supervise {
namespace {

constexpr std::string_view kRungs =
    "retry(N,DELAY), wait(TIMEOUT), alternate, handover or report";

// What is being parsed, and where a part of it stands.
struct Text {
  std::string_view all;
  Error wrong(std::string_view part, std::string_view expected) const {
    auto at = static_cast<std::size_t>(part.data() - all.data());
    std::string shown = part.empty() ? "nothing" : fmt::format("'{}'", part);
    return plain_error(
        fmt::format("'{}': {} at character {}: expected {}", all, shown, at + 1, expected));
  }
};

std::string_view trim(std::string_view s) {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

std::optional<std::uint64_t> number(std::string_view digits) {
  std::uint64_t n = 0;
  auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
  if (digits.empty() || ec != std::errc() || end != digits.data() + digits.size())
    return std::nullopt;
  return n;
}

std::string_view take_digits(std::string_view s) {
  return s.substr(0, std::min(s.find_first_not_of("0123456789"), s.size()));
}

// Number and unit; nothing when malformed or more than `most`.
template <class Units>
std::optional<std::uint64_t> with_unit(std::string_view text, const Units& units,
                                       std::uint64_t most) {
  std::string_view digits = take_digits(text);
  auto n = number(digits);
  if (!n) return std::nullopt;
  for (const auto& [name, factor] : units)
    if (text.substr(digits.size()) == name && *n <= most / factor) return *n * factor;
  return std::nullopt;
}

struct Unit {
  std::string_view name;
  std::uint64_t factor;
};
constexpr Unit kDurations[] = {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};
constexpr Unit kSizes[] = {{"", 1}, {"K", 1ull << 10}, {"M", 1ull << 20}, {"G", 1ull << 30},
                           {"T", 1ull << 40}};
constexpr std::string_view kDurationForm = "a duration such as 20ms, 10s, 10m or 1h";
constexpr std::uint64_t kLongest = 30ull * 24 * 3'600'000;

Result<Millis> duration(const Text& in, std::string_view text) {
  auto n = with_unit(text, kDurations, kLongest);
  if (!n) return in.wrong(text, fmt::format("{}, at most 720h", kDurationForm));
  return Millis(static_cast<Millis::rep>(*n));
}

// The arguments between the parentheses, or nothing when it is not name(...).
std::optional<std::string_view> arguments(std::string_view text, std::string_view name) {
  if (!text.starts_with(name) || !text.ends_with(")")) return std::nullopt;
  text.remove_prefix(name.size());
  if (!text.starts_with("(")) return std::nullopt;
  return text.substr(1, text.size() - 2);
}

Result<Rung> parse_rung(const Text& in, std::string_view text) {
  if (text == "alternate") return Rung{RungKind::Alternate, 0, {}};
  if (text == "handover") return Rung{RungKind::Handover, 0, {}};
  if (text == "report") return Rung{RungKind::Report, 0, {}};
  if (auto args = arguments(text, "wait")) {
    ASSIGN_OR_RETURN(Millis timeout, duration(in, trim(*args)));
    return Rung{RungKind::Wait, 0, timeout};
  }
  if (auto args = arguments(text, "retry")) {
    auto comma = args->find(',');
    auto count_text = trim(args->substr(0, comma));
    auto count = number(count_text);
    if (!count || *count < 1 || *count > 1'000'000)
      return in.wrong(count_text, "how often to retry, 1 to 1000000");
    if (comma == std::string_view::npos) return in.wrong(text, "retry(N,DELAY)");
    ASSIGN_OR_RETURN(Millis delay, duration(in, trim(args->substr(comma + 1))));
    return Rung{RungKind::Retry, static_cast<int>(*count), delay};
  }
  return in.wrong(text, kRungs);
}

// At commas outside parentheses.
std::vector<std::string_view> split_rungs(std::string_view text) {
  std::vector<std::string_view> parts;
  std::size_t begin = 0;
  int depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '(') ++depth;
    if (text[i] == ')') --depth;
    if (text[i] != ',' || depth > 0) continue;
    parts.push_back(trim(text.substr(begin, i - begin)));
    begin = i + 1;
  }
  parts.push_back(trim(text.substr(begin)));
  return parts;
}

Result<Ladder> parse_ladder(const Text& in, std::string_view text) {
  Ladder ladder;
  for (std::string_view part : split_rungs(text)) {
    if (!ladder.empty() && ladder.back().kind == RungKind::Report)
      return in.wrong(part, "nothing after report, which ends the ladder");
    ASSIGN_OR_RETURN(Rung rung, parse_rung(in, part));
    ladder.push_back(rung);
  }
  return ladder;
}

bool is_word(std::string_view s) {
  return !s.empty() && s.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                           "0123456789_-.") == std::string_view::npos;
}

std::string duration_text(Millis d) {
  auto n = d.count();
  if (n == 0 || n % 1000 != 0) return fmt::format("{}ms", n);
  if (n % 3'600'000 == 0) return fmt::format("{}h", n / 3'600'000);
  if (n % 60'000 == 0) return fmt::format("{}m", n / 60'000);
  return fmt::format("{}s", n / 1000);
}

}  // namespace

Result<Ladder> parse_ladder(std::string_view text) { return parse_ladder(Text{text}, text); }

Result<Rule> parse_rule(std::string_view text) {
  Text in{text};
  auto equals = text.find('=');
  if (equals == std::string_view::npos)
    return in.wrong(text, "WHERE:CALLS:ERRNOS=LADDER");
  std::string_view head = text.substr(0, equals);
  auto first = head.find(':');
  auto second = first == std::string_view::npos ? first : head.find(':', first + 1);
  if (second == std::string_view::npos)
    return in.wrong(head, "WHERE:CALLS:ERRNOS before the '='");
  Rule rule;
  std::string_view where = trim(head.substr(0, first));
  if (where != "*" && !is_word(where)) return in.wrong(where, "the name of a path, or *");
  rule.where = where;
  std::string_view calls = trim(head.substr(first + 1, second - first - 1));
  for (std::string_view call : split_rungs(calls)) {
    if (calls == "*") break;
    if (!is_word(call)) return in.wrong(call, "names of system calls, or *");
    rule.calls.emplace(call);
  }
  std::string_view errnos = trim(head.substr(second + 1));
  for (std::string_view name : split_rungs(errnos)) {
    if (errnos == "*") break;
    auto err = errno_from_name(name);
    if (!err) return in.wrong(name, "names of errors such as EIO, or *");
    rule.errnos.insert(*err);
  }
  ASSIGN_OR_RETURN(rule.ladder, parse_ladder(in, text.substr(equals + 1)));
  return rule;
}

Result<Millis> parse_duration(std::string_view text) { return duration(Text{text}, text); }

Result<std::uint64_t> parse_size(std::string_view text) {
  auto n = with_unit(text, kSizes, static_cast<std::uint64_t>(
                                       std::numeric_limits<std::int64_t>::max()));
  if (!n) return Text{text}.wrong(text, "a size such as 4096, 64K, 16M or 2G");
  return *n;
}

std::string to_string(const Rung& rung) {
  switch (rung.kind) {
    case RungKind::Retry: return fmt::format("retry({},{})", rung.count, duration_text(rung.delay));
    case RungKind::Wait: return fmt::format("wait({})", duration_text(rung.delay));
    case RungKind::Alternate: return "alternate";
    case RungKind::Handover: return "handover";
    case RungKind::Report: return "report";
  }
  return "report";
}

std::string to_string(const Ladder& ladder) {
  std::string out;
  for (const Rung& rung : ladder) out += (out.empty() ? "" : ",") + to_string(rung);
  return out;
}

bool Policy::names_errno(std::string_view path, int err) const {
  if (errno_class(err) != ErrnoClass::None) return true;
  return std::any_of(rules_.begin(), rules_.end(), [&](const Rule& rule) {
    return (rule.where == "*" || rule.where == path) && rule.errnos.contains(err);
  });
}

Ladder Policy::ladder_for(std::string_view path, std::string_view call, int err) const {
  if (path.empty() || err == 0) return {};
  ErrnoClass family = errno_class(err);
  for (const Rule& rule : rules_) {
    if (rule.where != "*" && rule.where != path) continue;
    if (!rule.calls.empty() && !rule.calls.contains(std::string(call))) continue;
    bool covers = rule.errnos.empty() ? family != ErrnoClass::None : rule.errnos.contains(err);
    if (covers) return rule.ladder;
  }
  switch (family) {
    case ErrnoClass::Path:
      return {{RungKind::Retry, 2, Millis(20)}, {RungKind::Alternate, 0, {}},
              {RungKind::Handover, 0, {}}, {RungKind::Report, 0, {}}};
    case ErrnoClass::Space:
      return {{RungKind::Wait, 0, Millis(600'000)}, {RungKind::Report, 0, {}}};
    case ErrnoClass::None: break;
  }
  return {};
}

}  // namespace supervise
