#include "supervisor/warm/stack.h"

#ifdef SUPERVISE_HAVE_LIBDW
#include <cxxabi.h>
#include <elfutils/libdwfl.h>
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#endif

namespace supervise {

#ifdef SUPERVISE_HAVE_LIBDW
namespace {

struct Frames {
  Dwfl* dwfl;
  std::size_t most;
  std::vector<std::string> lines;
};

// libdw would otherwise search, and perhaps ask a server, for separate debug information.
int no_debug_information(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, const char*, GElf_Word, char**) {
  return -1;
}

std::string readable(const char* symbol) {
  int status = 0;
  std::unique_ptr<char, decltype(&free)> plain(abi::__cxa_demangle(symbol, nullptr, nullptr, &status), free);
  return status == 0 && plain ? plain.get() : symbol;
}

int on_frame(Dwfl_Frame* frame, void* argument) {
  auto& frames = *static_cast<Frames*>(argument);
  Dwarf_Addr pc = 0;
  bool activation = false;
  if (!dwfl_frame_pc(frame, &pc, &activation)) return DWARF_CB_ABORT;
  // A return address is behind its call.
  const Dwarf_Addr at = activation ? pc : pc - 1;
  Dwfl_Module* module = dwfl_addrmodule(frames.dwfl, at);
  GElf_Off offset = 0;
  GElf_Sym symbol;
  const char* name = module ? dwfl_module_addrinfo(module, at, &offset, &symbol, nullptr, nullptr, nullptr) : nullptr;
  const char* file = module ? dwfl_module_info(module, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr) : nullptr;
  std::string short_file = file ? file : "";
  short_file.erase(0, short_file.rfind('/') + 1);
  frames.lines.push_back(fmt::format("{} ({})", name ? fmt::format("{}+{:#x}", readable(name), offset) : fmt::format("{:#x}", pc),
                                     short_file.empty() ? "no file" : short_file));
  return frames.lines.size() < frames.most ? DWARF_CB_OK : DWARF_CB_ABORT;
}

}  // namespace

std::vector<std::string> stack_of(pid_t pid, pid_t tid, std::size_t most) {
  static const Dwfl_Callbacks callbacks{dwfl_linux_proc_find_elf, no_debug_information, nullptr, nullptr};
  std::unique_ptr<Dwfl, decltype(&dwfl_end)> dwfl(dwfl_begin(&callbacks), dwfl_end);
  if (!dwfl || dwfl_linux_proc_report(dwfl.get(), pid) != 0 || dwfl_report_end(dwfl.get(), nullptr, nullptr) != 0 ||
      dwfl_linux_proc_attach(dwfl.get(), pid, true) < 0)
    return {};
  Frames frames{dwfl.get(), most, {}};
  dwfl_getthread_frames(dwfl.get(), tid, on_frame, &frames);
  return std::move(frames.lines);
}
#else
std::vector<std::string> stack_of(pid_t, pid_t, std::size_t) { return {}; }
#endif

}  // namespace supervise
