// The supervisor's side of the stub: the memory that it shares with all processes of the application, and
// how an arena gets into one of them. Which calls may stay in process is the policy's affair: it fills the
// control block. layout.h describes what lies where; tracer/stub_tasks.cpp how tasks live with it.
#pragma once

#include <memory>
#include <string>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"
#include "tracer/inject.h"
#include "tracer/memory.h"
#include "tracer/stub/known.h"
#include "tracer/stub/layout.h"
#include "tracer/stub/space.h"
#include "tracer/task.h"

namespace supervise::stub {

class Stub {
 public:
  // The Error says what this host lacks.
  static Result<std::unique_ptr<Stub>> create();
  ~Stub();

  Control& control() { return *control_; }
  char* ring() { return ring_; }

  void on_exec(Task& task) const;
  void on_end(const Task& task);
  bool is_code(const Task& task, std::uint64_t rip) const;
  bool is_traced_entry(const Task& task, std::uint64_t ip) const;  // `ip`: behind the instruction
  // Descriptors first to last are about to be closed or replaced.
  void forget(const Task& task, std::uint64_t first, std::uint64_t last) const;
  void tell_hint(const Task& task) const;  // Task::hint, to the stub that waits for it
  Result<Area> area_of(const Task& task) const;
  // The thread is out of the stub: a record that it did not finish is void. True: one that tells of its call
  // was whole. What it has of a file's lock is free only after free_file(): until then nobody else moves the
  // offset that the supervisor looks at.
  bool take_out(const Task& task, const Area& area);
  void free_file(const Area& area);

  // With all threads of the address space stopped. `in`: one of them.
  Status install(Injector& in, Space& space);
  Status share(Injector& in, Space& space);          // control block and ring
  Status was_shared(pid_t pid, Space& space) const;  // they are there now
  int memory() const { return memory_.get(); }       // theirs
  Status unshare(Injector& in, const Space& space) const;  // zeros in their place
  // Maps what a slot needs, then writes slot and patch. False, with `why`: not patchable.
  Result<bool> patch(Injector& in, Space& space, std::uint64_t site, int nr, std::string& why);
  // After an image: the arena of this process, when it has one that we understand.
  Result<bool> find(pid_t pid, Space& space) const;
  Result<bool> has_copy(pid_t pid, const Space& space) const;  // of the control block, instead of ours
  Status renew_code(pid_t pid, const Space& space) const;

  // The same for several sites that are known (those that are not have no slot, or are no calls): the pages that
  // they need, to be mapped first, and then the patches. They end at the first BootMap whose size is 0.
  static void pages_for(const std::vector<Known>& sites, const Space& space, BootMap (&maps)[kBootMaps + 1]);
  Status patch_known(pid_t pid, Space& space, const std::vector<Known>& sites, const BootMap (&maps)[kBootMaps + 1]);
  // For a process that has a copy of the control block.
  Status copy_control(pid_t pid, const Space& space) const;
  Status copy_flags(pid_t pid, const Space& space) const;
  static CodeAround code_around(pid_t pid, std::uint64_t site);
  // May a new program have its arena before it runs?
  bool may_start() const;
  KnownCode& known() { return known_; }

  bool paused = false;          // patch nothing for now
  bool own_filters = false;     // some program has installed a seccomp filter of its own
  unsigned site_traps = 8;      // a site is patched at this many of its stops...
  unsigned space_traps = 64;    // ...once its address space had this many

  struct Figures {
    std::uint64_t spaces = 0, started = 0, patched = 0, unpatchable = 0, reports = 0, left = 0;
    std::string last_refusal;
  } figures;

 private:
  friend class Start;
  Stub() = default;
  static std::vector<Plan> plans_of(std::uint64_t site, int nr, const CodeAround& code);
  static Status write_code(MemoryWriter& out, std::uint64_t window);
  static Status put_page(MemoryWriter& out, Space& space, std::uint64_t page);
  Status put_patch(MemoryWriter& out, Space& space, std::uint64_t site, const Plan& plan, std::uint64_t slot);
  Status fill(MemoryWriter& out, const Space& space) const;
  Status check_process(pid_t pid);
  UniqueFd memory_;
  Control* control_ = nullptr;
  char* ring_ = nullptr;
  int own_filters_ = -1;
  KnownCode known_;
  bool starts_programs_ = false;
};

}  // namespace supervise::stub
