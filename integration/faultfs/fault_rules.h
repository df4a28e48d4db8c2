// Which calls fail, wait or are slow. A rule names operations, an optional byte range, an optional
// path ending and what happens; the first rule that fires decides. Rules are added and removed
// while I/O is going on (thread-safe). A call that hangs sleeps until its rule is removed, then is
// judged again. Counts are kept per operation, so that a test can see that its fault was really
// met.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace supervise::faults {

inline constexpr std::uint64_t kEnd = std::numeric_limits<std::uint64_t>::max();

enum class Action { Fail, Hang, Delay };

struct FaultRule {
  std::uint64_t id = 0;
  Action action = Action::Fail;
  std::vector<std::string> ops;  // "all" stands for every operation
  std::uint64_t first = 0;       // bytes [first, last]; calls without a range match 0-END only
  std::uint64_t last = kEnd;
  std::string path_suffix;  // empty: any path
  int error = 0;            // errno of Action::Fail
  int delay_ms = 0;         // of Action::Delay
  std::uint64_t nth = 0;    // only the Nth matching call (1-based); 0: every one
  std::uint64_t after = 0;  // let this many matching calls pass first
  std::uint64_t times = 0;  // fire at most this often; 0: no bound
  std::uint64_t matched = 0;
  std::uint64_t fired = 0;
};

struct ByteRange {
  std::uint64_t offset;
  std::uint64_t length;
};

class FaultRules;

// What becomes of one call. While a permitted call's verdict lives, the call counts as running.
class [[nodiscard]] Verdict {
 public:
  explicit Verdict(int error) : error_(error) {}
  Verdict(FaultRules& rules, unsigned generation) : rules_(&rules), generation_(generation) {}
  Verdict(Verdict&& o) noexcept
      : error_(o.error_), rules_(std::exchange(o.rules_, nullptr)), generation_(o.generation_) {}
  Verdict& operator=(Verdict&&) = delete;
  ~Verdict();

  int error() const { return error_; }  // 0: go on; else the errno to return

 private:
  int error_ = 0;
  FaultRules* rules_ = nullptr;
  unsigned generation_ = 0;
};

class FaultRules {
 public:
  using PathOf = std::function<std::string()>;

  // Returns the rule's id after every call that was already running has ended (at most 5 s): what
  // add() has answered, no earlier write can undo.
  std::uint64_t add(FaultRule rule);
  bool remove(std::uint64_t id);
  void clear();
  void remove_action(Action action);

  // `path` is asked only when a rule needs it. Sleeps here while the call hangs or is delayed.
  Verdict check(std::string_view op, std::optional<ByteRange> range = {}, const PathOf& path = {});

  std::string rules_text() const;  // one rule a line
  std::string stats_json() const;  // one line

 private:
  friend class Verdict;
  struct Count {
    std::uint64_t calls = 0, failed = 0, hung = 0;
  };
  FaultRule* firing_rule(std::string_view op, const std::optional<ByteRange>& range,
                         const PathOf& path);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<FaultRule> rules_;
  std::map<std::string, Count, std::less<>> counts_;
  std::uint64_t next_id_ = 1;
  std::uint64_t hanging_now_ = 0;
  std::mutex drain_mutex_;  // one drain at a time; taken before mutex_
  unsigned generation_ = 0;
  std::uint64_t running_[2] = {0, 0};
};

// "EIO" or "5" -> 5; 0 when unknown. FUSE passes errno values below 512 only.
int parse_errno(std::string_view word);

// The words after "fail", "hang" or "delay":
//   fail OPS [FIRST-LAST] ERRNO [nth=N] [after=N] [times=N] [path=SUFFIX]
//   hang [OPS] [FIRST-LAST] [path=SUFFIX] ...      delay OPS MILLISECONDS ...
// On a wrong word returns nothing and says in `error` which.
std::optional<FaultRule> parse_rule(const std::vector<std::string>& words, std::string& error);

}  // namespace supervise::faults
