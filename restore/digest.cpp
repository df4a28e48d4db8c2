#include "restore/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "restore/image_store.h"
#include "restore/json_members.h"

namespace supervise {
namespace {

class Sha256 {
 public:
  Sha256() : ctx_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    ok_ = ctx_ && EVP_DigestInit_ex(ctx_.get(), EVP_sha256(), nullptr) == 1;
  }
  void add(const void* p, std::size_t n) {
    ok_ = ok_ && EVP_DigestUpdate(ctx_.get(), p, n) == 1;
  }
  Result<std::string> hex() {
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    ok_ = ok_ && EVP_DigestFinal_ex(ctx_.get(), md, &n) == 1;
    if (!ok_) return plain_error("OpenSSL can't compute SHA-256 here");
    return json_io::to_hex(std::string(reinterpret_cast<char*>(md), n));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> ctx_;
  bool ok_ = false;
};

}  // namespace

std::string sha256_of_bytes(const std::string& bytes) {
  Sha256 sha;
  sha.add(bytes.data(), bytes.size());
  return sha.hex().value_or("");
}

Result<std::string> sha256_of_file(int fd, std::uint64_t* size, std::uint64_t limit,
                                   const std::function<void(std::uint64_t)>& progress) {
  Sha256 sha;
  constexpr std::size_t kChunk = 1 << 20;
  std::vector<char> buffer(kChunk);
  std::uint64_t at = 0;
  while (at < limit) {
    auto want = static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, limit - at));
    ssize_t n = pread(fd, buffer.data(), want, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error(fmt::format("read at offset {}", at));
    if (n == 0) break;
    sha.add(buffer.data(), static_cast<std::size_t>(n));
    at += static_cast<std::uint64_t>(n);
    if (progress) progress(static_cast<std::uint64_t>(n));
  }
  if (limit != UINT64_MAX && at < limit) {
    return errno_error(ENODATA, fmt::format("only {} of {} bytes are there", at, limit));
  }
  if (size) *size = at;
  return sha.hex();
}

Result<std::string> sha256_of_fd(int fd) { return sha256_of_file(fd); }

}  // namespace supervise
