// Random operations on a real directory (what the application sees) and on the journal; from any
// crash-consistent earlier state of the storage, replay must lead to exactly that directory.
#include <gtest/gtest.h>
#include <linux/falloc.h>

#include "tests/supervisor/crash_model.h"
#include "tests/supervisor/seeds.h"

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE (1 << 1)
#endif

namespace supervise {
namespace {

using namespace test;

class World : public CrashModel {
 public:
  using CrashModel::CrashModel;

  void step() {
    switch (pick(24)) {
      case 0: case 1: case 2: create(); break;
      case 3: make_dir(); break;
      case 4: make_symlink(); break;
      case 5: case 6: case 7: case 8: data(false); break;
      case 9: data(true); break;
      case 10: case 11: case 12: rename_one(false); break;
      case 13: rename_one(true); break;
      case 14: case 15: remove_one(); break;
      case 16: link_one(); break;
      case 17: change_mode(); break;
      case 18: case 19: sync_file(); break;
      case 20: sync_dir(); break;
      case 21: if (pick(3) == 0) sync_all(); break;
      case 22: save_as(); break;
      case 23: unlinked_write(); break;
    }
    take_snapshot();
  }

 private:
  void learn_created(const std::string& name, const std::string& target = "") {
    struct stat st{};
    lstat((a_ / name).c_str(), &st);
    journal_.created(key(st), name, kind(st), st.st_mode, st.st_uid, st.st_gid, target);
  }

  // After a file lost a name: gone, or held open by the application for a while.
  void lost(const struct stat& before, const std::string& held_path) {
    if (!S_ISDIR(before.st_mode) && before.st_nlink > 1) return;
    (void)held_path;
    InodeKey k = key(before);
    if (S_ISREG(before.st_mode) && held_.contains(before.st_ino)) return;
    if (S_ISREG(before.st_mode)) journal_.forget(k);
    freed(before);
  }

  std::uint64_t left(const struct stat& before) { return S_ISDIR(before.st_mode) ? 0 : before.st_nlink - 1; }

  void create() {
    std::string name = fresh_name();
    UniqueFd fd(open((a_ / name).c_str(), O_RDWR | O_CREAT | O_EXCL, 0600 + pick(8)));
    if (!fd) return;
    log_ += "create " + name + "\n";
    learn_created(name);
    if (pick(2)) write_to(fd.get(), name, false);
  }

  void make_dir() {
    std::string name = fresh_name();
    if (mkdir((a_ / name).c_str(), 0700 + static_cast<mode_t>(pick(8)))) return;
    log_ += "mkdir " + name + "\n";
    learn_created(name);
  }

  void make_symlink() {
    std::string name = fresh_name(), target = text(1 + pick(5));
    bool fifo = pick(4) == 0;
    if (fifo ? mkfifo((a_ / name).c_str(), 0640) : symlink(target.c_str(), (a_ / name).c_str())) return;
    log_ += (fifo ? "fifo " : "symlink ") + name + "\n";
    learn_created(name, target);
  }

  void write_to(int fd, const std::string& name, bool durable) {
    struct stat st{};
    fstat(fd, &st);
    InodeKey k = key(st);
    std::size_t size = static_cast<std::size_t>(st.st_size);
    DataOp op{DataOp::Write, pick(size + 40), 0, text(1 + pick(80)), durable};
    if (pick(3) == 0) op.offset = size;
    if (pwrite(fd, op.bytes.data(), op.bytes.size(), static_cast<off_t>(op.offset)) < 0) abort();
    fstat(fd, &st);
    journal_.wrote(k, name, op.offset, bytes(op.bytes), static_cast<std::uint64_t>(st.st_size), durable);
    log_ += "write " + name + " at " + std::to_string(op.offset) + " " +
            std::to_string(op.bytes.size()) + (durable ? " durable\n" : "\n");
    record(st.st_ino, std::move(op));
    if (durable && st.st_nlink > 0) durable_next_ = true;
  }

  void data(bool durable) {
    auto name = any(S_IFREG);
    if (!name) return;
    UniqueFd fd(open((a_ / *name).c_str(), O_RDWR));
    struct stat st{};
    fstat(fd.get(), &st);
    InodeKey k = key(st);
    std::size_t size = static_cast<std::size_t>(st.st_size);
    if (pick(8) == 0) held_.emplace(st.st_ino, open((a_ / *name).c_str(), O_RDWR));
    int what = static_cast<int>(pick(6));
    if (durable || what < 4) return write_to(fd.get(), *name, durable);
    if (what == 4) {
      std::size_t to = pick(3) ? pick(size + 1) : size + pick(100);
      if (ftruncate(fd.get(), static_cast<off_t>(to))) abort();
      journal_.resized(k, *name, to);
      log_ += "truncate " + *name + " to " + std::to_string(to) + "\n";
      record(st.st_ino, {DataOp::Truncate, 0, to, "", false});
    } else if (size > 0) {
      std::size_t at = pick(size), n = 1 + pick(60);
      if (fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at),
                    static_cast<off_t>(n)))
        return;
      journal_.zeroed(k, *name, at, n, size);
      log_ += "punch " + *name + " at " + std::to_string(at) + " " + std::to_string(n) + "\n";
      record(st.st_ino, {DataOp::Punch, at, n, "", false});
    }
  }

  void rename_one(bool exchange) {
    auto from = any(0);
    if (!from) return;
    std::string to = fresh_name();
    if (exchange || pick(2)) to = any(0).value_or(to);
    struct stat f{}, t{};
    lstat((a_ / *from).c_str(), &f);
    bool existed = lstat((a_ / to).c_str(), &t) == 0;
    // What an interceptor tells before the call...
    InodeKey fk = key(f), tk = existed ? key(t) : InodeKey{};
    if (renameat2(AT_FDCWD, (a_ / *from).c_str(), AT_FDCWD, (a_ / to).c_str(),
                  exchange ? RENAME_EXCHANGE : 0))
      return;
    // ...and after it.
    log_ += (exchange ? "exchange " : "rename ") + *from + " " + to + "\n";
    journal_.seen(fk, *from, kind(f));
    if (existed) journal_.seen(tk, to, kind(t));
    journal_.renamed(*from, to, exchange,
                     existed && !exchange ? std::optional(left(t)) : std::nullopt);
    if (existed && !exchange && t.st_ino != f.st_ino) lost(t, to);
  }

  void remove_one() {
    auto name = any(0);
    if (!name) return;
    struct stat st{};
    lstat((a_ / *name).c_str(), &st);
    InodeKey k = key(st);
    if (S_ISDIR(st.st_mode) ? rmdir((a_ / *name).c_str()) : unlink((a_ / *name).c_str())) return;
    log_ += "remove " + *name + "\n";
    if (journal_.find(k) || pick(2)) journal_.seen(k, *name, kind(st));
    journal_.unlinked(*name, left(st));
    lost(st, *name);
  }

  void link_one() {
    auto name = any(S_IFDIR, true);
    std::string to = fresh_name();
    if (!name || linkat(AT_FDCWD, (a_ / *name).c_str(), AT_FDCWD, (a_ / to).c_str(), 0)) return;
    log_ += "link " + *name + " " + to + "\n";
    journal_.linked(key(*name), *name, to);
  }

  void change_mode() {
    auto name = any(S_IFLNK, true);
    if (!name) return;
    struct stat st{};
    lstat((a_ / *name).c_str(), &st);
    InodeKey k = key(st);
    mode_t mode = (S_ISDIR(st.st_mode) ? 0700 : 0600) + static_cast<mode_t>(pick(64));
    chmod((a_ / *name).c_str(), mode);
    log_ += "chmod " + *name + "\n";
    inode(st.st_ino)->modes.push_back(mode);
    journal_.attributes(k, *name, pick(2) ? (st.st_mode & S_IFMT) | mode : mode, {}, {});
  }

  void sync_file() {
    auto name = any(S_IFREG);
    if (!name) return;
    bool attributes = pick(2);
    InodeKey k = key(*name);
    struct stat st{};
    lstat((a_ / *name).c_str(), &st);
    Inode& i = *inode(st.st_ino);
    log_ += (attributes ? "fsync " : "fdatasync ") + *name + "\n";
    // Now and then a write goes on beside the sync: the journal must keep it.
    Seq upto = journal_.now();
    settle_data(i);
    if (attributes) i.modes = {st.st_mode};
    if (pick(4) == 0) {
      UniqueFd fd(open((a_ / *name).c_str(), O_RDWR));
      write_to(fd.get(), *name, false);
    }
    journal_.synced_file(k, upto, attributes);
    durable_next_ = true;
  }

  void sync_dir() {
    std::string dir = pick(3) ? any(S_IFDIR).value_or("") : "";
    log_ += "fsync directory " + dir + "\n";
    Seq upto = journal_.now();
    if (!dir.empty()) {
      struct stat st{};
      lstat((a_ / dir).c_str(), &st);
      key(st);
      inode(st.st_ino)->modes = {st.st_mode};
    }
    journal_.synced_directory(dir, upto);
    durable_next_ = true;
  }

  void sync_all() {
    log_ += "syncfs\n";
    for (const auto& [name, st] : names_below(a_.path())) {
      key(st);
      Inode& i = *inode(st.st_ino);
      settle_data(i);
      i.modes = {st.st_mode};
    }
    journal_.synced_all(journal_.now());
    durable_next_ = true;
  }

  // How most programs replace a file.
  void save_as() {
    std::string tmp = fresh_name() + ".tmp", to = fresh_name();
    if (auto existing = any(S_IFREG); existing && pick(2)) to = *existing;
    UniqueFd fd(open((a_ / tmp).c_str(), O_RDWR | O_CREAT | O_EXCL, 0644));
    if (!fd) return;
    log_ += "save " + tmp + "\n";
    learn_created(tmp);
    write_to(fd.get(), tmp, false);
    take_snapshot();
    if (pick(2)) {
      struct stat st{};
      fstat(fd.get(), &st);
      settle_data(*inode(st.st_ino));
      inode(st.st_ino)->modes = {st.st_mode};
      journal_.synced_file(key(st), journal_.now(), true);
      log_ += "fsync " + tmp + "\n";
      durable_names_ = history_.size() - 1;
    }
    struct stat t{}, f{};
    bool existed = lstat((a_ / to).c_str(), &t) == 0;
    fstat(fd.get(), &f);
    if (rename((a_ / tmp).c_str(), (a_ / to).c_str())) return;
    log_ += "rename " + tmp + " " + to + "\n";
    if (existed) journal_.seen(key(t), to, kind(t));
    journal_.renamed(tmp, to, false, existed ? std::optional(left(t)) : std::nullopt);
    if (existed) lost(t, to);
  }

  // Through a descriptor of a file that may have no name any more.
  void unlinked_write() {
    if (held_.empty()) return;
    auto it = std::next(held_.begin(), static_cast<std::ptrdiff_t>(pick(held_.size())));
    struct stat st{};
    fstat(it->second, &st);
    if (st.st_nlink == 0 && pick(2) == 0) {
      write_to(it->second, "", pick(2));
      return;
    }
    close(it->second);
    held_.erase(it);
    if (st.st_nlink == 0) {
      journal_.forget(key(st));
      freed(st);
    }
  }
};

int refused = 0;

void check(World& world, unsigned seed, bool same_inodes, int crashes) {
  for (int i = 0; i < crashes; ++i) {
    TempDir b;
    world.crash(b, !same_inodes);
    auto before = describe(b.path());
    auto report = replay(world.journal(), b.open_root().get(), world.options(same_inodes));
    // A file that goes on under a name that the journal never saw can only be found by its inode.
    if (!same_inodes && !report.ok() && report.error().what.find("links elsewhere") != std::string::npos) {
      ++refused;
      continue;
    }
    std::string shown;
    for (const auto& [name, line] : before) shown += name + " " + line.substr(0, 60) + "\n";
    ASSERT_TRUE(report.ok()) << "seed " << seed << " " << report.error().message() << "\n"
                             << world.log() << "on\n" << shown;
    ASSERT_EQ(differences(world.path(), b.path()), "") << "seed " << seed << "\n"
                                                       << world.log() << "on\n" << shown;
  }
}

TEST(ReplayProperty, AnyEarlierStateBecomesTheApplicationsView) {
  for (unsigned seed = 0, n = seeds(500); seed < n && !testing::Test::HasFailure(); ++seed) {
    World world(seed);
    std::size_t steps = 1 + world.pick(60);
    for (std::size_t i = 0; i < steps; ++i) world.step();
    check(world, seed, true, 3);
  }
}

TEST(ReplayProperty, ByNamesAloneWhereInodeNumbersDiffer) {
  for (unsigned seed = 0, n = seeds(300); seed < n && !testing::Test::HasFailure(); ++seed) {
    World world(seed + 100000);
    std::size_t steps = 1 + world.pick(60);
    for (std::size_t i = 0; i < steps; ++i) world.step();
    check(world, seed, false, 2);
  }
  EXPECT_LT(refused, static_cast<int>(seeds(300)) / 5);
}

TEST(ReplayProperty, AgainAfterAFailureAtEachStep) {
  for (unsigned seed = 0, n = seeds(60); seed < n && !testing::Test::HasFailure(); ++seed) {
    World world(seed + 200000);
    for (int i = 0; i < 40; ++i) world.step();
    for (int fail_at = 1;; ++fail_at) {
      TempDir b;
      world.crash(b, false);
      auto options = world.options(true);
      int count = 0;
      options.hook = [&](std::string_view what) -> Status {
        if (++count == fail_at) return plain_error("told to fail before " + std::string(what));
        return {};
      };
      bool whole = replay(world.journal(), b.open_root().get(), options).ok();
      options.hook = nullptr;
      auto again = replay(world.journal(), b.open_root().get(), options);
      ASSERT_TRUE(again.ok()) << "seed " << seed << " step " << fail_at << " "
                              << again.error().message() << "\n" << world.log();
      ASSERT_EQ(differences(world.path(), b.path()), "")
          << "seed " << seed << " step " << fail_at << "\n" << world.log();
      if (whole) break;
    }
  }
}

}  // namespace
}  // namespace supervise
