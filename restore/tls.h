// TLS 1.3 with certificates on both sides (OpenSSL), over sockets that never block longer than a
// deadline. Both hosts trust one authority and nothing else: the files are ca.pem, cert.pem and key.pem
// in one directory. Whoever connects also demands that the certificate names the host it asked for.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "restore/net_address.h"
#include "supervisor/base/clock.h"

struct ssl_ctx_st;
struct ssl_st;

namespace supervise {

inline constexpr const char* kDefaultTlsDir = "/etc/supervise/tls";

class TlsContext {
 public:
  // Errors name the file, and `supervise keys` as the way to make it. A key that others may read is refused.
  static Result<TlsContext> load(const std::string& dir);
  ssl_ctx_st* get() const { return ctx_.get(); }

 private:
  std::shared_ptr<ssl_ctx_st> ctx_;
};

class TlsStream {
 public:
  // ETIMEDOUT, ECONNREFUSED and the like of connect(2); EACCES: one side does not trust the other.
  static Result<TlsStream> connect(const TlsContext& context, const NetAddress& where, Deadline deadline);
  static Result<TlsStream> accept(const TlsContext& context, UniqueFd fd, Deadline deadline);

  Status write(const void* data, std::size_t size, Deadline deadline);
  // ECONNRESET when the other side ends before `size` bytes.
  Status read(void* data, std::size_t size, Deadline deadline);
  // Whether something can be read before the deadline (the end of the stream counts).
  bool readable(Deadline deadline);
  int fd() const { return fd_.get(); }
  const std::string& peer() const { return peer_; }  // name in its certificate, and its address

 private:
  Status handshake(bool client, const std::string& host, Deadline deadline);
  Status wait(int ssl_error, const char* doing, Deadline deadline);

  struct Free {
    void operator()(ssl_st* s) const;
  };
  UniqueFd fd_;
  std::shared_ptr<ssl_ctx_st> ctx_;
  std::unique_ptr<ssl_st, Free> ssl_;
  std::string peer_;
};

}  // namespace supervise
