// Where a stopped thread is, as function names: for people who read an image's manifest. Unwinds
// with libdw from the program's own files; no debug information is fetched. Empty where the program
// was built without libdw, or the stack can't be read.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace supervise {

// `tid` of `pid` is in a ptrace stop of ours. Innermost first, at most `most` frames:
// "connect+0x17 (libc.so.6)".
std::vector<std::string> stack_of(pid_t pid, pid_t tid, std::size_t most = 24);

}  // namespace supervise
