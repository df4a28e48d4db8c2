#include "supervisor/activate_fast.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace supervise {
namespace {

constexpr int kPatienceMs = 600000;

// control_place.cpp says where; only the two common places are looked for here.
bool socket_of(const char* name, char** environment, sockaddr_un& address) {
  address.sun_family = AF_UNIX;
  static constexpr char kVariable[] = "SUPERVISE_RUNDIR=";
  const char* dir = nullptr;
  for (char** e = environment; *e != nullptr; ++e)
    if (strncmp(*e, kVariable, sizeof kVariable - 1) == 0) dir = *e + sizeof kVariable - 1;
  if (dir == nullptr) dir = geteuid() == 0 ? "/run/supervise" : nullptr;
  if (dir == nullptr || dir[0] != '/') return false;
  const std::size_t a = strlen(dir), b = strlen(name);
  if (a + b + 7 > sizeof address.sun_path) return false;
  for (const char* c = name; *c != 0; ++c)
    if (*c == '/') return false;
  char* at = address.sun_path;
  memcpy(at, dir, a);
  at[a] = '/';
  memcpy(at + a + 1, name, b);
  memcpy(at + a + 1 + b, ".sock", 6);
  return true;
}

bool put(int fd, const char* text, std::size_t n) {
  while (n > 0) {
    const ssize_t done = write(fd, text, n);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return false;
    text += done;
    n -= static_cast<std::size_t>(done);
  }
  return true;
}

// A JSON string's content from behind its opening quote; the place behind the closing one, or nullptr.
const char* unquote(const char* at, const char* end, char*& out) {
  for (; at < end && *at != '"'; ++at) {
    if (*at != '\\') {
      *out++ = *at;
      continue;
    }
    if (++at == end) return nullptr;
    switch (*at) {
      case 'n': *out++ = '\n'; break;
      case 't': *out++ = '\t'; break;
      case '"': case '\\': case '/': *out++ = *at; break;
      default: *out++ = '?'; if (*at == 'u' && end - at > 4) at += 4;
    }
  }
  return at < end ? at + 1 : nullptr;
}

// A flat object as lines "key: value"; false when it is not flat.
bool lines_of(const char* at, const char* end, char*& out) {
  while (at < end && *at == '"') {
    at = unquote(at + 1, end, out);
    if (at == nullptr || at == end || *at++ != ':') return false;
    *out++ = ':';
    *out++ = ' ';
    if (*at == '"') {
      at = unquote(at + 1, end, out);
      if (at == nullptr) return false;
    } else {
      if (*at == '{' || *at == '[') return false;
      while (at < end && *at != ',' && *at != '}') *out++ = *at++;
    }
    *out++ = '\n';
    if (at < end && *at == ',') ++at;
  }
  return at < end && *at == '}';
}

}  // namespace

std::optional<int> activate_fast(int argc, char** argv, char** environment) {
  if (argc != 3 || strcmp(argv[1], "activate") != 0 || argv[2][0] == '-' || argv[2][0] == 0) return std::nullopt;
  sockaddr_un address{};
  if (!socket_of(argv[2], environment, address)) return std::nullopt;
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    if (fd >= 0) close(fd);
    return std::nullopt;
  }
  static constexpr char kAsk[] = "{\"command\":\"activate\"}\n";
  if (send(fd, kAsk, sizeof kAsk - 1, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof kAsk - 1)) {
    close(fd);
    return std::nullopt;
  }
  static char in[16 << 10], out[2 * sizeof in + 64];
  std::size_t n = 0;
  while (n < sizeof in && (n == 0 || in[n - 1] != '\n')) {
    pollfd p{fd, POLLIN, 0};
    const int ready = poll(&p, 1, kPatienceMs);
    if (ready < 0 && errno == EINTR) continue;
    const ssize_t got = ready > 0 ? recv(fd, in + n, sizeof in - n, 0) : 0;
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      const char* why = ready == 0 ? "supervise: the supervisor did not answer in time\n"
                                   : "supervise: the supervisor ended without an answer to activate\n";
      put(2, why, strlen(why));
      return 1;
    }
    n += static_cast<std::size_t>(got);
  }
  // {"body":{...},"ok":true} or {"error":"...","ok":false}, as reply_line() writes it.
  const char* end = in + n;
  char* text = out;
  static constexpr char kBody[] = "{\"body\":{", kError[] = "{\"error\":\"";
  if (n > sizeof kBody && memcmp(in, kBody, sizeof kBody - 1) == 0 && lines_of(in + sizeof kBody - 1, end, text))
    return put(1, out, static_cast<std::size_t>(text - out)) ? 0 : 125;
  text = out;
  if (n > sizeof kError && memcmp(in, kError, sizeof kError - 1) == 0) {
    for (const char* part : {"supervise: activate ", static_cast<const char*>(argv[2]), ": "}) {
      const std::size_t size = strlen(part);
      memcpy(text, part, size);
      text += size;
    }
    if (unquote(in + sizeof kError - 1, end, text) != nullptr) {
      *text++ = '\n';
      put(2, out, static_cast<std::size_t>(text - out));
      return 1;
    }
  }
  // Of another form: as it came.
  put(1, in, n);
  return memmem(in, n, "\"ok\":true", 9) != nullptr ? 0 : 1;
}

}  // namespace supervise
