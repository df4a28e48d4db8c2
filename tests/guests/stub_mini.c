// A small stress in C for other C libraries and static programs: files, pipes, threads, signals, cancellation,
// fork and exec. Prints "ok PART" for each part.
//
//   stub_mini DIR
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *dir, *self;
static int failures;
static const char* part;

static void must(const char* what, long got, long want) {
  if (got == want) return;
  if (__atomic_add_fetch(&failures, 1, __ATOMIC_SEQ_CST) < 20)
    printf("FAIL %s: %s: expected %ld, got %ld (%s)\n", part, what, want, got, strerror(errno));
}
#define MUST(call, want) must(#call, (long)(call), (long)(want))

static int create(const char* name, int flags) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  const int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | flags, 0600);
  if (fd < 0) must("create", fd, 0);
  return fd;
}

static void files(void) {
  const int fd = create("mini", 0);
  char text[64], back[64];
  for (int i = 0; i < 2000; ++i) {
    memset(text, 'a' + i % 26, sizeof text);
    struct iovec v[2] = {{text, 30}, {text + 30, 34}};
    const off_t at = (i % 50) * (off_t)sizeof text;
    MUST(lseek(fd, at, SEEK_SET), at);
    MUST(i % 2 ? write(fd, text, sizeof text) : writev(fd, v, 2), sizeof text);
    MUST(pread(fd, back, sizeof back, at), sizeof back);
    must("content", memcmp(text, back, sizeof text), 0);
    MUST(pwrite(fd, text, 8, at), 8);
    MUST(lseek(fd, 0, SEEK_CUR), at + (off_t)sizeof text);
    const int other = dup(fd);
    MUST(other >= 0, 1);
    MUST(close(other), 0);
    errno = 0;
    MUST(write(other, "x", 1), -1);
    MUST(errno, EBADF);
    if (i % 200 == 0) MUST(fsync(fd), 0);
  }
  MUST(lseek(fd, 0, SEEK_END), 50 * (off_t)sizeof text);
  MUST(close(fd), 0);
}

static int shared;
static void* appender(void* arg) {
  char record[32];
  for (int i = 0; i < 400; ++i) {
    memset(record, '0' + (int)(long)arg, sizeof record);
    MUST(write(shared, record, sizeof record), sizeof record);
  }
  return NULL;
}

static void threads(void) {
  shared = create("mini-appended", O_APPEND);
  pthread_t all[4];
  for (long i = 0; i < 4; ++i) MUST(pthread_create(&all[i], NULL, appender, (void*)i), 0);
  for (int i = 0; i < 4; ++i) MUST(pthread_join(all[i], NULL), 0);
  int of[4] = {0};
  MUST(lseek(shared, 0, SEEK_END), 1600 * 32);
  for (int i = 0; i < 1600; ++i) {
    char record[32];
    MUST(pread(shared, record, sizeof record, i * 32), sizeof record);
    for (int k = 1; k < 32; ++k) must("a record is whole", record[k], record[0]);
    if (record[0] >= '0' && record[0] < '4') of[record[0] - '0']++;
  }
  for (int i = 0; i < 4; ++i) must("records of a thread", of[i], 400);
  MUST(close(shared), 0);
}

static int ends[2];
static volatile sig_atomic_t handled;
static void handler(int s) {
  const int error = errno;
  char c = 'h';
  if (write(ends[1], &c, 1) == 1 && read(ends[0], &c, 1) == 1) handled = handled + 1;
  (void)s;
  errno = error;
}

static void signals(void) {
  MUST(pipe(ends), 0);
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_handler = handler;
  sigaction(SIGALRM, &a, NULL);
  const struct itimerval every = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &every, NULL);
  const int fd = create("mini-signals", 0), null = open("/dev/null", O_WRONLY);
  for (int i = 0; i < 3000 || handled < 20; ++i) {
    char text[16], back[16];
    snprintf(text, sizeof text, "%015d", i);
    MUST(pwrite(fd, text, sizeof text, 0), sizeof text);
    MUST(pread(fd, back, sizeof back, 0), sizeof back);
    must("content", memcmp(text, back, sizeof text), 0);
    MUST(write(null, text, 3), 3);
  }
  setitimer(ITIMER_REAL, &never, NULL);
  close(fd), close(null), close(ends[0]), close(ends[1]);
}

static int idle[2], cleaned, begun;
static void clean_up(void* arg) {
  (void)arg;
  __atomic_add_fetch(&cleaned, 1, __ATOMIC_SEQ_CST);
}
static void* blocked(void* arg) {
  pthread_cleanup_push(clean_up, NULL);
  __atomic_store_n(&begun, 1, __ATOMIC_SEQ_CST);
  for (char c;;)
    if (read(idle[0], &c, 1) != -1) must("read of an idle pipe", 0, -1);
  pthread_cleanup_pop(0);
  return arg;
}

static void cancellation(void) {
  MUST(pipe(idle), 0);
  for (int i = 0; i < 100; ++i) {
    pthread_t t;
    void* result = NULL;
    begun = 0;
    MUST(pthread_create(&t, NULL, blocked, NULL), 0);
    while (!__atomic_load_n(&begun, __ATOMIC_SEQ_CST)) usleep(100);
    if (i % 4 == 0) usleep(1000);
    MUST(pthread_cancel(t), 0);
    MUST(pthread_join(t, &result), 0);
    must("it was cancelled", result == PTHREAD_CANCELED, 1);
  }
  must("clean-up handlers", cleaned, 100);
  close(idle[0]), close(idle[1]);
}

static void processes(void) {
  const int fd = create("mini-family", O_APPEND);
  char number[16];
  snprintf(number, sizeof number, "%d", fd);
  for (int i = 0; i < 12; ++i) {
    const pid_t pid = i % 3 == 1 ? vfork() : fork();
    if (pid == 0) {
      if (i % 3) {
        execl(self, self, "--child", number, (char*)NULL);
        _exit(9);
      }
      for (int k = 0; k < 100; ++k)
        if (write(fd, "forked  ", 8) != 8) _exit(8);
      _exit(7);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    must("a child's end", WIFEXITED(status) ? WEXITSTATUS(status) : -status, 7);
  }
  MUST(lseek(fd, 0, SEEK_END), 12 * 100 * 8);
  close(fd);
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc == 3 && strcmp(argv[1], "--child") == 0) {
    for (int k = 0; k < 100; ++k)
      if (write(atoi(argv[2]), "executed", 8) != 8) return 8;
    return 7;
  }
  if (argc != 2) return 2;
  dir = argv[1];
  self = "/proc/self/exe";
  const struct {
    const char* name;
    void (*run)(void);
  } parts[] = {{"files", files}, {"threads", threads}, {"signals", signals},
               {"cancellation", cancellation}, {"processes", processes}};
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; ++i) {
    part = parts[i].name;
    const int before = failures;
    parts[i].run();
    if (failures == before) printf("ok   %s\n", part);
  }
  printf("stub_mini: %d failures\n", failures);
  return failures ? 1 : 0;
}
