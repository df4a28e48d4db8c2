#include "restore/image_needs.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <cstring>

#include "restore/image_store.h"
#include "restore/protobuf_walk.h"

namespace supervise {
namespace {

constexpr std::uint32_t kCommonMagic = 0x54564319, kFilesMagic = 0x56303138;
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
  const auto word_at = [&](std::size_t at) {
    std::uint32_t w = 0;
    memcpy(&w, bytes.data() + at, sizeof w);
    return w;
  };
  const auto malformed = [](std::size_t at) {
    return plain_error(fmt::format("files.img: not what CRIU writes, at byte {}", at));
  };
  if (bytes.size() < 8 || word_at(0) != kCommonMagic || word_at(4) != kFilesMagic) return malformed(0);
  ImageNeeds needs;
  for (std::size_t at = 8; at < bytes.size();) {
    if (bytes.size() - at < 4 || word_at(at) > bytes.size() - at - 4) return malformed(at);
    const std::uint32_t size = word_at(at);
    const auto entry = proto_fields(std::string_view(bytes).substr(at + 4, size));
    if (!entry) return malformed(at);
    for (const auto& f : *entry) {
      if (f.number != kReg && f.number != kInet && f.number != kUnix) continue;
      const auto fields = proto_fields(f.bytes);
      if (!fields) return malformed(at);
      if (f.number == kInet) add_inet(*fields, needs);
      if (f.number == kUnix) add_unix(*fields, needs);
      const ProtoField* name = proto_find(*fields, 6);
      if (f.number == kReg && name && (number(*fields, 2) & O_ACCMODE) != O_RDONLY)
        needs.written.emplace_back(name->bytes);
    }
    at += 4 + size;
  }
  return needs;
}

Result<ImageNeeds> image_needs(const std::string& image_dir) {
  ASSIGN_OR_RETURN(const std::string bytes, read_small_file(image_dir + "/files.img"));
  auto needs = needs_in_files_img(bytes);
  if (!needs) return needs.error().with(fmt::format("image {}", image_dir));
  return needs;
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
