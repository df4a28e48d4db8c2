// The program `supervise`: without a C library, at a fixed address. It does what must be quick,
// `supervise activate NAME`, itself, and runs ../libexec/supervise/supervise-main for all else: loading that
// takes several times as long as an activation (docs/warm.md has figures). What it finds unusual
// (options, no socket, an answer of another form) it leaves to the other, too.
#include <linux/un.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <initializer_list>

// The compiler may call them for loops and for initializers.
extern "C" {
void* memcpy(void* to, const void* from, size_t n) {
  void* begin = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  return begin;
}
void* memset(void* to, int c, size_t n) {
  void* begin = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
  return begin;
}
}

namespace {

constexpr int kPatienceMs = 600000;
constexpr int kInterrupted = -4;  // -EINTR
constexpr char kMain[] = "/../libexec/supervise/supervise-main";

long call(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  return result;
}
long address(const void* p) { return reinterpret_cast<long>(p); }

[[noreturn]] void leave(int status) {
  for (;;) call(SYS_exit_group, status);
}

size_t length(const char* s) {
  size_t n = 0;
  while (s[n] != 0) ++n;
  return n;
}
bool same(const char* a, const char* b, size_t n) {
  for (size_t i = 0; i < n; ++i)
    if (a[i] != b[i]) return false;
  return true;
}

bool put(int fd, const char* text, size_t n) {
  while (n > 0) {
    const long done = call(SYS_write, fd, address(text), static_cast<long>(n));
    if (done == kInterrupted) continue;
    if (done < 0) return false;
    text += done;
    n -= static_cast<size_t>(done);
  }
  return true;
}

// control_place.cpp says where; only the two common places are looked for here.
bool socket_of(const char* name, char** environment, sockaddr_un& where) {
  where.sun_family = AF_UNIX;
  constexpr char kVariable[] = "SUPERVISE_RUNDIR=";
  const char* dir = nullptr;
  for (char** e = environment; *e != nullptr; ++e)
    if (same(*e, kVariable, sizeof kVariable - 1)) dir = *e + sizeof kVariable - 1;
  if (dir == nullptr) dir = call(SYS_geteuid) == 0 ? "/run/supervise" : nullptr;
  if (dir == nullptr || dir[0] != '/') return false;
  const size_t a = length(dir), b = length(name);
  if (a + b + 7 > sizeof where.sun_path) return false;
  for (const char* c = name; *c != 0; ++c)
    if (*c == '/') return false;
  char* at = where.sun_path;
  memcpy(at, dir, a);
  at[a] = '/';
  memcpy(at + a + 1, name, b);
  memcpy(at + a + 1 + b, ".sock", 6);
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
    if (at < end && *at == '"') {
      at = unquote(at + 1, end, out);
      if (at == nullptr) return false;
    } else {
      if (at == end || *at == '{' || *at == '[') return false;
      while (at < end && *at != ',' && *at != '}') *out++ = *at++;
    }
    *out++ = '\n';
    if (at < end && *at == ',') ++at;
  }
  return at < end && *at == '}';
}

char in[16 << 10], out[2 * sizeof in + 64];

// Returns when the other program is to do it.
void activate(int argc, char** argv, char** environment) {
  if (argc != 3 || !same(argv[1], "activate", 9) || argv[2][0] == '-' || argv[2][0] == 0) return;
  sockaddr_un where{};
  if (!socket_of(argv[2], environment, where)) return;
  const int fd = static_cast<int>(call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd < 0) return;
  constexpr char kAsk[] = "{\"command\":\"activate\"}\n";
  if (call(SYS_connect, fd, address(&where), sizeof where) != 0 ||
      call(SYS_sendto, fd, address(kAsk), sizeof kAsk - 1, MSG_NOSIGNAL) != static_cast<long>(sizeof kAsk - 1)) {
    call(SYS_close, fd);
    return;
  }
  size_t n = 0;
  while (n < sizeof in && (n == 0 || in[n - 1] != '\n')) {
    pollfd p{fd, POLLIN, 0};
    const long ready = call(SYS_poll, address(&p), 1, kPatienceMs);
    if (ready == kInterrupted) continue;
    const long got = ready > 0 ? call(SYS_recvfrom, fd, address(in + n), static_cast<long>(sizeof in - n)) : 0;
    if (got == kInterrupted) continue;
    if (got <= 0) {
      const char* why = ready == 0 ? "supervise: the supervisor did not answer in time\n"
                                   : "supervise: the supervisor ended without an answer to activate\n";
      put(2, why, length(why));
      leave(1);
    }
    n += static_cast<size_t>(got);
  }
  // {"body":{...},"ok":true} or {"error":"...","ok":false}, as reply_line() writes it.
  const char* end = in + n;
  char* text = out;
  constexpr char kBody[] = "{\"body\":{", kError[] = "{\"error\":\"", kOk[] = "\"ok\":true";
  if (n > sizeof kBody && same(in, kBody, sizeof kBody - 1) && lines_of(in + sizeof kBody - 1, end, text))
    leave(put(1, out, static_cast<size_t>(text - out)) ? 0 : 125);
  text = out;
  if (n > sizeof kError && same(in, kError, sizeof kError - 1)) {
    for (const char* part : {"supervise: activate ", static_cast<const char*>(argv[2]), ": "}) {
      const size_t size = length(part);
      memcpy(text, part, size);
      text += size;
    }
    if (unquote(in + sizeof kError - 1, end, text) != nullptr) {
      *text++ = '\n';
      put(2, out, static_cast<size_t>(text - out));
      leave(1);
    }
  }
  // Of another form: as it came.
  put(1, in, n);
  for (size_t i = 0; i + sizeof kOk <= n; ++i)
    if (same(in + i, kOk, sizeof kOk - 1)) leave(0);
  leave(1);
}

}  // namespace

extern "C" [[noreturn]] void launch(long* stack) {
  const int argc = static_cast<int>(stack[0]);
  char** argv = reinterpret_cast<char**>(stack + 1);
  char** environment = argv + argc + 1;
  activate(argc, argv, environment);

  static char program[4096 + sizeof kMain];
  long n = call(SYS_readlink, address("/proc/self/exe"), address(program), 4096);
  while (n > 0 && program[n - 1] != '/') --n;
  if (n > 0) {
    memcpy(program + n - 1, kMain, sizeof kMain);
    call(SYS_execve, address(program), address(argv), address(environment));
  }
  constexpr char kBroken[] = "supervise: can't run the program that belongs to it, install it again: ";
  put(2, kBroken, sizeof kBroken - 1);
  put(2, program, length(program));
  put(2, "\n", 1);
  leave(125);
}

__asm__(".globl _start\n.type _start, @function\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call launch\n  hlt\n");
