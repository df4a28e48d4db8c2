// The file that tells the application which instance of itself it is: on a tmpfs that exists in the world
// alone, so that an image which has it open or mapped finds the same name on every host, once for each
// world. Its size never changes: CRIU insists on it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "restore/image_layout.h"
#include "supervisor/base/worker.h"
#include "supervisor/world_impl.h"

namespace supervise {
namespace {

constexpr std::size_t kSize = 64;
constexpr Millis kMountTime{10000};

Result<std::string> content(std::uint64_t generation, int instance) {
  unsigned char random[kSize / 2];
  if (getrandom(random, sizeof random, GRND_NONBLOCK) != sizeof random) return errno_error("getrandom");
  std::string text = fmt::format("{} {} ", generation, instance);
  for (unsigned char byte : random) text += fmt::format("{:02x}", byte);
  text.resize(kSize - 1);
  return text + "\n";
}

Status attach(pid_t init, int tree) {
  const auto file = [&](const char* name) { return fmt::format("/proc/{}/{}", init, name); };
  UniqueFd ns(open(file("ns/mnt").c_str(), O_RDONLY | O_CLOEXEC));
  UniqueFd root(open(file("root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!ns || !root) return errno_error("open the world of " + file(""));
  if (setns(ns.get(), CLONE_NEWNS) != 0) return errno_error("enter the world's mount namespace");
  if (fchdir(root.get()) != 0 || chroot(".") != 0) return errno_error("enter the world's root");
  if (mkdir(kGenerationDir, 0755) != 0 && errno != EEXIST) return errno_error(fmt::format("mkdir {}", kGenerationDir));
  if (move_mount(tree, "", AT_FDCWD, kGenerationDir, MOVE_MOUNT_F_EMPTY_PATH) != 0)
    return errno_error(fmt::format("mount a tmpfs at {}", kGenerationDir));
  return {};
}

}  // namespace

Status World::tell_generation(std::uint64_t generation, int instance) {
  Impl& w = *impl_;
  if (!w.link) return errno_error(EPERM, "the application has no mount namespace of its own");
  ASSIGN_OR_RETURN(const std::string text, content(generation, instance));
  const auto write_to = [&](int fd) -> Status {
    if (pwrite(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size())) return {};
    return errno_error(fmt::format("write {}", kGenerationFile));
  };
  if (w.generation) return write_to(w.generation.get());
  if (w.mounts->in_a_place(kGenerationDir))
    return plain_error(fmt::format("{} lies on a storage path", kGenerationDir));
  const UniqueFd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
  const auto set = [&](const char* key, const char* value) {
    return fsconfig(context.get(), FSCONFIG_SET_STRING, key, value, 0) == 0;
  };
  if (!context || !set("source", "supervise") || !set("size", "64k") || !set("mode", "755") ||
      fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return errno_error("make a tmpfs");
  const UniqueFd tree(fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (!tree) return errno_error("make a tmpfs");
  const std::string name = std::string(kGenerationFile).substr(std::string(kGenerationDir).size() + 1);
  UniqueFd file(openat(tree.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  if (!file || fchmod(file.get(), 0444) != 0) return errno_error(fmt::format("create {}", kGenerationFile));
  RETURN_IF_ERROR(write_to(file.get()));
  auto attached = run_worker("the generation file", Deadline::in(kMountTime), [&]() -> Result<WorkerOutput> {
    RETURN_IF_ERROR(attach(w.link->pid(), tree.get()));
    return WorkerOutput{};
  });
  if (!attached) return attached.error();
  w.generation = std::move(file);
  return {};
}

}  // namespace supervise
