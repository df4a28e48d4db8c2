// The stub's end of the journal's ring, for tests of the supervisor's; and a journal as text.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/ring_journal.h"
#include "tracer/stub/ring_writer.h"

namespace supervise::test {

using namespace stub;

inline std::span<const std::byte> bytes(std::string_view s) { return std::as_bytes(std::span(s.data(), s.size())); }
inline bool all_alive(pid_t) { return true; }
inline bool none_alive(pid_t) { return false; }

struct NoWait {
  void futex_wait(uint32_t*, uint32_t) { ADD_FAILURE() << "somebody has the lock"; }
  void futex_wake(uint32_t*, int) {}
};

// Control block and ring, as all processes share them.
class Memory {
 public:
  Memory() {
    at_ = mmap(nullptr, kControlSize + kRingSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at_ == MAP_FAILED) abort();
  }
  ~Memory() { munmap(at_, kControlSize + kRingSize); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Control& control() const { return *static_cast<Control*>(at_); }
  char* ring() const { return static_cast<char*>(at_) + kControlSize; }

 private:
  void* at_;
};

// A thread with the stub.
struct Writer {
  explicit Writer(Memory& m, std::uint32_t tid = 5) : memory(m) { area.tid = tid; }
  Record* begin(unsigned file, std::uint64_t offset, std::uint64_t length, bool content = true, bool durable = false) {
    return reserve_write(&memory.control(), memory.ring(), &area, env, file, offset, length, content, durable, &half);
  }
  void end(Record* r, std::string_view text) {
    copy_bytes(content_of(r), text.data(), text.size());
    commit(&area, r);
  }
  bool write(unsigned file, std::uint64_t offset, std::string_view text, bool durable = false) {
    Record* r = begin(file, offset, text.size(), true, durable);
    if (r) end(r, text);
    return r != nullptr;
  }
  bool sync(unsigned file, bool data_only = false) {
    enter_sync(&memory.control(), &area);
    return append_sync(&memory.control(), memory.ring(), &area, env, file, area.entered, data_only, &half);
  }

  Memory& memory;
  Area area{};
  NoWait env;
  bool half = false;
};

// All that a replay would look at, and what a replay after more calls could.
inline std::string describe(const Journal& j) {
  std::vector<std::string> lines;
  std::map<FileId, std::string> label;
  for (const auto& [id, f] : j.files()) {
    auto names = f.names, old = f.old_names;
    std::ranges::sort(names);
    std::ranges::sort(old);
    label[id] = "ino " + std::to_string(f.key.ino);
    std::string line = label[id] + " kind " + std::to_string(static_cast<int>(f.kind)) + " names";
    for (const auto& n : names) line += " " + n;
    line += " old";
    for (const auto& n : old) line += " " + n;
    line += f.created ? " created" : "";
    line += f.complete ? " complete" : "";
    line += f.links_elsewhere ? " elsewhere" : "";
    line += f.mode_changed ? " mode " + std::to_string(f.mode) : "";
    line += f.uid ? " owner" : "";
    line += f.mtime ? " mtime" : "";
    line += " size " + (f.size ? std::to_string(*f.size) : "-") + (f.size_dirty ? " dirty" : "");
    std::uint64_t end = 0;
    char kind = ' ';
    for (const auto& [offset, p] : f.data.pieces()) {
      const char now = p.zero ? '0' : p.range_only() ? 'r' : 'b';
      if (offset != end || kind != now || end == 0) line += " " + std::to_string(offset) + now;
      line += p.zero || p.range_only() ? "+" : std::string(reinterpret_cast<const char*>(p.bytes.data()), p.bytes.size());
      end = offset + p.length;
      kind = now;
      if (p.zero || p.range_only()) line += std::to_string(end);
    }
    lines.push_back(line);
  }
  for (const auto& [name, state] : j.names())
    lines.push_back(name + " -> " + (state.file ? label[*state.file] : "absent"));
  std::ranges::sort(lines);
  std::string out = "bytes " + std::to_string(j.bytes()) + " dirty " + std::to_string(j.dirty_files()) + "\n";
  for (const auto& l : lines) out += l + "\n";
  return out;
}

inline StoragePath storage_path(const std::string& name) {
  StoragePath p;
  p.name = name;
  p.place = "/srv/" + name;
  p.dirs = {"/mnt/" + name};
  return p;
}

}  // namespace supervise::test
