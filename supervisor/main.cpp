#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::puts("supervise " SUPERVISE_VERSION);
    return 0;
  }
  std::fputs("supervise: no such command\n", stderr);
  return 125;
}
