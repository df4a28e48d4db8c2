// What the tests of the journal's ring share: memory as processes share it, and the ring with both of its sides.
#pragma once

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "tracer/stub/ring_reader.h"

// As the stub has it: the order of its stores is what is tested.
#pragma GCC push_options
#pragma GCC optimize("O2")
#include "tracer/stub/ring_writer.h"
#pragma GCC pop_options

namespace supervise::stub {

struct FutexEnv {
  void futex_wait(uint32_t* at, uint32_t value) {
    const timespec limit{0, 10'000'000};
    syscall(SYS_futex, at, FUTEX_WAIT, value, &limit, nullptr, 0);
  }
  void futex_wake(uint32_t* at, int count) { syscall(SYS_futex, at, FUTEX_WAKE, count, nullptr, nullptr, 0); }
};

template <class T>
class Shared {
 public:
  explicit Shared(std::size_t size = sizeof(T)) : size_(size) {
    at_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at_ == MAP_FAILED) abort();
  }
  ~Shared() { munmap(at_, size_); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* get() const { return static_cast<T*>(at_); }
  T* operator->() const { return get(); }
  T& operator*() const { return *get(); }

 private:
  std::size_t size_;
  void* at_;
};

inline bool all_alive(pid_t) { return true; }
inline bool none_alive(pid_t) { return false; }

class RingTest : public testing::Test {
 protected:
  RingTest() {
    area.tid = 7;
    other.tid = 8;
    control->files_used = kFiles;
    control->want_at = kRingSize / 2;
  }

  // A write of `text` at `offset`, committed unless told otherwise.
  Record* put(Area& a, std::uint32_t file, std::uint64_t offset, std::string_view text, bool whole = true) {
    Record* r = reserve_write(control.get(), ring.get(), &a, env, file, offset, text.size(), true, false, &half);
    if (!r) return nullptr;
    if (whole) {
      copy_bytes(content_of(r), text.data(), text.size());
      commit(&a, r);
    }
    return r;
  }

  // "file@offset:text" of what a look tells, '!' in front when torn, '<' when late.
  std::string look(bool (*alive)(pid_t) = all_alive, bool take = true) {
    RingReader::Look seen;
    status = reader.look(alive, seen);
    std::string out;
    for (const auto& r : seen.records) {
      out += out.empty() ? "" : " ";
      if (r.torn) out += "!";
      if (r.late) out += "<";
      if (r.head.kind == kSync) {
        out += "sync" + std::to_string(r.head.file) + "@" + std::to_string(r.head.size);
        continue;
      }
      out += std::to_string(r.head.file) + "@" + std::to_string(r.head.offset) + ":";
      out += r.torn || r.content.empty() ? std::to_string(r.head.bytes)
                                         : std::string(reinterpret_cast<const char*>(r.content.data()), r.content.size());
    }
    if (status && take) reader.take();
    return out;
  }

  Shared<Control> control;
  Shared<char> ring{kRingSize};
  FutexEnv env;
  Area area{}, other{};
  RingReader reader{*control, ring.get()};
  Status status;
  bool half = false;
};

}  // namespace supervise::stub
