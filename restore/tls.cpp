#include "restore/tls.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/base/scope_exit.h"

namespace supervise {
namespace {

std::string ssl_reason() {
  std::string text;
  while (const unsigned long e = ERR_get_error()) {
    const char* reason = ERR_reason_error_string(e);
    if (text.empty()) text = reason ? reason : fmt::format("OpenSSL error {:#x}", e);
  }
  return text.empty() ? "unknown reason" : text;
}

std::string name_of_peer(const sockaddr* address, socklen_t size) {
  char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
  getnameinfo(address, size, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
  return fmt::format("{} port {}", host, port);
}

bool is_address(const std::string& host) {
  unsigned char raw[16];
  return inet_pton(AF_INET, host.c_str(), raw) == 1 || inet_pton(AF_INET6, host.c_str(), raw) == 1;
}

// A connected socket that does not block.
Result<UniqueFd> connect_one(const addrinfo& a, Deadline deadline) {
  UniqueFd fd(socket(a.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_error("socket");
  if (::connect(fd.get(), a.ai_addr, a.ai_addrlen) == 0) return fd;
  if (errno != EINPROGRESS) return errno_error("connect");
  for (;;) {
    pollfd p{fd.get(), POLLOUT, 0};
    const int n = poll(&p, 1, deadline.left_ms());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return errno_error(ETIMEDOUT, "connect");
    break;
  }
  int err = 0;
  socklen_t size = sizeof err;
  getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &err, &size);
  if (err != 0) return errno_error(err, "connect");
  return fd;
}

void tune(int fd) {
  const int one = 1, idle = 10, every = 5, times = 3;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
}

}  // namespace

Result<TlsContext> TlsContext::load(const std::string& dir) {
  TlsContext context;
  context.ctx_.reset(SSL_CTX_new(TLS_method()), SSL_CTX_free);
  SSL_CTX* ctx = context.ctx_.get();
  if (!ctx) return plain_error("TLS: " + ssl_reason());
  const auto failed = [&](const char* file) {
    return plain_error(fmt::format("TLS: {}/{}: {}; `supervise keys` makes these files", dir, file, ssl_reason()));
  };
  for (const char* file : {"ca.pem", "cert.pem", "key.pem"}) {
    const std::string path = dir + "/" + file;
    struct stat st{};
    if (stat(path.c_str(), &st) != 0 || access(path.c_str(), R_OK) != 0)
      return errno_error(fmt::format("TLS: {} (`supervise keys` makes it, --tls names its directory)", path));
    if (std::string(file) == "key.pem" && (st.st_mode & 077) != 0)
      return errno_error(EACCES, fmt::format("TLS: {} may be read by others: chmod 600 {}", path, path));
  }
  SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
  SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_num_tickets(ctx, 0);
  if (SSL_CTX_load_verify_file(ctx, (dir + "/ca.pem").c_str()) != 1) return failed("ca.pem");
  if (SSL_CTX_use_certificate_chain_file(ctx, (dir + "/cert.pem").c_str()) != 1) return failed("cert.pem");
  if (SSL_CTX_use_PrivateKey_file(ctx, (dir + "/key.pem").c_str(), SSL_FILETYPE_PEM) != 1) return failed("key.pem");
  if (SSL_CTX_check_private_key(ctx) != 1) return failed("key.pem");
  return context;
}

void TlsStream::Free::operator()(ssl_st* s) const {
  // Only says goodbye; nobody waits for an answer.
  SSL_shutdown(s);
  ERR_clear_error();
  SSL_free(s);
}

Status TlsStream::wait(int ssl_error, const char* doing, Deadline deadline) {
  pollfd p{fd_.get(), POLLIN, 0};
  switch (ssl_error) {
    case SSL_ERROR_WANT_READ: break;
    case SSL_ERROR_WANT_WRITE: p.events = POLLOUT; break;
    case SSL_ERROR_ZERO_RETURN: return errno_error(ECONNRESET, fmt::format("{} {}", doing, peer_));
    case SSL_ERROR_SYSCALL: return errno_error(errno != 0 ? errno : ECONNRESET, fmt::format("{} {}", doing, peer_));
    default: {
      const long verified = SSL_get_verify_result(ssl_.get());
      std::string why = ssl_reason();
      if (verified != X509_V_OK) why = X509_verify_cert_error_string(verified);
      const bool lost = why == "unexpected eof while reading";
      return errno_error(lost ? ECONNRESET : EACCES, fmt::format("{} {}: {}", doing, peer_, why));
    }
  }
  for (;;) {
    const int n = poll(&p, 1, deadline.left_ms());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return errno_error(ETIMEDOUT, fmt::format("{} {}", doing, peer_));
    return {};
  }
}

Status TlsStream::handshake(bool client, const std::string& host, Deadline deadline) {
  tune(fd_.get());
  ssl_.reset(SSL_new(ctx_.get()));
  if (!ssl_ || SSL_set_fd(ssl_.get(), fd_.get()) != 1) return plain_error("TLS: " + ssl_reason());
  if (client) {
    X509_VERIFY_PARAM* param = SSL_get0_param(ssl_.get());
    const int named = is_address(host) ? X509_VERIFY_PARAM_set1_ip_asc(param, host.c_str())
                                       : X509_VERIFY_PARAM_set1_host(param, host.c_str(), 0);
    if (named != 1) return plain_error(fmt::format("TLS: {} is no name for a certificate", host));
    if (!is_address(host)) SSL_set_tlsext_host_name(ssl_.get(), host.c_str());
  }
  for (;;) {
    ERR_clear_error();
    errno = 0;
    const int n = client ? SSL_connect(ssl_.get()) : SSL_accept(ssl_.get());
    if (n == 1) break;
    RETURN_IF_ERROR(wait(SSL_get_error(ssl_.get(), n), "TLS with", deadline));
  }
  if (X509* cert = SSL_get0_peer_certificate(ssl_.get())) {
    char name[256] = {};
    X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, sizeof name);
    peer_ = fmt::format("{} ({})", name, peer_);
  }
  return {};
}

Result<TlsStream> TlsStream::connect(const TlsContext& context, const NetAddress& where, Deadline deadline) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  const int rc = getaddrinfo(where.host.c_str(), std::to_string(where.port).c_str(), &hints, &found);
  if (rc != 0) return errno_error(EHOSTUNREACH, fmt::format("{}: {}", where.text(), gai_strerror(rc)));
  ScopeExit free_it([&] { freeaddrinfo(found); });
  Error last = errno_error(EHOSTUNREACH, where.text());
  for (const addrinfo* a = found; a; a = a->ai_next) {
    // What does not answer leaves time for the next address.
    const Deadline until = a->ai_next ? Deadline::in(Millis(deadline.left_ms() / 2)) : deadline;
    auto fd = connect_one(*a, until);
    if (!fd) {
      last = fd.error().with(fmt::format("standby {}", where.text()));
      continue;
    }
    TlsStream stream;
    stream.fd_ = fd.take();
    SSL_CTX_up_ref(context.get());
    stream.ctx_.reset(context.get(), SSL_CTX_free);
    stream.peer_ = where.text();
    RETURN_IF_ERROR(stream.handshake(true, where.host, deadline));
    return stream;
  }
  return last;
}

Result<TlsStream> TlsStream::accept(const TlsContext& context, UniqueFd fd, Deadline deadline) {
  TlsStream stream;
  sockaddr_storage from{};
  socklen_t size = sizeof from;
  if (getpeername(fd.get(), reinterpret_cast<sockaddr*>(&from), &size) == 0)
    stream.peer_ = name_of_peer(reinterpret_cast<sockaddr*>(&from), size);
  stream.fd_ = std::move(fd);
  SSL_CTX_up_ref(context.get());
  stream.ctx_.reset(context.get(), SSL_CTX_free);
  RETURN_IF_ERROR(stream.handshake(false, "", deadline));
  return stream;
}

Status TlsStream::write(const void* data, std::size_t size, Deadline deadline) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    ERR_clear_error();
    errno = 0;
    std::size_t done = 0;
    const int n = SSL_write_ex(ssl_.get(), at, size, &done);
    if (n == 1) {
      at += done;
      size -= done;
      continue;
    }
    RETURN_IF_ERROR(wait(SSL_get_error(ssl_.get(), n), "send to", deadline));
  }
  return {};
}

Status TlsStream::read(void* data, std::size_t size, Deadline deadline) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    ERR_clear_error();
    errno = 0;
    std::size_t done = 0;
    const int n = SSL_read_ex(ssl_.get(), at, size, &done);
    if (n == 1) {
      at += done;
      size -= done;
      continue;
    }
    RETURN_IF_ERROR(wait(SSL_get_error(ssl_.get(), n), "receive from", deadline));
  }
  return {};
}

bool TlsStream::readable(Deadline deadline) {
  if (SSL_pending(ssl_.get()) > 0) return true;
  pollfd p{fd_.get(), POLLIN, 0};
  return poll(&p, 1, deadline.left_ms()) > 0;
}

}  // namespace supervise
