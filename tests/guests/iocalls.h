// What the parts of the guest `iocalls` share: a call and its result as a line, and what became of a file.
#pragma once

#include <fcntl.h>
#include <string>
#include <sys/stat.h>

#include "guest.h"

// Bad buffers and sizes are the point here.
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#pragma GCC diagnostic ignored "-Wstringop-overread"
#pragma GCC diagnostic ignored "-Wnonnull"

namespace iocalls {

using guest::line;

long show(const char* what, long r);

#define DO(call) (errno = 0, show(#call, (long)(call)))
// For results that are only known to be good or bad: descriptors, addresses.
#define OPEN(call) ({ errno = 0; int fd_ = (int)(call); int e_ = errno; show(#call, fd_ < 0 ? (errno = e_, -1L) : 0L); fd_; })

void contents(const char* name);
void status(const char* name, const struct stat& s);
void listing(const char* name);

inline char* const bad = (char*)8;
extern int kept, directory, held_offset;  // what is open from the begin
extern char* mapping;

void reads_and_writes();
void offsets_and_append();
void opens();
void durability();
void names();
void copies();
void mappings();
void locking();

}  // namespace iocalls
