// A worker that changes names.

#include "../writer.h"

namespace writer {
namespace {

// Names: mkdir, create, unlink, link, symlink, relative paths, truncation, allocation, getdents.
struct Names : Worker {
  int top = -1, kept = -1;
  Names() : Worker("names") {}
  void open_all() override {
    ok("mkdir", mkdir(in("names").c_str(), 0755), 0);
    ok("chdir", chdir(in("names").c_str()), 0);
    top = fd("open(.)", open(".", O_RDONLY | O_DIRECTORY));
    kept = fd("open kept", open("kept", O_RDWR | O_CREAT, 0600));
  }
  void put(const char* path, const std::string& data, int flags) {
    int f = fd(path, open(path, flags, 0644));
    ok("write", write(f, data.data(), data.size()), (long)data.size());
    if (data.size() % 2) ok("fsync", fsync(f), 0);
    close_fd(f);
  }
  void round(long r) override {
    Random random(seed, 8, r);
    const std::string box = "box" + std::to_string(r % 4), item = box + "/item" + std::to_string(r);
    if (r < 4) ok("mkdir", mkdirat(top, box.c_str(), 0750), 0);
    put(item.c_str(), bytes(random, random.below(7000)), O_WRONLY | O_CREAT | O_EXCL);
    put("scratch", bytes(random, 500), O_RDWR | O_CREAT | O_TRUNC);
    pace(4);
    const std::string linked = "link" + std::to_string(r);
    ok("link", link("scratch", linked.c_str()), 0);
    ok("unlink", unlink("scratch"), 0);
    put(linked.c_str(), "tail of " + linked, O_WRONLY | O_APPEND);
    ok("symlink", symlink(item.c_str(), ("sym" + std::to_string(r)).c_str()), 0);
    if (r >= 2) {
      ok("unlink", unlink(("link" + std::to_string(r - 2)).c_str()), 0);
      ok("unlinkat", unlinkat(top, ("sym" + std::to_string(r - 2)).c_str(), 0), 0);
    }
    pace(4);
    int f = fd("creat", creat((box + "/sized").c_str(), 0600));
    const long size = 1000 + random.below(50000);
    ok("ftruncate up", ftruncate(f, size), 0);
    ok("ftruncate down", ftruncate(f, size / 2), 0);
    ok("fallocate", fallocate(f, 0, 0, size), 0);
    const std::string data = bytes(random, 300);
    ok("pwrite", pwrite(f, data.data(), data.size(), size - 100), 300);
    ok("lseek(SEEK_END)", lseek(f, 0, SEEK_END), size + 200);
    close_fd(f);
    const std::string line_ = "kept in round " + std::to_string(r) + "\n";
    ok("write kept", write(kept, line_.data(), line_.size()), (long)line_.size());
    if (r % 8 == 7) {
      ok("rename directory", rename("box3", "moved"), 0);
      pace(4);
      ok("rename back", rename("moved", "box3"), 0);
    }
    if (r % 3 == 0) ok("fsync of the directory", fsync(top), 0);
    char here[4096];
    ok("getcwd", getcwd(here, sizeof here) && std::string(here).ends_with("/names"), 1);
    std::error_code error;
    long entries = std::distance(fs::directory_iterator("box" + std::to_string(r % 4), error), fs::directory_iterator());
    ok("getdents64", entries, r / 4 + 2);
  }
  void close_all() override { ok("fsync", fsync(kept) | fsync(top), 0), close_fd(kept), close_fd(top), ok("chdir", chdir("/"), 0); }
};

}  // namespace

Worker* names() { return new Names; }

}  // namespace writer
