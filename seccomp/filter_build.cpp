#include <fmt/format.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/seccomp.h>

#include <array>
#include <cstddef>
#include <memory>

#include "seccomp/filter.h"
#include "seccomp/stub_window.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {
namespace {

using Context = std::unique_ptr<void, decltype(&seccomp_release)>;

Error libseccomp_error(int rc, const std::string& what) { return errno_error(-rc, "libseccomp: " + what); }

Status set_attribute(scmp_filter_ctx ctx, scmp_filter_attr attribute, std::uint32_t value,
                     const char* name) {
  if (int rc = ::seccomp_attr_set(ctx, attribute, value); rc != 0)
    return libseccomp_error(rc, fmt::format("attribute {} = {:#x}", name, value));
  return ok_status();
}

Status add_rules(scmp_filter_ctx ctx, std::uint32_t action, int number) {
  const auto* row = find_syscall(number);
  if (row == nullptr || row->when.empty()) {
    if (int rc = ::seccomp_rule_add_exact_array(ctx, action, number, 0, nullptr); rc != 0)
      return libseccomp_error(rc, fmt::format("rule for {}", syscall_name(number)));
    return ok_status();
  }
  for (const auto& match : row->when) {
    const scmp_arg_cmp compare{match.arg, SCMP_CMP_MASKED_EQ, match.mask, match.value};
    if (int rc = ::seccomp_rule_add_exact_array(ctx, action, number, 1, &compare); rc != 0)
      return libseccomp_error(rc, fmt::format("rule for {}, argument {}", row->name, match.arg));
  }
  return ok_status();
}

Result<std::vector<sock_filter>> read_program(int fd) {
  const off_t size = ::lseek(fd, 0, SEEK_END);
  if (size < 0) return errno_error("lseek in the exported filter");
  const auto bytes = static_cast<std::size_t>(size);
  if (bytes == 0 || bytes % sizeof(sock_filter) != 0 || bytes / sizeof(sock_filter) > BPF_MAXINSNS)
    return plain_error(fmt::format("libseccomp exported a filter of {} bytes", bytes));
  std::vector<sock_filter> program(bytes / sizeof(sock_filter));
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t n = ::pread(fd, reinterpret_cast<char*>(program.data()) + done, bytes - done,
                              static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return errno_error("read the exported filter");
    done += static_cast<std::size_t>(n);
  }
  return program;
}

// libseccomp can't match on the instruction pointer. The number is tested first, so that calls without
// a row keep the kernel's per-number cache; where the program would say "trace" it goes on to a test of
// who calls (seccomp(2), struct seccomp_data).
void pass_calls_of_the_stub(std::vector<sock_filter>& program) {
  constexpr std::uint32_t kTrace = SECCOMP_RET_TRACE | kTagNative;
  const auto test = program.size();
  for (std::size_t i = 0; i < test; ++i)
    if (program[i].code == (BPF_RET | BPF_K) && program[i].k == kTrace)
      program[i] = BPF_STMT(BPF_JMP | BPF_JA, static_cast<std::uint32_t>(test - i - 1));
  constexpr std::uint32_t kIp = offsetof(seccomp_data, instruction_pointer);
  const sock_filter tail[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kIp),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, stub::kCodeMask),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(stub::kCode), 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kIp + 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, kTrace),
  };
  program.insert(program.end(), std::begin(tail), std::end(tail));
}

}  // namespace

Result<std::vector<sock_filter>> filter_build(const FilterPlan& plan) {
  Context ctx(::seccomp_init(SCMP_ACT_ALLOW), &seccomp_release);
  if (!ctx) return plain_error("libseccomp: seccomp_init failed");

  // libseccomp takes a call with bit 30 (x32) for a foreign architecture too.
  RETURN_IF_ERROR(set_attribute(ctx.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_TRACE(kTagForeignArch),
                                "ACT_BADARCH"));
  RETURN_IF_ERROR(set_attribute(ctx.get(), SCMP_FLTATR_CTL_NNP, 0, "CTL_NNP"));
  // A balanced tree; a libseccomp before 2.5 makes a list, which is right and slower.
  set_attribute(ctx.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2, "CTL_OPTIMIZE").ignore();

  for (int number : plan.traced)
    RETURN_IF_ERROR(add_rules(ctx.get(), SCMP_ACT_TRACE(kTagNative), number));
  for (int number : plan.enosys)
    RETURN_IF_ERROR(add_rules(ctx.get(), SCMP_ACT_ERRNO(ENOSYS), number));

  UniqueFd fd(::memfd_create("supervise-filter", MFD_CLOEXEC));
  if (!fd) return errno_error("memfd_create for the filter");
  if (int rc = ::seccomp_export_bpf(ctx.get(), fd.get()); rc != 0)
    return libseccomp_error(rc, "export of the filter");
  ASSIGN_OR_RETURN(auto program, read_program(fd.get()));
  if (plan.pass_stub) pass_calls_of_the_stub(program);
  if (program.size() > BPF_MAXINSNS) return plain_error("the filter has too many instructions");
  return program;
}

}  // namespace supervise
