// Directory trees for the replay tests: build, describe, compare.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "supervisor/base/unique_fd.h"
#include "supervisor/journal.h"

namespace supervise::test {

class TempDir {
 public:
  TempDir() {
    // In memory where possible: the tests fsync a lot.
    const char* env = getenv("SUPERVISE_TEST_DIR");
    path_ = env ? env : access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    path_ += "/supervise-test-XXXXXX";
    if (!mkdtemp(path_.data())) abort();
  }
  ~TempDir() {
    nftw(path_.c_str(), [](const char* p, const struct stat*, int, FTW*) { return remove(p); }, 16,
         FTW_DEPTH | FTW_PHYS);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const {
    return name.empty() ? path_ : path_ + "/" + name;
  }
  UniqueFd open_root() const { return UniqueFd(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }

 private:
  std::string path_;
};

inline std::string slurp(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string out;
  char buf[65536];
  ssize_t n;
  while (fd && (n = read(fd.get(), buf, sizeof buf)) > 0) out.append(buf, static_cast<std::size_t>(n));
  return out;
}

inline void spill(const std::string& path, std::string_view content, int flags = O_TRUNC) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644));
  if (!fd || write(fd.get(), content.data(), content.size()) !=
                 static_cast<ssize_t>(content.size()))
    abort();
}

inline std::span<const std::byte> bytes(std::string_view s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

inline InodeKey key_of(const std::string& path) {
  struct stat st{};
  if (lstat(path.c_str(), &st) != 0) abort();
  return {st.st_dev, st.st_ino};
}

// Every name below a directory with its lstat; parents first.
inline std::map<std::string, struct stat> names_below(const std::string& root,
                                                      const std::string& dir = "") {
  std::map<std::string, struct stat> out;
  std::string path = dir.empty() ? root : root + "/" + dir;
  std::unique_ptr<DIR, int (*)(DIR*)> d(opendir(path.c_str()), closedir);
  while (dirent* e = d ? readdir(d.get()) : nullptr) {
    std::string leaf = e->d_name;
    if (leaf == "." || leaf == "..") continue;
    std::string name = dir.empty() ? leaf : dir + "/" + leaf;
    struct stat st{};
    lstat((root + "/" + name).c_str(), &st);
    out[name] = st;
    if (S_ISDIR(st.st_mode)) out.merge(names_below(root, name));
  }
  return out;
}

// One line a name: kind, mode, owner, size, content, link target, and the first name of the same
// inode. Equal trees have equal descriptions.
inline std::map<std::string, std::string> describe(const std::string& root) {
  std::map<std::string, std::string> out;
  std::map<ino_t, std::string> first;
  for (const auto& [name, st] : names_below(root)) {
    std::string path = root + "/" + name;
    char head[128];
    snprintf(head, sizeof head, "%o uid %u gid %u ", st.st_mode, st.st_uid, st.st_gid);
    std::string line = head;
    if (S_ISREG(st.st_mode)) line += "size " + std::to_string(st.st_size) + " '" + slurp(path) + "'";
    if (S_ISLNK(st.st_mode)) {
      char target[4096];
      ssize_t n = readlink(path.c_str(), target, sizeof target);
      line += "-> " + std::string(target, n > 0 ? static_cast<std::size_t>(n) : 0);
    }
    if (!S_ISDIR(st.st_mode)) line += " same as " + first.emplace(st.st_ino, name).first->second;
    out[name] = line;
  }
  return out;
}

// "" when equal, otherwise the differences.
inline std::string differences(const std::string& want, const std::string& got) {
  auto a = describe(want), b = describe(got);
  std::string out;
  auto shorten = [](std::string s) {
    for (auto& c : s)
      if (c == '\0') c = '.';
    return s.substr(0, 300);
  };
  for (const auto& [name, line] : a) {
    auto it = b.find(name);
    if (it == b.end()) out += "missing: " + name + " " + shorten(line) + "\n";
    else if (it->second != line)
      out += "differs: " + name + "\n  want " + shorten(line) + "\n  got  " + shorten(it->second) + "\n";
  }
  for (const auto& [name, line] : b)
    if (!a.contains(name)) out += "too much: " + name + " " + shorten(line) + "\n";
  return out;
}

}  // namespace supervise::test
