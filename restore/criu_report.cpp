#include "restore/criu_report.h"

#include <algorithm>
#include <cstring>
#include <sstream>
#include <vector>

#include "restore/protobuf_walk.h"

namespace supervise {
namespace {

constexpr std::uint32_t kServiceMagic = 0x55105940;  // CRIU's criu/include/magic.h
constexpr std::uint32_t kStatsMagic = 0x57093306;
constexpr std::size_t kMaxLines = 4;

// "(00.012345)      7: Error (criu/x.c:12): text" -> "Error (criu/x.c:12): text"
std::string without_stamp(const std::string& line) {
  auto at = line.find("Error (");
  return at == std::string::npos ? line : line.substr(at);
}

bool is_noise(const std::string& line) {
  return line.find("RLIMIT_NOFILE") != std::string::npos;
}

bool is_summary(const std::string& line) {
  return line.ends_with("FAILED.") || line.find("Restoring FAILED") != std::string::npos;
}

std::uint32_t word_at(const std::string& bytes, std::size_t at) {
  std::uint32_t w = 0;
  memcpy(&w, bytes.data() + at, sizeof w);
  return w;
}

}  // namespace

std::string criu_telling_lines(const std::string& log) {
  std::vector<std::string> errors, summaries;
  std::string last;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    last = line;
    if (line.find("Error (") == std::string::npos || is_noise(line)) continue;
    auto& list = is_summary(line) ? summaries : errors;
    std::string text = without_stamp(line);
    if (std::find(list.begin(), list.end(), text) == list.end()) list.push_back(text);
  }
  if (errors.empty()) errors = summaries;
  if (errors.empty()) return last.empty() ? "" : "no error in its log, the last line is: " + last;
  std::string out;
  for (std::size_t i = 0; i < std::min(errors.size(), kMaxLines); ++i) {
    out += (i ? " | " : "") + errors[i];
  }
  // What an operator can do about it.
  if (out.find("Can't get rlimit") != std::string::npos)
    out += " (a process runs as another user: its limits can be read with CAP_SYS_RESOURCE, or by the CRIU that "
           "scripts/setup.sh builds)";
  return out;
}

std::optional<Criu::DumpFigures> criu_dump_figures(const std::string& stats) {
  constexpr std::size_t kHead = 12;
  if (stats.size() < kHead || word_at(stats, 0) != kServiceMagic || word_at(stats, 4) != kStatsMagic) {
    return std::nullopt;
  }
  std::uint32_t size = word_at(stats, 8);
  if (size > stats.size() - kHead) return std::nullopt;
  auto entry = proto_fields(std::string_view(stats).substr(kHead, size));
  const ProtoField* dump = entry ? proto_find(*entry, 1) : nullptr;
  auto fields = dump ? proto_fields(dump->bytes) : std::nullopt;
  if (!fields) return std::nullopt;
  auto value = [&](std::uint32_t number) {
    const ProtoField* f = proto_find(*fields, number);
    return f ? f->value : 0;
  };
  auto ms = [&](std::uint32_t number) { return static_cast<double>(value(number)) / 1e3; };
  return Criu::DumpFigures{ms(1), ms(2), ms(3), ms(4), value(7)};
}

}  // namespace supervise
