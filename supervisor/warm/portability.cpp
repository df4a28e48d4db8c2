#include "supervisor/warm/portability.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "restore/image_layout.h"
#include "supervisor/base/unique_fd.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {

struct HostFile {
  std::string_view name, what, severity, advice;
};
constexpr HostFile kHostFiles[] = {
    {"/etc/machine-id", "machine-id", "warning", "copies share it as an identity"},
    {"/var/lib/dbus/machine-id", "machine-id", "warning", "copies share it as an identity"},
    {"/proc/sys/kernel/random/boot_id", "boot-id", "warning", "copies share it as an identity"},
    {"/sys/class/dmi/id/product_uuid", "machine-id", "warning", "copies share it as an identity"},
    {"/etc/hostname", "host-name", "advice", "the other host has another name"},
    {"/proc/sys/kernel/hostname", "host-name", "advice", "the other host has another name"},
    {"/etc/hosts", "addresses", "advice", "names were looked up in this host's table"},
    {"/etc/resolv.conf", "resolver", "advice", "the other host may have other name servers"},
    {"/proc/net/if_inet6", "addresses", "advice", "the other host has other addresses"},
    {"/etc/localtime", "time zone", "info", "the other host should have the same"},
    {"/etc/timezone", "time zone", "info", "the other host should have the same"},
    {"/proc/cpuinfo", "cpu", "advice", "code may have been chosen for this CPU; its features are checked at the restore"},
    {"/sys/devices/system/cpu/online", "cpu", "info", "the number of CPUs was read"},
    {"/sys/devices/system/cpu/possible", "cpu", "info", "the number of CPUs was read"},
    {"/proc/meminfo", "memory", "info", "the size of this host's memory was read"},
    {"/sys/fs/cgroup/memory.max", "memory", "info", "the memory limit of this host was read"},
    {"/sys/fs/cgroup/cpu.max", "cpu", "info", "the CPU limit of this host was read"},
};

const HostFile* find_host_file(std::string_view name) {
  const auto* it = std::find_if(std::begin(kHostFiles), std::end(kHostFiles),
                                [&](const HostFile& f) { return f.name == name; });
  return it == std::end(kHostFiles) ? nullptr : it;
}

bool is_under(const std::string& name, const std::vector<std::string>& directories) {
  return std::any_of(directories.begin(), directories.end(),
                     [&](const std::string& d) { return name == d || name.starts_with(d + "/"); });
}

}  // namespace

std::string_view host_fact_of_file(std::string_view name) {
  const HostFile* file = find_host_file(name);
  return file ? file->what : std::string_view();
}

void PortabilityLog::saw_random(std::uint64_t bytes) { random_bytes_ += std::min<std::uint64_t>(bytes, 1 << 20); }
void PortabilityLog::saw_uname() { uname_ = true; }
void PortabilityLog::saw_interfaces() { interfaces_ = true; }

void PortabilityLog::saw_open(const std::string& name, int flags) {
  if (name == "/dev/urandom" || name == "/dev/random" || find_host_file(name)) host_files_.insert(name);
  if ((flags & O_ACCMODE) != O_RDONLY && name.ends_with(".pid")) pid_files_.insert(name);
}

std::vector<PortabilityFact> PortabilityLog::report(const std::vector<pid_t>& processes,
                                                    const std::vector<std::string>& declared) const {
  std::vector<PortabilityFact> facts;
  if (random_bytes_ > 0)
    facts.push_back({"randomness", "warning",
                     fmt::format("{} bytes of randomness were taken with getrandom: copies share keys and seeds "
                                 "made of them; reseed at activation (--activate-signal, --on-activate)", random_bytes_)});
  for (const std::string& name : host_files_) {
    const HostFile* file = find_host_file(name);
    if (file) facts.push_back({std::string(file->what), std::string(file->severity), fmt::format("{} was read: {}", name, file->advice)});
    else facts.push_back({"randomness", "warning", fmt::format("{} was opened: copies share keys and seeds made of it; reseed at activation", name)});
  }
  if (uname_) facts.push_back({"host-name", "info", "uname was asked: the other host has another name"});
  if (interfaces_) facts.push_back({"addresses", "advice", "the network interfaces were listed: the other host has other addresses"});
  for (const std::string& name : pid_files_)
    facts.push_back({"pid-file", "advice", fmt::format("{} was written: the process ids in it are those of this image", name)});

  std::set<std::string> open, mapped;
  for (pid_t pid : processes) {
    for (int fd : fds_of(pid)) {
      auto link = fd_link(pid, fd);
      if (!link || !link->starts_with('/') || link->starts_with("/dev/") || link->starts_with("/proc/") ||
          link->starts_with("/sys/") || *link == kGenerationFile || is_under(*link, declared))
        continue;
      struct stat st {};
      if (stat(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), &st) == 0 && S_ISREG(st.st_mode)) open.insert(*link);
    }
    auto maps = maps_of(pid);
    if (!maps) continue;
    for (const Vma& vma : *maps)
      if (vma.path.starts_with('/') && !vma.deleted && vma.ino != 0 && vma.exec) mapped.insert(vma.path);
  }
  for (const std::string& name : open)
    facts.push_back({"file", "advice", fmt::format("{} is open and on no declared path: the other host needs it, of the same size", name)});
  for (const std::string& name : mapped) {
    const std::string id = build_id_of(name);
    facts.push_back({"mapped-file", "info", id.empty() ? name : fmt::format("{} build-id {}", name, id)});
  }
  return facts;
}

std::string build_id_of(const std::string& file) {
  UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  Elf64_Ehdr head;
  if (!fd || pread(fd.get(), &head, sizeof head, 0) != sizeof head || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
      head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_phentsize != sizeof(Elf64_Phdr))
    return {};
  for (unsigned i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr segment;
    if (pread(fd.get(), &segment, sizeof segment, static_cast<off_t>(head.e_phoff + i * sizeof segment)) != sizeof segment) return {};
    if (segment.p_type != PT_NOTE || segment.p_filesz > 65536) continue;
    std::string notes(segment.p_filesz, '\0');
    if (pread(fd.get(), notes.data(), notes.size(), static_cast<off_t>(segment.p_offset)) != static_cast<ssize_t>(notes.size())) continue;
    const auto padded = [](std::size_t n) { return (n + 3) & ~std::size_t{3}; };
    for (std::size_t at = 0; at + sizeof(Elf64_Nhdr) <= notes.size();) {
      Elf64_Nhdr note;
      memcpy(&note, notes.data() + at, sizeof note);
      const std::size_t name = at + sizeof note, data = name + padded(note.n_namesz);
      if (data + note.n_descsz > notes.size()) break;
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(notes.data() + name, "GNU", 4) == 0) {
        std::string hex;
        for (std::size_t b = 0; b < note.n_descsz; ++b) hex += fmt::format("{:02x}", static_cast<unsigned char>(notes[data + b]));
        return hex;
      }
      at = data + padded(note.n_descsz);
    }
  }
  return {};
}

}  // namespace supervise
