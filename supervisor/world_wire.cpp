#include "supervisor/world_wire.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace supervise {
namespace {

constexpr std::size_t kMaxFds = 250;

}  // namespace

std::string OpenSpec::encode() const {
  WireWriter w;
  w.string(path);
  w.number(flags);
  w.number(static_cast<std::int64_t>(device));
  w.number(static_cast<std::int64_t>(inode));
  w.number(offset);
  return w.take();
}

Result<OpenSpec> OpenSpec::decode(const std::string& bytes) {
  WireReader r(bytes);
  OpenSpec spec;
  spec.path = r.string();
  spec.flags = static_cast<int>(r.number());
  spec.device = static_cast<dev_t>(r.number());
  spec.inode = static_cast<ino_t>(r.number());
  spec.offset = r.number();
  if (!r.good()) return plain_error("the world's init got a malformed request");
  return spec;
}

Status send_packet(int socket, const InitMessage& message, const std::vector<int>& fds,
                   pid_t credentials, int flags) {
  if (fds.size() > kMaxFds) return errno_error(E2BIG, "too many descriptors for one process");
  iovec iov{const_cast<InitMessage*>(&message), sizeof message};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int)) + CMSG_SPACE(sizeof(ucred))>
      control{};
  msghdr header{};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  std::size_t used = 0;
  if (!fds.empty()) {
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(part), fds.data(), fds.size() * sizeof(int));
    used += CMSG_SPACE(fds.size() * sizeof(int));
    part = reinterpret_cast<cmsghdr*>(control.data() + used);
  }
  if (credentials != 0) {
    ucred who{credentials, geteuid(), getegid()};
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_CREDENTIALS;
    part->cmsg_len = CMSG_LEN(sizeof who);
    memcpy(CMSG_DATA(part), &who, sizeof who);
    used += CMSG_SPACE(sizeof who);
  }
  header.msg_controllen = used;
  if (used == 0) header.msg_control = nullptr;
  while (sendmsg(socket, &header, MSG_NOSIGNAL | flags) < 0) {
    if (errno == EINTR) continue;
    return errno_error("send to the other end of the world's socket");
  }
  return {};
}

Result<Packet> receive_packet(int socket, int flags) {
  Packet packet;
  iovec iov{&packet.message, sizeof packet.message};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int)) + CMSG_SPACE(sizeof(ucred))>
      control{};
  msghdr header{};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t n;
  while ((n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | flags)) < 0) {
    if (errno == EINTR) continue;
    return errno_error("receive from the world's socket");
  }
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_RIGHTS) {
      std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd;
        memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
        packet.fds.emplace_back(fd);
      }
    } else if (part->cmsg_type == SCM_CREDENTIALS) {
      ucred who;
      memcpy(&who, CMSG_DATA(part), sizeof who);
      packet.credentials = who.pid;
    }
  }
  if (n == 0) return errno_error(EPIPE, "the other end of the world's socket is gone");
  if (n != sizeof packet.message) return errno_error(EPROTO, "message of a wrong size");
  return packet;
}

Result<UniqueFd> payload_fd(const std::string& bytes) {
  UniqueFd fd(memfd_create("supervise-request", MFD_CLOEXEC));
  if (!fd) return errno_error("memfd_create");
  std::size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = pwrite(fd.get(), bytes.data() + done, bytes.size() - done,
                       static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return errno_error("write a request for the world's init");
    done += static_cast<std::size_t>(n);
  }
  return fd;
}

Result<std::string> payload_bytes(int fd) {
  std::string bytes;
  std::array<char, 65536> chunk;
  for (;;) {
    ssize_t n = pread(fd, chunk.data(), chunk.size(), static_cast<off_t>(bytes.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read a request");
    if (n == 0) return bytes;
    bytes.append(chunk.data(), static_cast<std::size_t>(n));
  }
}

void WireWriter::number(std::int64_t value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void WireWriter::string(std::string_view value) {
  number(static_cast<std::int64_t>(value.size()));
  bytes_.append(value);
}

void WireWriter::strings(const std::vector<std::string>& values) {
  number(static_cast<std::int64_t>(values.size()));
  for (const auto& value : values) string(value);
}

std::int64_t WireReader::number() {
  std::int64_t value = 0;
  if (rest_.size() < sizeof value) {
    good_ = false;
    return 0;
  }
  memcpy(&value, rest_.data(), sizeof value);
  rest_.remove_prefix(sizeof value);
  return value;
}

std::string WireReader::string() {
  auto size = static_cast<std::uint64_t>(number());
  if (!good_ || size > rest_.size()) {
    good_ = false;
    return {};
  }
  std::string value(rest_.substr(0, size));
  rest_.remove_prefix(size);
  return value;
}

std::vector<std::string> WireReader::strings() {
  std::vector<std::string> values;
  for (auto n = number(); n > 0 && good_; --n) values.push_back(string());
  return values;
}

}  // namespace supervise
