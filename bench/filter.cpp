// Runs a program behind a seccomp filter that looks at some calls and allows every one: what the kernel takes for such a
// filter alone, with no tracer. `supervise`, and whatever else is built on seccomp, can't cost less.
//
//   bench_filter NUMBER,NUMBER... PROGRAM [ARGUMENT...]
//
// As in `supervise`'s own filter the number decides first, so that the kernel knows without running it that other calls are
// allowed (its cache by number, Linux 5.11); at those listed, who makes the call is looked at.

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

namespace {

constexpr size_t kMost = 200;  // a conditional jump reaches over 255 instructions

std::vector<sock_filter> program(const std::vector<unsigned>& numbers) {
  std::vector<sock_filter> code{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (size_t i = 0; i < numbers.size(); ++i)
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[i], static_cast<unsigned char>(numbers.size() - i), 0));
  code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  code.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, instruction_pointer)));
  code.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x0fffc000));
  code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x0bad0000, 0, 0));
  code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<unsigned> numbers;
  if (argc > 2) {
    for (char* at = argv[1]; *at;) {
      char* end = nullptr;
      numbers.push_back(static_cast<unsigned>(strtoul(at, &end, 10)));
      if (end == at || (*end != ',' && *end != 0)) numbers.resize(kMost + 1);
      if (numbers.size() > kMost) break;
      at = *end ? end + 1 : end;
    }
  }
  if (numbers.empty() || numbers.size() > kMost) {
    fprintf(stderr, "usage: bench_filter NUMBER,NUMBER... PROGRAM [ARGUMENT...], at most %zu numbers\n", kMost);
    return 2;
  }
  std::vector<sock_filter> code = program(numbers);
  sock_fprog all{static_cast<unsigned short>(code.size()), code.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &all) != 0) {
    perror("bench_filter: seccomp");
    return 125;
  }
  execvp(argv[2], argv + 2);
  perror(argv[2]);
  return 127;
}
