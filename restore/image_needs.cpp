#include "restore/image_needs.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "restore/criu_image.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "restore/protobuf_walk.h"

namespace supervise {
namespace {

constexpr std::uint32_t kRemapMagic = 0x59133954;          // remap-fpath.img
constexpr std::uint32_t kReg = 3, kInet = 4, kUnix = 16;  // of file_entry
constexpr std::uint64_t kTcpListen = 10;                  // net/tcp_states.h; unix sockets use it too

using Fields = std::vector<ProtoField>;

std::uint64_t number(const Fields& fields, std::uint32_t n) {
  const ProtoField* f = proto_find(fields, n);
  return f ? f->value : 0;
}

void add_inet(const Fields& f, ImageNeeds& needs) {
  const auto port = number(f, 7);
  if (port == 0) return;
  std::uint32_t words[4] = {};
  std::size_t n = 0;
  for (const auto& field : f)
    if (field.number == 11 && n < 4) words[n++] = static_cast<std::uint32_t>(field.value);
  const bool v6 = number(f, 3) == AF_INET6;
  char text[INET6_ADDRSTRLEN] = "?";
  inet_ntop(v6 ? AF_INET6 : AF_INET, words, text, sizeof text);
  ImageSocket socket;
  socket.address = v6 ? fmt::format("[{}]:{}", text, port) : fmt::format("{}:{}", text, port);
  socket.listens = number(f, 6) == kTcpListen || number(f, 4) == SOCK_DGRAM;
  socket.loopback = v6 ? std::string_view(text) == "::1" : std::string_view(text).starts_with("127.");
  needs.bound.push_back(std::move(socket));
}

void add_unix(const Fields& f, ImageNeeds& needs) {
  const ProtoField* name = proto_find(f, 11);
  if (!name || name->bytes.empty()) return;
  std::string text(name->bytes);
  if (text[0] == '\0') text = "@" + text.substr(1);
  else if (text.back() == '\0') text.pop_back();
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ') c = '?';
  needs.bound.push_back({"unix:" + text, number(f, 4) == kTcpListen, true});
}

}  // namespace

Result<ImageNeeds> needs_in_files_img(const std::string& bytes) {
  ImageNeeds needs;
  RETURN_IF_ERROR(for_each_entry("files.img", bytes, kFilesMagic, [&](std::string_view whole) {
    const auto entry = proto_fields(whole);
    if (!entry) return false;
    for (const auto& f : *entry) {
      if (f.number != kReg && f.number != kInet && f.number != kUnix) continue;
      const auto fields = proto_fields(f.bytes);
      if (!fields) return false;
      if (f.number == kInet) add_inet(*fields, needs);
      if (f.number == kUnix) add_unix(*fields, needs);
      const ProtoField* name = proto_find(*fields, 6);
      if (f.number != kReg || !name) continue;
      if ((number(*fields, 2) & O_ACCMODE) != O_RDONLY) needs.written.emplace_back(name->bytes);
      ImageRegular file{std::string(name->bytes), number(*fields, 1), {}};
      if (const ProtoField* bytes_of = proto_find(*fields, 8)) file.size = bytes_of->value;
      needs.files.push_back(std::move(file));
    }
    return true;
  }));
  return needs;
}

Result<ImageNeeds> image_needs(const std::string& image_dir) {
  ASSIGN_OR_RETURN(const std::string bytes, read_small_file(image_dir + "/files.img"));
  auto needs = needs_in_files_img(bytes);
  if (!needs) return needs.error().with(fmt::format("image {}", image_dir));
  // Deleted files and the like are made anew from the image: remap_file_path_entry.orig_id.
  if (auto remaps = read_small_file(image_dir + "/remap-fpath.img")) {
    std::set<std::uint64_t> own;
    RETURN_IF_ERROR(for_each_entry("remap-fpath.img", *remaps, kRemapMagic, [&](std::string_view whole) {
      const auto entry = proto_fields(whole);
      if (entry) own.insert(number(*entry, 1));
      return entry.has_value();
    }));
    std::erase_if(needs->files, [&](const ImageRegular& f) { return own.contains(f.id); });
  }
  return needs;
}

std::vector<std::string> missing_here(const ImageNeeds& needs, const Manifest& manifest) {
  std::vector<std::string> why;
  std::set<std::string> streams, seen;
  for (const ImageStdio& s : manifest.stdio) streams.insert("/" + s.id);
  for (const ImageRegular& f : needs.files) {
    const bool elsewhere = std::any_of(manifest.paths.begin(), manifest.paths.end(), [&](const ImagePath& p) {
      return f.path == p.place || f.path.starts_with(p.place + "/");
    });
    if (elsewhere || !f.path.starts_with('/') || streams.contains(f.path) || !seen.insert(f.path).second) continue;
    // Devices are there on every host; what lies in /dev/shm is a file like others.
    const bool device = f.path.starts_with("/dev/") && !f.path.starts_with("/dev/shm/");
    if (device || f.path.starts_with("/proc/") || f.path.starts_with("/sys/") || f.path.starts_with("/memfd:") ||
        f.path.starts_with("/SYSV") || f.path == kGenerationFile)
      continue;
    struct stat st {};
    if (stat(f.path.c_str(), &st) != 0) {
      why.push_back(errno_error(fmt::format("the application has {} open, outside of the declared paths", f.path)).message());
    } else if (S_ISREG(st.st_mode) && f.size && static_cast<std::uint64_t>(st.st_size) != *f.size) {
      why.push_back(fmt::format("the application has {} open, outside of the declared paths: {} bytes there, {} here", f.path,
                                *f.size, st.st_size));
    }
  }
  return why;
}

std::vector<std::string> why_not_parked(const ImageNeeds& needs) {
  std::vector<std::string> why;
  for (const auto& s : needs.bound)
    if (s.listens && !s.loopback) why.push_back(fmt::format("it listens on {}", s.address));
  return why;
}

std::vector<std::string> why_not_twice(const ImageNeeds& needs, const std::vector<ImagePath>& paths) {
  std::vector<std::string> why;
  for (const auto& s : needs.bound) why.push_back(fmt::format("a socket is bound to {}", s.address));
  for (const auto& file : needs.written)
    for (const auto& p : paths)
      if (file.starts_with(p.place + "/"))
        why.push_back(fmt::format("{} on storage path {} is open for writing", file, p.name));
  return why;
}

}  // namespace supervise
