#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "seccomp/filter.h"

namespace supervise {
namespace {

// SPEC_ALLOW: before Linux 5.16 a filter switched speculation off and slowed the application down.
int load(const sock_fprog* program) {
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, program) == 0)
    return 0;
  if (errno != EINVAL) return errno;
  return ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program) == 0 ? 0 : errno;
}

}  // namespace

int filter_install(const sock_fprog* program) {
  int err = load(program);
  if (err != EACCES) return err;
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  return load(program);
}

}  // namespace supervise
