// Two trees: names, sizes, bytes, and records of several writers once each.
#include <fstream>
#include <iterator>
#include <map>
#include <vector>

#include "../writer.h"

namespace writer {
namespace {

std::string slurp(const fs::path& path) {
  std::ifstream f(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(f), {}};
}

int differences = 0;

void differ(const std::string& what) {
  if (++differences <= 40) line("DIFF %s", what.c_str());
}

// Every record of every writer once, in its writer's order, with the same bytes as expected.
std::map<std::string, std::vector<std::string>> records(const fs::path& path) {
  std::map<std::string, std::vector<std::string>> out;
  std::map<std::string, long> next;
  const std::string all = slurp(path);
  for (size_t at = 0; at < all.size();) {
    char id[16] = "";
    long sequence = -1, size = -1;
    int used = 0;
    const std::string head = all.substr(at, 64);
    if (sscanf(head.c_str(), "%15s %ld %ld%n", id, &sequence, &size, &used) != 3 || size < 0 || size > 1 << 20 ||
        at + used + 1 + size >= all.size() || all[at + used + 1 + size] != '\n') {
      differ(path.string() + ": no record at offset " + std::to_string(at) + ": " + head.substr(0, 24));
      return out;
    }
    auto& list = out[id];
    if (sequence != next[id])
      differ(path.string() + ": writer " + id + ": record " + std::to_string(sequence) + " at offset " + std::to_string(at) +
             ", expected " + std::to_string(next[id]));
    next[id] = sequence + 1;
    list.push_back(all.substr(at, used + 1 + size));
    at += used + 2 + size;
  }
  return out;
}

std::map<std::string, fs::path> tree(const fs::path& top) {
  std::map<std::string, fs::path> out;
  for (auto& e : fs::recursive_directory_iterator(top)) {
    // Not fs::relative: it follows symbolic links.
    const std::string name = e.path().lexically_relative(top).string();
    if (name != "lost+found" && !name.starts_with("lost+found/")) out[name] = e.path();
  }
  return out;
}

}  // namespace

int compare(const fs::path& got, const fs::path& expected) {
  const auto a = tree(got), b = tree(expected);
  for (auto& [name, path] : b)
    if (!a.count(name)) differ(name + ": missing");
  for (auto& [name, path] : a) {
    if (!b.count(name)) {
      differ(name + ": should not be there");
      continue;
    }
    struct stat s{}, t{};
    lstat(path.c_str(), &s), lstat(b.at(name).c_str(), &t);
    if (s.st_mode != t.st_mode) differ(name + ": other type or mode");
    if (S_ISREG(s.st_mode) && s.st_nlink != t.st_nlink) differ(name + ": " + std::to_string(s.st_nlink) + " links, expected " + std::to_string(t.st_nlink));
    if (S_ISLNK(s.st_mode) && fs::read_symlink(path) != fs::read_symlink(b.at(name))) differ(name + ": other target");
    if (!S_ISREG(s.st_mode)) continue;
    if (name == "append.log" || name == "shared.log") {
      const auto have = records(path), need = records(b.at(name));
      for (auto& [id, list] : need) {
        const auto found = have.find(id);
        const size_t n = found == have.end() ? 0 : found->second.size();
        if (n != list.size()) differ(name + ": writer " + id + " has " + std::to_string(n) + " records, expected " + std::to_string(list.size()));
        for (size_t i = 0; n == list.size() && i < n; ++i)
          if (found->second[i] != list[i]) differ(name + ": writer " + id + ": record " + std::to_string(i) + " has other bytes");
      }
      if (have.size() != need.size()) differ(name + ": other writers");
      continue;
    }
    const std::string x = slurp(path), y = slurp(b.at(name));
    if (x.size() != y.size()) differ(name + ": " + std::to_string(x.size()) + " bytes, expected " + std::to_string(y.size()));
    const auto where = std::mismatch(x.begin(), x.begin() + (long)std::min(x.size(), y.size()), y.begin()).first - x.begin();
    if ((size_t)where < std::min(x.size(), y.size())) differ(name + ": first other byte at offset " + std::to_string(where));
  }
  line("compare: %zu names, %d differences", b.size(), differences);
  return differences ? 1 : 0;
}

}  // namespace writer
