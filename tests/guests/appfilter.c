// An application with a seccomp filter of its own: ERRNO, TRAP, ALLOW, and KILL_PROCESS in a child.
// appfilter FILE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static volatile int trapped, trapped_call;

static void on_sys(int signal, siginfo_t* info, void* context) {
  (void)signal;
  ++trapped;
  trapped_call = info->si_syscall;
  ((ucontext_t*)context)->uc_mcontext.gregs[REG_RAX] = -EXDEV;
}

static int install(struct sock_filter* code, unsigned short length) {
  struct sock_fprog program = {length, code};
  return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

#define ON(number, action)                                  \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1),      \
      BPF_STMT(BPF_RET | BPF_K, (action))

static void show(const char* what, long r) {
  if (r == -1) printf("%-28s -1 %s\n", what, strerrorname_np(errno));
  else printf("%-28s %ld\n", what, r);
  fflush(stdout);
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  alarm(20);
  setvbuf(stdout, NULL, _IONBF, 0);
  int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
  show("write before", write(fd, "before\n", 7));
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_sigaction = on_sys;
  a.sa_flags = SA_SIGINFO;
  sigaction(SIGSYS, &a, NULL);
  show("no_new_privs", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      ON(SYS_mkdir, SECCOMP_RET_ERRNO | EMLINK),
      ON(SYS_fdatasync, SECCOMP_RET_ERRNO | ENOTBLK),
      ON(SYS_ftruncate, SECCOMP_RET_TRAP),
      ON(SYS_link, SECCOMP_RET_TRAP),
      ON(SYS_rename, SECCOMP_RET_ERRNO | 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  show("seccomp", install(code, sizeof code / sizeof *code));
  show("mkdir (ERRNO)", syscall(SYS_mkdir, "/tmp/never", 0700));
  show("fdatasync (ERRNO)", fdatasync(fd));
  show("rename (ERRNO 0)", syscall(SYS_rename, "/none", "/nowhere"));
  show("ftruncate (TRAP)", ftruncate(fd, 0));
  show("the trapped call", trapped_call == SYS_ftruncate);
  show("link (TRAP)", syscall(SYS_link, argv[1], "/tmp/never"));
  show("traps", trapped);
  show("write (ALLOW)", write(fd, "after\n", 6));
  show("fsync (ALLOW)", fsync(fd));
  struct stat s;
  show("fstat", fstat(fd, &s));
  show("size", s.st_size);
  pid_t child = fork();
  if (child == 0) {
    struct sock_filter kill[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ON(SYS_fsync, SECCOMP_RET_KILL_PROCESS),
        ON(SYS_unlink, SECCOMP_RET_TRACE | 5),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    show("child: seccomp", install(kill, sizeof kill / sizeof *kill));
    show("child: unlink (TRACE, no tracer)", syscall(SYS_unlink, "/tmp/guest-appfilter-none"));
    show("child: write", write(fd, "child\n", 6));
    fsync(fd);
    show("child: lives on", 1);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  show("child ended by", WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status));
  child = fork();
  if (child == 0) {
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    const char text[] = "strict mode writes\n";
    (void)!write(1, text, sizeof text - 1);
    syscall(SYS_exit, 9);
  }
  waitpid(child, &status, 0);
  show("strict child's status", status);
  show("close", close(fd));
  return 0;
}
