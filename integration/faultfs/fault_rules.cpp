#include "integration/faultfs/fault_rules.h"

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace supervise::faults {
namespace {

template <typename T>
bool parse_number(std::string_view text, T& out) {
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), out);
  return code == std::errc() && end == text.data() + text.size() && !text.empty();
}

bool parse_range(std::string_view text, FaultRule& rule) {
  auto dash = text.find('-');
  if (dash == std::string_view::npos || !parse_number(text.substr(0, dash), rule.first))
    return false;
  auto last = text.substr(dash + 1);
  if (last == "END") {
    rule.last = kEnd;
    return true;
  }
  return parse_number(last, rule.last) && rule.first <= rule.last;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    auto at = text.find(separator);
    if (auto part = text.substr(0, at); !part.empty()) parts.emplace_back(part);
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

bool op_matches(const FaultRule& rule, std::string_view op) {
  for (const auto& name : rule.ops)
    if (name == "all" || name == op) return true;
  return false;
}

bool range_matches(const FaultRule& rule, const std::optional<ByteRange>& range) {
  if (rule.first == 0 && rule.last == kEnd) return true;
  if (!range || range->length == 0) return false;
  return range->offset <= rule.last && range->offset + range->length - 1 >= rule.first;
}

const char* name_of(Action action) {
  switch (action) {
    case Action::Fail: return "fail";
    case Action::Hang: return "hang";
    case Action::Delay: return "delay";
  }
  return "?";
}

}  // namespace

Verdict::~Verdict() {
  if (!rules_) return;
  std::lock_guard lock(rules_->mutex_);
  if (--rules_->running_[generation_] == 0) rules_->changed_.notify_all();
}

std::uint64_t FaultRules::add(FaultRule rule) {
  std::lock_guard one_drain(drain_mutex_);
  std::unique_lock lock(mutex_);
  auto id = rule.id = next_id_++;
  rules_.push_back(std::move(rule));
  unsigned before = generation_;
  generation_ ^= 1;
  changed_.wait_for(lock, std::chrono::seconds(5), [&] { return running_[before] == 0; });
  return id;
}

bool FaultRules::remove(std::uint64_t id) {
  std::lock_guard lock(mutex_);
  auto gone = std::erase_if(rules_, [id](const FaultRule& r) { return r.id == id; });
  changed_.notify_all();
  return gone > 0;
}

void FaultRules::clear() {
  std::lock_guard lock(mutex_);
  rules_.clear();
  changed_.notify_all();
}

void FaultRules::remove_action(Action action) {
  std::lock_guard lock(mutex_);
  std::erase_if(rules_, [action](const FaultRule& r) { return r.action == action; });
  changed_.notify_all();
}

FaultRule* FaultRules::firing_rule(std::string_view op, const std::optional<ByteRange>& range,
                                   const PathOf& path) {
  std::optional<std::string> name;
  for (auto& rule : rules_) {
    if (!op_matches(rule, op) || !range_matches(rule, range)) continue;
    if (!rule.path_suffix.empty()) {
      if (!path) continue;
      if (!name) name = path();
      if (!name->ends_with(rule.path_suffix)) continue;
    }
    ++rule.matched;
    if (rule.nth != 0 && rule.matched != rule.nth) continue;
    if (rule.matched <= rule.after) continue;
    if (rule.times != 0 && rule.fired >= rule.times) continue;
    ++rule.fired;
    return &rule;
  }
  return nullptr;
}

Verdict FaultRules::check(std::string_view op, std::optional<ByteRange> range, const PathOf& path) {
  std::unique_lock lock(mutex_);
  auto found = counts_.find(op);
  if (found == counts_.end()) found = counts_.emplace(std::string(op), Count{}).first;
  Count& count = found->second;
  ++count.calls;
  while (FaultRule* rule = firing_rule(op, range, path)) {
    switch (rule->action) {
      case Action::Fail: ++count.failed; return Verdict(rule->error);
      case Action::Delay: {
        auto pause = std::chrono::milliseconds(rule->delay_ms);
        lock.unlock();
        std::this_thread::sleep_for(pause);
        lock.lock();
        ++running_[generation_];
        return Verdict(*this, generation_);
      }
      case Action::Hang: {
        ++count.hung;
        ++hanging_now_;
        auto id = rule->id;
        changed_.wait(lock, [&] {
          for (const auto& r : rules_)
            if (r.id == id) return false;
          return true;
        });
        --hanging_now_;
        break;
      }
    }
  }
  ++running_[generation_];
  return Verdict(*this, generation_);
}

std::string FaultRules::rules_text() const {
  std::lock_guard lock(mutex_);
  std::string text;
  for (const auto& r : rules_) {
    text += fmt::format("{} {} {} {}-{}", r.id, name_of(r.action), fmt::join(r.ops, ","), r.first,
                        r.last == kEnd ? std::string("END") : std::to_string(r.last));
    if (r.action == Action::Fail) text += fmt::format(" {}", strerrorname_np(r.error));
    if (r.action == Action::Delay) text += fmt::format(" {}ms", r.delay_ms);
    if (!r.path_suffix.empty()) text += " path=" + r.path_suffix;
    text += fmt::format(" matched={} fired={}\n", r.matched, r.fired);
  }
  return text;
}

std::string FaultRules::stats_json() const {
  std::lock_guard lock(mutex_);
  std::string ops;
  for (const auto& [name, c] : counts_)
    ops += fmt::format("{}\"{}\":{{\"calls\":{},\"failed\":{},\"hung\":{}}}",
                       ops.empty() ? "" : ",", name, c.calls, c.failed, c.hung);
  return fmt::format("{{\"rules\":{},\"hanging\":{},\"ops\":{{{}}}}}", rules_.size(), hanging_now_,
                     ops);
}

int parse_errno(std::string_view word) {
  int number = 0;
  if (parse_number(word, number)) return number > 0 && number < 512 ? number : 0;
  for (number = 1; number < 512; ++number)
    if (const char* name = strerrorname_np(number); name && word == name) return number;
  return 0;
}

std::optional<FaultRule> parse_rule(const std::vector<std::string>& words, std::string& error) {
  FaultRule rule;
  const auto& verb = words.at(0);
  rule.action = verb == "hang" ? Action::Hang : verb == "delay" ? Action::Delay : Action::Fail;
  std::size_t at = 1;
  auto is_option = [&](std::size_t i) { return words[i].find('=') != std::string::npos; };

  if (at < words.size() && !is_option(at))
    rule.ops = split(words[at++], ',');
  else if (rule.action == Action::Hang)
    rule.ops = {"all"};
  if (rule.ops.empty()) {
    error = fmt::format("{} needs operations, such as write,fsync or all", verb);
    return {};
  }
  if (at < words.size() && parse_range(words[at], rule)) ++at;
  if (rule.action == Action::Fail) {
    if (at >= words.size() || (rule.error = parse_errno(words[at])) == 0) {
      error = fmt::format("'{}' is neither a range FIRST-LAST nor an errno below 512",
                          at < words.size() ? words[at] : "");
      return {};
    }
    ++at;
  } else if (rule.action == Action::Delay) {
    if (at >= words.size() || !parse_number(words[at], rule.delay_ms) || rule.delay_ms < 0) {
      error = "delay needs milliseconds after the operations";
      return {};
    }
    ++at;
  }
  for (; at < words.size(); ++at) {
    const auto& word = words[at];
    auto equals = word.find('=');
    auto key = word.substr(0, equals);
    auto value = equals == std::string::npos ? std::string() : word.substr(equals + 1);
    bool good = false;
    if (key == "nth") good = parse_number(value, rule.nth) && rule.nth > 0;
    if (key == "after") good = parse_number(value, rule.after);
    if (key == "times") good = parse_number(value, rule.times) && rule.times > 0;
    if (key == "path") good = !(rule.path_suffix = value).empty();
    if (!good) {
      error = fmt::format("'{}': expected nth=N, after=N, times=N or path=SUFFIX", word);
      return {};
    }
  }
  return rule;
}

}  // namespace supervise::faults
