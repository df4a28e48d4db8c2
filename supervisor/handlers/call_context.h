// What is known of one call between its entry and its exit, when it concerns a storage path.
// begin_call is asked at the entry stop, learn_success at the exit stop of a call that succeeded:
// it tells the journal what changed. Neither decides anything: recovery does.
#pragma once

#include <optional>
#include <string>

#include "supervisor/storage_path.h"
#include "tracer/task.h"

namespace supervise {

struct CallContext {
  StoragePath* path = nullptr;   // nothing: only a failure would have to be looked at
  bool by_name = false;          // the failure, if any, belongs to what the path argument names
  int fd = -1;                   // descriptor on the storage path
  FdInfo at_entry;
  FileFacts facts;               // of fd at entry
  Target target, second;         // names (rename, link: from and to)
  Seq entered = 0;               // the journal's sequence at entry
  bool implicit_offset = false;  // write or writev without an offset, or O_APPEND
};

// Looks at the arguments. `path` stays empty when the call concerns no storage path for sure
// (descriptor elsewhere); calls by name get their context lazily when they don't change anything.
CallContext begin_call(const StoragePaths& paths, const Task& task);

// The `which`th path argument (0 or 1), resolved for that thread.
Target resolve_arg(const StoragePaths& paths, const Task& task, const Args& args, int which);

// False: the call concerns no storage path and needs no exit stop.
bool needs_exit_stop(const StoragePaths& paths, const Task& task, const CallContext& ctx);

// For a failed call by name whose target was not resolved at entry.
void resolve_late(const StoragePaths& paths, const Task& task, CallContext& ctx);

// `result`: the call's own; for a transfer completed in pieces the whole. `args`: as the
// application passed them.
void learn_success(StoragePaths& paths, const Task& task, const Args& args, CallContext& ctx,
                   long result);

// A transfer to or from a regular file that ended short although it need not have: how the rest is
// asked for. False when it is complete (or at the end of the file, for reads). `done`: bytes of
// the pieces so far, this one included.
bool wants_more(const Task& task, const Args& original, const CallContext& ctx, long result,
                std::uint64_t done);

// An errno that the call gives on a healthy path too (ENXIO for SEEK_DATA at the end...).
bool is_applications_own(const Task& task, const CallContext& ctx, int err);

}  // namespace supervise
