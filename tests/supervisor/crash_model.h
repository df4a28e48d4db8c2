// The model of a crash: names are as they were at some moment not before the last sync that
// ordered them (metadata is journaled in order); of the data of each file any subset of the writes
// since its last sync may be there; of its modes any since the last. Inode numbers are reused at once.
#pragma once

#include <sys/stat.h>

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "supervisor/journal.h"
#include "supervisor/replay.h"
#include "tests/supervisor/tree_fixture.h"

namespace supervise::test {

struct DataOp {
  enum Kind { Write, Truncate, Punch } kind;
  std::size_t offset = 0, length = 0;
  std::string bytes;
  bool durable = false;
};

inline void apply(std::string& content, const DataOp& op) {
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

// A real directory, what of it is durable, and what a crash may leave.
class CrashModel {
 public:
  CrashModel(unsigned seed, int initial = 8) : rng_(seed) {
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

  ~CrashModel() {
    for (auto& [ino, fd] : held_) close(fd);
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

 protected:
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

  void record(ino_t real, DataOp op) { inode(real)->ops.push_back(std::move(op)); }

  void settle_data(Inode& i) {
    for (const auto& op : i.ops) apply(i.base, op);
    i.ops.clear();
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

}  // namespace supervise::test
