// Random operations on a real directory (what the application sees) and on the journal; from any
// crash-consistent earlier state of the storage, replay must lead to exactly that directory.
//
// The model of a crash: names are as they were at some moment not before the last sync that
// ordered them (metadata is journaled in order); of the data of each file any subset of the writes
// since its last sync may be there; of its modes any since the last. Inode numbers are reused at once.
#include <gtest/gtest.h>
#include <linux/falloc.h>

#include <random>

#include "supervisor/journal.h"
#include "supervisor/replay.h"
#include "tests/supervisor/tree_fixture.h"

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE (1 << 1)
#endif

namespace supervise {
namespace {

using namespace test;

struct DataOp {
  enum Kind { Write, Truncate, Punch } kind;
  std::size_t offset = 0, length = 0;
  std::string bytes;
  bool durable = false;
};

void apply(std::string& content, const DataOp& op) {
  if (op.kind == DataOp::Truncate) return content.resize(op.length);
  if (op.kind == DataOp::Punch) {
    for (std::size_t i = op.offset; i < op.offset + op.length && i < content.size(); ++i)
      content[i] = 0;
    return;
  }
  if (content.size() < op.offset + op.bytes.size()) content.resize(op.offset + op.bytes.size());
  content.replace(op.offset, op.bytes.size(), op.bytes);
}

struct Inode {
  std::uint64_t number = 0;  // as the file systems show it; reused
  std::string base;          // durable content
  std::vector<DataOp> ops;
  std::vector<mode_t> modes;
};

struct Entry {
  struct stat st{};
  std::string target;
  std::shared_ptr<Inode> inode;
};
using Snapshot = std::map<std::string, Entry>;

class World {
 public:
  World(unsigned seed, int initial = 8) : rng_(seed) {
    for (int i = 0; i < initial; ++i) {
      std::string name = fresh_name();
      std::string path = a_ / name;
      struct stat there{};
      if (lstat(path.c_str(), &there) == 0) continue;
      switch (pick(6)) {
        case 0: case 1: mkdir(path.c_str(), 0755); break;
        case 2: if (symlink("somewhere/else", path.c_str())) {} break;
        case 3:
          if (auto other = any(S_IFREG)) {
            if (link((a_ / *other).c_str(), path.c_str())) {}
            break;
          }
          [[fallthrough]];
        default: spill(path, text(pick(300)));
      }
    }
    take_snapshot();
    for (auto& [name, e] : history_.back()) {
      e.inode->base = S_ISREG(e.st.st_mode) ? slurp(a_ / name) : "";
      e.inode->modes = {e.st.st_mode};
    }
    durable_names_ = 0;
  }

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

  // A crash-consistent state in directory `b`; `latest`: of all names, the latest.
  void crash(const TempDir& b, bool latest) {
    std::size_t from = latest ? history_.size() - 1 : durable_names_;
    const Snapshot& s = history_[from + pick(history_.size() - from)];
    numbers_.clear();
    std::map<Inode*, std::string> first;
    for (const auto& [name, e] : s) {
      std::string path = b / name;
      Inode& inode = *e.inode;
      if (S_ISDIR(e.st.st_mode)) {
        mkdir(path.c_str(), 0700);
      } else if (auto [it, fresh] = first.emplace(&inode, path); !fresh) {
        if (link(it->second.c_str(), path.c_str())) abort();
        continue;
      } else if (S_ISLNK(e.st.st_mode)) {
        if (symlink(e.target.c_str(), path.c_str())) abort();
      } else if (S_ISFIFO(e.st.st_mode)) {
        if (mkfifo(path.c_str(), 0600)) abort();
      } else {
        std::string content = inode.base;
        bool none = pick(4) == 0, all = pick(4) == 0;
        for (const auto& op : inode.ops)
          if (op.durable || all || (!none && pick(2))) apply(content, op);
        spill(path, content);
      }
      if (!S_ISLNK(e.st.st_mode)) chmod(path.c_str(), inode.modes[pick(inode.modes.size())] & 07777);
      struct stat st{};
      lstat(path.c_str(), &st);
      numbers_[st.st_ino] = {inode.number, st.st_mode & S_IFMT};
    }
  }

  ReplayOptions options(bool same_inodes) {
    ReplayOptions o;
    o.ino_of = [this, same_inodes](const struct stat& st) -> std::uint64_t {
      auto it = numbers_.find(st.st_ino);
      if (!same_inodes || it == numbers_.end()) return 1000000 + st.st_ino;
      return it->second.first;
    };
    return o;
  }

  const Journal& journal() const { return journal_; }
  const std::string& path() const { return a_.path(); }
  std::string log() const { return log_; }
  std::size_t pick(std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(rng_); }

 private:
  std::string text(std::size_t n) {
    std::string s(n, ' ');
    for (auto& c : s) c = static_cast<char>('a' + pick(26));
    return s;
  }

  std::optional<std::string> any(mode_t kind, bool exclude = false) {
    std::vector<std::string> names;
    for (const auto& [name, st] : names_below(a_.path()))
      if (kind == 0 || ((st.st_mode & S_IFMT) == kind) != exclude) names.push_back(name);
    if (names.empty()) return std::nullopt;
    return names[pick(names.size())];
  }

  // Few names, so that they meet often.
  std::string fresh_name() {
    std::string leaf(1, static_cast<char>('a' + pick(6)));
    auto dir = any(S_IFDIR);
    return dir && pick(2) ? *dir + "/" + leaf : leaf;
  }

  std::shared_ptr<Inode>& inode(ino_t real) { return inodes_[real]; }

  InodeKey key(const std::string& name) {
    struct stat st{};
    lstat((a_ / name).c_str(), &st);
    return key(st);
  }

  InodeKey key(const struct stat& st) {
    auto& i = inode(st.st_ino);
    if (!i) {
      i = std::make_shared<Inode>();
      i->modes = {st.st_mode};
      if (free_.empty() || pick(3) == 0) {
        i->number = ++last_number_;
      } else {
        i->number = free_.back();
        free_.pop_back();
      }
    }
    return {77, i->number};
  }

  void freed(const struct stat& st) {
    auto it = inodes_.find(st.st_ino);
    if (it == inodes_.end()) return;
    free_.push_back(it->second->number);
    inodes_.erase(it);
  }

  NodeKind kind(const struct stat& st) {
    if (S_ISDIR(st.st_mode)) return NodeKind::Directory;
    if (S_ISLNK(st.st_mode)) return NodeKind::Symlink;
    return S_ISFIFO(st.st_mode) ? NodeKind::Fifo : NodeKind::Regular;
  }

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

  void record(ino_t real, DataOp op) { inode(real)->ops.push_back(std::move(op)); }

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

  void settle_data(Inode& i) {
    for (const auto& op : i.ops) apply(i.base, op);
    i.ops.clear();
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

  void take_snapshot() {
    Snapshot s;
    for (const auto& [name, st] : names_below(a_.path())) {
      key(st);
      Entry e{st, "", inode(st.st_ino)};
      if (S_ISLNK(st.st_mode)) {
        char target[256];
        ssize_t n = readlink((a_ / name).c_str(), target, sizeof target);
        e.target.assign(target, static_cast<std::size_t>(n));
      }
      s[name] = e;
    }
    history_.push_back(std::move(s));
    if (std::exchange(durable_next_, false)) durable_names_ = history_.size() - 1;
  }

 public:
  ~World() {
    for (auto& [ino, fd] : held_) close(fd);
  }

 private:
  std::mt19937 rng_;
  TempDir a_;
  Journal journal_;
  std::map<ino_t, std::shared_ptr<Inode>> inodes_;
  std::uint64_t last_number_ = 100;
  std::vector<std::uint64_t> free_;
  std::map<ino_t, int> held_;
  std::vector<Snapshot> history_;
  std::size_t durable_names_ = 0;
  bool durable_next_ = false;
  std::map<ino_t, std::pair<std::uint64_t, mode_t>> numbers_;
  std::string log_;
};

unsigned seeds(unsigned otherwise) {
  const char* env = getenv("SUPERVISE_SEEDS");
  return env ? static_cast<unsigned>(atoi(env)) : otherwise;
}

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
