// Replaces what a descriptor number stands for while other threads use it, as a log is rotated: each time the
// number stands for a new file of DIR, three records go there. A journal must know all of them.
//
//   stub_rotate DIR OUTSIDE ROUNDS
#include <atomic>
#include <fcntl.h>
#include <string>
#include <thread>
#include <vector>

#include "guest.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string dir = argv[1];
  const int rounds = atoi(argv[3]), number = 200;
  const int other = open((std::string(argv[2]) + "/other").c_str(), O_CREAT | O_RDWR, 0600);
  IS("the number", dup2(other, number), number);
  std::atomic<bool> end{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      char c;
      while (!end) {
        if (pread(number, &c, 1, 0) < 0) guest::check(false, "a read", -1, 0, errno);
      }
    });
  }
  char text[8] = {};
  long wrong = 0;
  for (int i = 0; i < 200; ++i) wrong += write(other, text, sizeof text) != sizeof text;
  for (int r = 0; r < rounds; ++r) {
    const int fd = open((dir + "/" + std::to_string(r)).c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
    wrong += dup2(other, number) != number;
    for (int i = 0; i < 20; ++i) wrong += pread(number, text, 1, 0) != 1;
    wrong += dup2(fd, number) != number || close(fd) != 0;
    for (int i = 0; i < 3; ++i) wrong += pwrite(number, "record!", 8, 8 * i) != 8;
  }
  end = true;
  for (auto& t : readers) t.join();
  IS("wrong results", wrong, 0);
  return guest::finish("stub_rotate");
}
