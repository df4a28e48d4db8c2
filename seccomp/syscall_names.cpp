#include <seccomp.h>

#include <cstdlib>
#include <map>
#include <string>

#include "seccomp/syscall_table.h"

namespace supervise {
namespace {

// Newer than the libseccomp of the oldest distribution we build on.
std::string_view newer_name(int number) {
  switch (number) {
    case 450: return "set_mempolicy_home_node";
    case 451: return "cachestat";
    case 452: return "fchmodat2";
    case 453: return "map_shadow_stack";
    case 454: return "futex_wake";
    case 455: return "futex_wait";
    case 456: return "futex_requeue";
    case 457: return "statmount";
    case 458: return "listmount";
    case 459: return "lsm_get_self_attr";
    case 460: return "lsm_set_self_attr";
    case 461: return "lsm_list_modules";
    case 462: return "mseal";
    case 467: return "open_tree_attr";
    default: return {};
  }
}

std::string resolve(int number) {
  if (auto name = newer_name(number); !name.empty()) return std::string(name);
  // libseccomp has pseudo numbers below zero for calls of other architectures.
  if (number >= 0) {
    if (char* name = ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number)) {
      std::string text(name);
      std::free(name);
      return text;
    }
  }
  return "syscall_" + std::to_string(number);
}

}  // namespace

std::string_view syscall_name(int number) {
  if (const auto* row = find_syscall(number)) return row->name;
  // An application may call with any number: the memory is bounded.
  constexpr std::size_t kMost = 1024;
  static thread_local std::map<int, std::string> known;
  if (auto it = known.find(number); it != known.end()) return it->second;
  if (known.size() >= kMost) return "syscall_unknown";
  return known.emplace(number, resolve(number)).first->second;
}

std::string_view to_string(IoClass io) {
  switch (io) {
    case IoClass::None: return "none";
    case IoClass::Open: return "open";
    case IoClass::Read: return "read";
    case IoClass::Write: return "write";
    case IoClass::Copy: return "copy";
    case IoClass::Sync: return "sync";
    case IoClass::Resize: return "resize";
    case IoClass::Seek: return "seek";
    case IoClass::Close: return "close";
    case IoClass::Lock: return "lock";
    case IoClass::Stat: return "stat";
    case IoClass::Names: return "names";
    case IoClass::Attributes: return "attributes";
    case IoClass::Descriptor: return "descriptor";
    case IoClass::Map: return "map";
    case IoClass::Aio: return "aio";
    case IoClass::Socket: return "socket";
    case IoClass::Ipc: return "ipc";
    case IoClass::Process: return "process";
    case IoClass::Refuse: return "refuse";
  }
  return "?";
}

std::string_view to_string(ArgKind kind) {
  switch (kind) {
    case ArgKind::None: return "";
    case ArgKind::Int: return "int";
    case ArgKind::Fd: return "fd";
    case ArgKind::DirFd: return "dirfd";
    case ArgKind::Path: return "path";
    case ArgKind::OutBuf: return "out";
    case ArgKind::InBuf: return "in";
    case ArgKind::Len: return "len";
    case ArgKind::OutIovec: return "out-iovec";
    case ArgKind::InIovec: return "in-iovec";
    case ArgKind::IovCount: return "iovcnt";
    case ArgKind::Offset: return "offset";
    case ArgKind::OffsetPtr: return "offset*";
    case ArgKind::Flags: return "flags";
    case ArgKind::Mode: return "mode";
    case ArgKind::Struct: return "struct";
    case ArgKind::Addr: return "addr";
  }
  return "?";
}

std::string_view to_string(Trap trap) {
  switch (trap) {
    case Trap::Always: return "always";
    case Trap::OnDemand: return "on-demand";
    case Trap::Errno: return "enosys";
  }
  return "?";
}

}  // namespace supervise
