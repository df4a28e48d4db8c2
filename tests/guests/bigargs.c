// Long arguments and environments through exec, and an exec that is refused for its size.
// bigargs [COUNT BYTES]: executes itself with COUNT arguments and COUNT variables of BYTES bytes each.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

static unsigned long hash(char** list, long* count, long* bytes) {
  unsigned long h = 1469598103934665603UL;
  *count = *bytes = 0;
  for (; *list; ++list, ++*count)
    for (const char* p = *list; *p; ++p, ++*bytes) h = (h ^ (unsigned char)*p) * 1099511628211UL;
  return h;
}

static char** make(const char* prefix, long count, long bytes, char* first, char* second) {
  char** list = calloc((size_t)count + 3, sizeof *list);
  long n = 0;
  if (first) list[n++] = first;
  if (second) list[n++] = second;
  for (long i = 0; i < count; ++i) {
    char* text = malloc((size_t)bytes + 64);
    int used = sprintf(text, "%s%ld=", prefix, i);
    for (long b = 0; b < bytes; ++b) text[used + b] = (char)('a' + (i + b) % 26);
    text[used + bytes] = 0;
    list[n++] = text;
  }
  return list;
}

int main(int argc, char** argv) {
  alarm(30);
  char self[4096];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n < 0) return 1;
  self[n] = 0;
  if (argc > 1 && strcmp(argv[1], "show") == 0) {
    long count, bytes;
    unsigned long h = hash(argv + 2, &count, &bytes);
    printf("arguments: %ld, %ld bytes, hash %016lx\n", count, bytes, h);
    h = hash(environ, &count, &bytes);
    printf("environment: %ld, %ld bytes, hash %016lx\n", count, bytes, h);
    return 0;
  }
  const struct { long count, bytes; } cases[] = {{0, 0}, {1, 0}, {3, 10}, {2000, 20}, {100, 10000}, {7, 131000}, {1, 131072}, {40, 60000}, {3, 200000}};
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; ++i) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      char** arguments = make("A", cases[i].count, cases[i].bytes, self, "show");
      char** variables = make("V", cases[i].count, cases[i].bytes, NULL, NULL);
      execve(self, arguments, variables);
      printf("execve with %ld of %ld bytes: %s\n", cases[i].count, cases[i].bytes, strerror(errno));
      fflush(stdout);
      _exit(3);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("case %ld x %ld: status %x\n", cases[i].count, cases[i].bytes, status);
  }
  return 0;
}
