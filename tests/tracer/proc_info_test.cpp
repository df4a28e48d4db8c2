#include "tracer/proc_info.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace supervise {
namespace {

TEST(Fdinfo, PositionFlagsMountAndInode) {
  const FdInfo info = parse_fdinfo("pos:\t4096\nflags:\t02102001\nmnt_id:\t77\nino:\t123456789012\n");
  EXPECT_EQ(info.pos, 4096u);
  EXPECT_EQ(info.flags, 02102001);
  EXPECT_EQ(info.mnt_id, 77u);
  EXPECT_EQ(info.ino, 123456789012u);
  EXPECT_TRUE(info.locks.empty());
}

TEST(Fdinfo, LocksOfEveryKind) {
  const FdInfo info = parse_fdinfo(
      "pos:\t0\nflags:\t0100002\nmnt_id:\t1\nino:\t2\n"
      "lock:\t1: POSIX  ADVISORY  WRITE 359 fe:00:1234 10 29\n"
      "lock:\t2: FLOCK  ADVISORY  READ 360 fe:00:1234 0 EOF\n"
      "lock:\t3: OFDLCK ADVISORY  READ -1 fe:00:1234 5 EOF\n");
  ASSERT_EQ(info.locks.size(), 3u);
  EXPECT_EQ(info.locks[0].kind, LockInfo::Posix);
  EXPECT_TRUE(info.locks[0].write);
  EXPECT_EQ(info.locks[0].pid, 359);
  EXPECT_EQ(info.locks[0].start, 10u);
  EXPECT_EQ(info.locks[0].end, 29u);
  EXPECT_EQ(info.locks[1].kind, LockInfo::Flock);
  EXPECT_FALSE(info.locks[1].write);
  EXPECT_EQ(info.locks[1].end, std::nullopt);
  EXPECT_EQ(info.locks[2].kind, LockInfo::Ofd);
  EXPECT_EQ(info.locks[2].start, 5u);
}

TEST(Fdinfo, WhatIsCutOffOrUnknownIsPassedOver) {
  EXPECT_EQ(parse_fdinfo("").pos, 0u);
  const FdInfo info = parse_fdinfo("eventfd-count: 3\nlock:\t1: POSIX\npos:\t9");
  EXPECT_EQ(info.pos, 9u);
  EXPECT_TRUE(info.locks.empty());
}

TEST(MapsLine, AFileMappingWithSpacesInItsName) {
  const auto v = parse_maps_line("7f0000001000-7f0000003000 rw-s 00002000 fe:01 4242       /srv/a file (1)");
  ASSERT_TRUE(v);
  EXPECT_EQ(v->start, 0x7f0000001000u);
  EXPECT_EQ(v->end, 0x7f0000003000u);
  EXPECT_EQ(v->offset, 0x2000u);
  EXPECT_TRUE(v->read && v->write && v->shared);
  EXPECT_FALSE(v->exec);
  EXPECT_EQ(v->dev_major, 0xfeu);
  EXPECT_EQ(v->dev_minor, 1u);
  EXPECT_EQ(v->ino, 4242u);
  EXPECT_EQ(v->path, "/srv/a file (1)");
  EXPECT_FALSE(v->deleted);
}

TEST(MapsLine, ADeletedFileANewlineAnAnonymousOne) {
  const auto gone = parse_maps_line("1000-2000 r--p 00000000 fe:01 7 /srv/x (deleted)");
  ASSERT_TRUE(gone);
  EXPECT_TRUE(gone->deleted);
  EXPECT_EQ(gone->path, "/srv/x");
  const auto two = parse_maps_line("1000-2000 r--p 00000000 fe:01 7 /srv/a\\012b");
  ASSERT_TRUE(two);
  EXPECT_EQ(two->path, "/srv/a\nb");
  const auto none = parse_maps_line("1000-2000 ---p 00000000 00:00 0 ");
  ASSERT_TRUE(none);
  EXPECT_TRUE(none->path.empty());
  EXPECT_FALSE(none->read || none->write || none->exec || none->shared);
}

TEST(MapsLine, WhatIsNoneIsNone) {
  for (const char* line : {"", "nonsense", "1000-2000", "1000-2000 r--p 0 fe:01"})
    EXPECT_FALSE(parse_maps_line(line)) << line;
}

TEST(StripDeleted, OnlyTheMarkAtTheEnd) {
  std::string path = "/srv/file (deleted)";
  EXPECT_TRUE(strip_deleted(path));
  EXPECT_EQ(path, "/srv/file");
  EXPECT_FALSE(strip_deleted(path));
  path = "/srv/(deleted) file";
  EXPECT_FALSE(strip_deleted(path));
  EXPECT_EQ(path, "/srv/(deleted) file");
}

TEST(ProcInfo, ThisProcess) {
  auto status = task_status(getpid());
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->tgid, getpid());
  EXPECT_EQ(status->ppid, getppid());
  EXPECT_EQ(status->state, 'R');
  ASSERT_FALSE(status->ns_pid.empty());
  auto threads = threads_of(getpid());
  EXPECT_NE(std::find(threads.begin(), threads.end(), getpid()), threads.end());
  const int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  auto fds = fds_of(getpid());
  EXPECT_NE(std::find(fds.begin(), fds.end(), fd), fds.end());
  auto info = fd_info(getpid(), fd);
  ASSERT_TRUE(info.ok());
  EXPECT_TRUE(info->flags & O_CLOEXEC);
  close(fd);
  EXPECT_FALSE(fd_info(getpid(), fd).ok());
}

TEST(ProcInfo, AMappingOfThisProcess) {
  void* at = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  auto maps = maps_of(getpid());
  ASSERT_TRUE(maps.ok());
  const auto address = reinterpret_cast<std::uint64_t>(at);
  auto found = std::find_if(maps->begin(), maps->end(),
                            [&](const Vma& v) { return v.start <= address && address + 8192 <= v.end; });
  ASSERT_NE(found, maps->end());
  EXPECT_TRUE(found->shared && found->read && found->write);
  munmap(at, 8192);
}

TEST(ProcInfo, ATaskThatIsGone) {
  EXPECT_FALSE(task_status(1 << 30).ok());
  EXPECT_EQ(task_state(1 << 30), '?');
}

}  // namespace
}  // namespace supervise
