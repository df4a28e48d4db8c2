// Files on two paths, and two journals of what is done to them: one is told directly, the other by ring and drain.
#pragma once

#include <sys/stat.h>

#include <list>
#include <optional>
#include <random>
#include <set>

#include "tests/supervisor/ring_fixture.h"

namespace supervise::test {

class BothJournals {
 public:
  explicit BothJournals(unsigned seed, bool content = true) : rng_(seed), direct_{Journal(content), Journal(content)} {
    for (int i = 0; i < 2; ++i) {
      StoragePath p = storage_path("p" + std::to_string(i));
      p.journal = Journal(content);
      paths_.add(std::move(p));
    }
    content_ = content;
  }

  std::string log() const { return log_; }
  std::uint64_t records() const { return ring_.records(); }
  std::size_t pick(std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(rng_); }

  bool same(std::string* why) {
    for (std::size_t p = 0; p < 2; ++p) {
      const std::string a = describe(direct_[p]), b = describe(paths_.all()[p]->journal);
      if (a != b) *why = "path " + std::to_string(p) + ": told directly\n" + a + "by the ring\n" + b;
    }
    return why->empty();
  }

 protected:
  struct File {
    std::size_t path;
    std::uint64_t ino, size = 0;
    std::set<std::string> names;
    std::string shown;  // the name that its descriptors show
    bool dir = false, registered = false;
    unsigned made = 0;  // 1 + number that the stub gave it
    bool deleted() const { return names.empty(); }
    // It lives on under another name than its descriptors show: the slow way's.
    bool stale() const { return !names.empty() && !names.contains(shown); }
  };
  using It = std::list<File>::iterator;

  Journal& mine(std::size_t p) { return paths_.all()[p]->journal; }
  StoragePath& path(std::size_t p) { return *paths_.all()[p]; }
  // What happens in the supervisor's own way is told to both alike.
  template <class F>
  void slow(std::size_t p, F f) {
    drain();
    f(direct_[p]);
    f(mine(p));
    if (pick(8)) ring_.mark(path(p));
  }
  void drain() {
    auto s = ring_.drain(all_alive);
    ASSERT_TRUE(s.ok()) << s.error().message();
    std::string why;
    ASSERT_TRUE(same(&why)) << why << log_;
  }

  std::string fresh(std::size_t p) {
    std::string leaf(1, static_cast<char>('a' + pick(5)));
    std::vector<std::string> dirs{""};
    for (const File& f : files_)
      if (f.dir && f.path == p && !f.names.empty()) dirs.push_back(*f.names.begin() + "/");
    return dirs[pick(dirs.size())] + leaf;
  }
  It by_name(std::size_t p, const std::string& name) {
    return std::ranges::find_if(files_, [&](const File& f) { return f.path == p && f.names.contains(name); });
  }
  It any(bool dir = false, bool named = false) {
    std::vector<It> all;
    for (auto it = files_.begin(); it != files_.end(); ++it)
      if (it->dir == dir && (!named || !it->names.empty())) all.push_back(it);
    return all.empty() ? files_.end() : all[pick(all.size())];
  }
  unsigned number(File& f) {
    if (f.made && !f.registered && pick(2)) return f.made - 1;
    drain();  // as the supervisor does before it gives numbers
    f.registered = true;
    return ring_.register_file(path(f.path), f.ino, f.shown, f.deleted(), f.size).value();
  }
  void renew() {
    drain();
    ring_.reset();
    for (File& f : files_) {
      f.registered = false;
      f.made = 0;
    }
    entered_.clear();
  }

  // The number of the directory that the name is in, when the stub may change it.
  std::optional<unsigned> shared_directory(std::size_t p, const std::string& name) {
    if (pick(3) == 0) return std::nullopt;
    const auto slash = name.rfind('/');
    const std::string dir = slash == name.npos ? "" : name.substr(0, slash);
    std::uint64_t ino = 1;
    if (!dir.empty()) {
      const It d = by_name(p, dir);
      if (d == files_.end() || !d->dir) return std::nullopt;
      ino = d->ino;
    }
    if (!ring_.find(path(p), ino)) drain();
    EXPECT_TRUE(ring_.register_directory(path(p), ino, dir));
    EXPECT_EQ(ring_.directory(path(p), dir), ino);
    return ring_.find(path(p), ino);
  }
  static std::string leaf(const std::string& name) { return name.substr(name.rfind('/') + 1); }
  void change(RecordKind kind, unsigned dir, NameChange facts, const std::string& name, const std::string& second = "") {
    const std::string a = leaf(name), b = second.empty() ? "" : leaf(second);
    facts.name = static_cast<std::uint16_t>(a.size());
    facts.second = static_cast<std::uint16_t>(b.size());
    const Part parts[kParts] = {{&facts, sizeof facts}, {a.data(), a.size()}, {b.data(), b.size()}};
    bool half = false;
    ASSERT_TRUE(append_change(&memory_.control(), memory_.ring(), &writer_.area, writer_.env, kind, 0, dir, parts, &half));
  }
  static NameChange facts_of(const File& f) {
    NameChange facts{};
    facts.ino = f.ino;
    facts.mode = S_IFREG | 0600;
    facts.links = static_cast<std::uint32_t>(f.names.size());
    facts.uid = facts.gid = 1;
    return facts;
  }

  void move(std::size_t p, const std::string& from, const std::string& to) {
    for (File& f : files_) {
      if (f.path != p) continue;
      const auto moved = [&](const std::string& n) {
        if (n == from) return to;
        return n.starts_with(from + "/") ? to + n.substr(from.size()) : n;
      };
      std::set<std::string> names;
      for (const auto& n : f.names) names.insert(moved(n));
      if (f.names.contains(f.shown)) f.shown = moved(f.shown);
      f.names = names;
    }
  }
  bool has_below(std::size_t p, const std::string& name) {
    return std::ranges::any_of(files_, [&](const File& f) {
      return f.path == p && std::ranges::any_of(f.names, [&](const auto& n) { return n.starts_with(name + "/"); });
    });
  }

  void note_deleted(Journal& j, const File& f) {
    if (!f.deleted()) return;
    const FileState* s = j.find({0, f.ino});
    if (s && std::ranges::find(s->names, f.shown) != s->names.end()) j.unlinked(f.shown);
  }

  std::string text() {
    std::string s(1 + pick(60), ' ');
    for (char& c : s) c = static_cast<char>('a' + pick(26));
    return s;
  }

  // A sync that has begun.
  struct Entered {
    std::size_t path;
    std::uint64_t ino;
    unsigned number;
    Area area;
    Seq direct;
    bool data_only;
  };

  std::mt19937 rng_;
  bool content_ = true;
  Memory memory_;
  StoragePaths paths_;
  RingJournal ring_{memory_.control(), memory_.ring(), paths_};
  Writer writer_{memory_};
  std::vector<Journal> direct_;
  std::list<File> files_;
  std::vector<Entered> entered_;
  std::uint64_t last_dir_ = 1000;
  std::string log_;
};

}  // namespace supervise::test
