// What goes through the ring must leave a journal as if it had been told to it directly, whenever the ring is
// drained.
#include "tests/supervisor/both_journals.h"
#include "tests/supervisor/seeds.h"

namespace supervise {
namespace {

using namespace test;

// Random calls on a few files.
class Both : public BothJournals {
 public:
  using BothJournals::BothJournals;

  void step() {
    switch (pick(30)) {
      case 0: case 1: create(); break;
      case 2: rename(pick(4) == 0); break;
      case 3: unlink(); break;
      case 4: link(); break;
      case 5: truncate(); break;
      case 6: slow_write(); break;
      case 7: slow_sync(); break;
      case 8: sync_dir(); break;
      case 9: if (pick(4) == 0) sync_all(); break;
      case 10: chmod(); break;
      case 11: close(); break;
      case 12: drain(); break;
      case 13: case 14: case 15: enter(); break;
      case 16: case 17: case 18: leave(); break;
      case 19: case 20: sync(); break;
      case 21: mkdir(); break;
      default: write(); break;
    }
  }

  void finish() {
    while (!entered_.empty()) leave();
    drain();
  }

 private:
  bool create_by_ring(std::size_t p, const std::string& name, std::uint64_t ino) {
    const auto dir = shared_directory(p, name);
    if (!dir) return false;
    log_ += "... by the stub\n";
    File f{p, ino, 0, {name}, name};
    NameChange facts = facts_of(f);
    if (pick(4)) {
      Control& c = memory_.control();
      facts.file = ++c.files_used;
      facts.description = ++c.descriptions_used;
      stub::File& file = c.files[facts.file - 1];
      file = {};
      file.ino = ino;
      file.path = static_cast<std::uint16_t>(p);
      file.flags = kNamed;
      file.dir = *dir + 1;
      file.name = name_hash(leaf(name).data(), static_cast<unsigned>(leaf(name).size()));
      remember_inode(&c, facts.file - 1);
      c.descriptions[facts.description - 1] = {static_cast<std::uint16_t>(facts.file - 1), static_cast<std::uint8_t>(p), 0};
      f.made = facts.file;
    }
    change(kCreate, *dir, facts, name);
    direct_[p].created({0, ino}, name, NodeKind::Regular, 0600, 1, 1);
    files_.push_back(f);
    return true;
  }

  void create() {
    const std::size_t p = pick(2);
    const std::string name = fresh(p);
    if (by_name(p, name) != files_.end()) return;
    std::uint64_t ino = 100 + pick(20);
    while (std::ranges::any_of(files_, [&](const File& f) { return f.path == p && f.ino == ino; })) ++ino;
    log_ += "create " + name + " " + std::to_string(ino) + "\n";
    if (create_by_ring(p, name, ino)) return;
    slow(p, [&](Journal& j) { j.created({0, ino}, name, NodeKind::Regular, 0600, 1, 1); });
    files_.push_back({p, ino, 0, {name}, name});
    if (ring_.find(path(p), ino)) number(files_.back());
  }
  void mkdir() {
    const std::size_t p = pick(2);
    const std::string name = fresh(p);
    if (by_name(p, name) != files_.end()) return;
    const std::uint64_t ino = ++last_dir_;
    log_ += "mkdir " + name + "\n";
    slow(p, [&](Journal& j) { j.created({0, ino}, name, NodeKind::Directory, 0700, 1, 1); });
    files_.push_back({p, ino, 0, {name}, name, true});
  }

  void rename(bool exchange) {
    It f = any(pick(4) == 0, true);
    if (f == files_.end()) return;
    const std::size_t p = f->path;
    const std::string from = *std::next(f->names.begin(), static_cast<std::ptrdiff_t>(pick(f->names.size())));
    std::string to = fresh(p);
    It g = by_name(p, to);
    if (exchange) {
      g = any(pick(4) == 0, true);
      if (g == files_.end() || g->path != p) return;
      to = *g->names.begin();
    }
    if (from == to || g == f || to.starts_with(from + "/") || from.starts_with(to + "/")) return;
    if (exchange && (f->dir || g->dir) && f->dir != g->dir) return;
    if (!exchange && g != files_.end() && (g->dir || f->dir)) return;
    const std::uint64_t left = g == files_.end() ? 0 : g->names.size() - 1;
    log_ += (exchange ? "exchange " : "rename ") + from + " " + to + "\n";
    const auto kind = [](const File& x) { return x.dir ? NodeKind::Directory : NodeKind::Regular; };
    const auto tell = [&](Journal& j) {
      j.seen({0, f->ino}, from, kind(*f));
      if (exchange) j.seen({0, g->ino}, to, kind(*g));
      j.renamed(from, to, exchange, g == files_.end() ? std::nullopt : std::optional(left));
    };
    const bool one_dir = from.substr(0, from.size() - leaf(from).size()) == to.substr(0, to.size() - leaf(to).size());
    const auto dir = exchange || f->dir || !one_dir ? std::nullopt : shared_directory(p, from);
    if (dir) {
      log_ += "... by the stub\n";
      NameChange facts = facts_of(*f);
      if (g != files_.end()) {
        facts.replaced_ino = g->ino;
        facts.replaced_mode = S_IFREG | 0600;
        facts.replaced_links = static_cast<std::uint32_t>(g->names.size());
      }
      change(kRename, *dir, facts, from, to);
      tell(direct_[p]);
    } else {
      slow(p, tell);
      ring_.renamed(path(p), from, to, exchange, g == files_.end() ? 0 : g->ino);
    }
    if (exchange) {
      move(p, from, "//aside");
      move(p, to, from);
      move(p, "//aside", to);
      return;
    }
    if (g != files_.end()) g->names.erase(to);
    if (g != files_.end() && left > 0) renew();
    move(p, from, to);
  }

  void unlink() {
    It f = any(pick(4) == 0, true);
    if (f == files_.end()) return;
    const std::string name = *f->names.begin();
    if (f->dir && has_below(f->path, name)) return;
    const std::uint64_t left = f->dir ? 0 : f->names.size() - 1;
    log_ += "unlink " + name + "\n";
    const auto tell = [&](Journal& j) {
      j.seen({0, f->ino}, name, f->dir ? NodeKind::Directory : NodeKind::Regular);
      j.unlinked(name, left);
    };
    const auto dir = f->dir ? std::nullopt : shared_directory(f->path, name);
    if (dir) {
      log_ += "... by the stub\n";
      change(kUnlink, *dir, facts_of(*f), name);
      tell(direct_[f->path]);
    } else {
      slow(f->path, tell);
    }
    f->names.erase(name);
    if (left == 0 && !dir) ring_.unlinked(path(f->path), name, f->ino);
    else if (left > 0) renew();
    if (f->dir) files_.erase(f);
  }

  void link() {
    It f = any(false, true);
    if (f == files_.end()) return;
    const std::string name = fresh(f->path);
    if (by_name(f->path, name) != files_.end()) return;
    log_ += "link " + *f->names.begin() + " " + name + "\n";
    slow(f->path, [&](Journal& j) {
      j.seen({0, f->ino}, *f->names.begin(), NodeKind::Regular);
      j.linked({0, f->ino}, *f->names.begin(), name);
    });
    f->names.insert(name);
  }

  // The last descriptor of a file without a name.
  void close() {
    for (auto it = files_.begin(); it != files_.end(); ++it) {
      if (!it->deleted() || std::ranges::any_of(entered_, [&](const Entered& e) { return e.ino == it->ino && e.path == it->path; }))
        continue;
      log_ += "close " + std::to_string(it->ino) + "\n";
      slow(it->path, [&](Journal& j) { j.forget({0, it->ino}); });
      files_.erase(it);
      return;
    }
  }

  void truncate() {
    It f = any();
    if (f == files_.end()) return;
    const std::uint64_t size = pick(300);
    log_ += "truncate " + f->shown + " " + std::to_string(size) + "\n";
    if (!f->stale() && pick(2)) {
      const unsigned n = number(*f);
      bool half = false;
      ASSERT_TRUE(append_resize(&memory_.control(), memory_.ring(), &writer_.area, writer_.env, n, size, &half));
      direct_[f->path].resized({0, f->ino}, f->shown, size);
      note_deleted(direct_[f->path], *f);
      f->size = size;
      return;
    }
    slow(f->path, [&](Journal& j) {
      j.resized({0, f->ino}, f->shown, size);
      note_deleted(j, *f);
    });
    f->size = size;
    ring_.resized(path(f->path), f->ino, size);
  }

  void chmod() {
    It f = any();
    if (f == files_.end() || f->deleted()) return;
    log_ += "chmod " + f->shown + "\n";
    const auto mode = static_cast<mode_t>(S_IFREG | 0600 | pick(8));
    const bool owner = pick(2);
    const auto tell = [&](Journal& j) {
      j.attributes({0, f->ino}, f->shown, mode & 07777, owner ? std::optional<uid_t>(7) : std::nullopt,
                   owner ? std::optional<gid_t>(8) : std::nullopt);
    };
    if (f->stale() || pick(2)) {
      slow(f->path, tell);
      return;
    }
    const unsigned n = number(*f);
    Attributes now{};
    now.what = owner ? kChangedMode | kChangedOwner : kChangedMode;
    now.mode = mode;
    now.uid = 7;
    now.gid = 8;
    const Part parts[kParts] = {{&now, sizeof now}, {}, {}};
    bool half = false;
    ASSERT_TRUE(append_change(&memory_.control(), memory_.ring(), &writer_.area, writer_.env, kAttributes, 0, n, parts, &half));
    tell(direct_[f->path]);
  }

  void slow_write() {
    It f = any();
    if (f == files_.end()) return;
    const std::uint64_t offset = pick(f->size + 20);
    const std::string t = text();
    const bool durable = pick(4) == 0;
    f->size = std::max(f->size, offset + t.size());
    log_ += "slow write " + f->shown + " " + std::to_string(offset) + " " + t + (durable ? " durable" : "") + "\n";
    slow(f->path, [&](Journal& j) {
      j.wrote({0, f->ino}, f->shown, offset, bytes(t), f->size, durable);
      note_deleted(j, *f);
    });
    ring_.resized(path(f->path), f->ino, f->size);
  }

  void write() {
    It f = any();
    if (f == files_.end() || f->stale()) return;
    const std::uint64_t offset = pick(3) ? pick(f->size + 20) : f->size;
    const std::string t = text();
    const bool durable = pick(10) == 0;
    const unsigned n = f->registered ? *ring_.find(path(f->path), f->ino) : number(*f);
    f->size = std::max(f->size, offset + t.size());
    log_ += "write " + f->shown + " " + std::to_string(offset) + " " + t + (durable ? " durable" : "") + "\n";
    Record* r = writer_.begin(n, offset, t.size(), content_, durable);
    ASSERT_NE(r, nullptr);
    if (content_) writer_.end(r, t);
    else commit(&writer_.area, r);
    direct_[f->path].wrote({0, f->ino}, f->shown, offset, bytes(t), f->size, durable);
    note_deleted(direct_[f->path], *f);
  }

  void enter() {
    It f = any();
    if (f == files_.end() || f->stale()) return;
    Entered e{f->path, f->ino, f->registered ? *ring_.find(path(f->path), f->ino) : number(*f), {}, 0, pick(2) == 0};
    e.area.tid = 6;
    e.direct = direct_[f->path].now();
    // The supervisor has nothing pending when a thread gets here: what it learned, it has marked.
    ring_.mark(path(0));
    ring_.mark(path(1));
    enter_sync(&memory_.control(), &e.area);
    log_ += "sync of " + f->shown + " begins\n";
    entered_.push_back(e);
  }
  void leave() {
    if (entered_.empty()) return;
    const std::size_t which = pick(entered_.size());
    Entered e = entered_[which];
    entered_.erase(entered_.begin() + static_cast<std::ptrdiff_t>(which));
    log_ += "sync of " + std::to_string(e.ino) + " ends\n";
    NoWait env;
    bool half = false;
    ASSERT_TRUE(append_sync(&memory_.control(), memory_.ring(), &e.area, env, e.number, e.area.entered, e.data_only, &half));
    direct_[e.path].synced_file({0, e.ino}, e.direct, !e.data_only);
  }
  void sync() {
    enter();
    if (!entered_.empty()) std::swap(entered_[pick(entered_.size())], entered_.back());
    leave();
  }

  void slow_sync() {
    It f = any();
    if (f == files_.end()) return;
    log_ += "slow sync of " + f->shown + "\n";
    slow(f->path, [&](Journal& j) { j.synced_file({0, f->ino}, j.now(), true); });
  }
  void sync_dir() {
    const std::size_t p = pick(2);
    It d = any(true, true);
    const std::string name = d == files_.end() || d->path != p ? "" : *d->names.begin();
    log_ += "sync of directory '" + name + "'\n";
    if (const auto dir = shared_directory(p, name.empty() ? "x" : name + "/x")) {
      ring_.mark(path(p));
      const Seq upto = direct_[p].now();
      ASSERT_TRUE(writer_.sync(*dir));
      direct_[p].synced_directory(name, upto);
      return;
    }
    slow(p, [&](Journal& j) { j.synced_directory(name, j.now()); });
  }
  void sync_all() {
    log_ += "sync of all\n";
    slow(pick(2), [&](Journal& j) { j.synced_all(j.now()); });
  }
};

TEST(RingProperty, TheRingLeavesTheJournalAsIfItWereToldDirectly) {
  std::uint64_t records = 0;
  for (unsigned seed = 0, n = seeds(400); seed < n && !testing::Test::HasFailure(); ++seed) {
    Both both(seed, seed % 5 != 0);
    const std::size_t steps = 1 + both.pick(300);
    for (std::size_t i = 0; i < steps && !testing::Test::HasFailure(); ++i) both.step();
    both.finish();
    std::string why;
    ASSERT_TRUE(both.same(&why)) << "seed " << seed << " " << why << both.log();
    if (testing::Test::HasFailure()) ADD_FAILURE() << "seed " << seed;
    records += both.records();
  }
  EXPECT_GT(records, seeds(400) * 10);
}

}  // namespace
}  // namespace supervise
