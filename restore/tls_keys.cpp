#include "restore/tls_keys.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "restore/image_store.h"
#include "restore/store_files.h"

namespace supervise {
namespace {

constexpr long kDay = 24 * 3600;
constexpr long kHostDays = 3650, kAuthorityDays = 7300;

template <auto F>
struct Free {
  template <class T>
  void operator()(T* p) const { F(p); }
};
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Cert = std::unique_ptr<X509, Free<X509_free>>;
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;

Error failed(const std::string& what) {
  const unsigned long e = ERR_get_error();
  const char* reason = e ? ERR_reason_error_string(e) : nullptr;
  ERR_clear_error();
  return plain_error(fmt::format("{}: {}", what, reason ? reason : "OpenSSL gives no reason"));
}

std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long n = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(n)};
}

// A new file, never an existing one.
Status write_new(const std::string& path, const std::string& content, mode_t mode) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd) return errno_error("create " + path);
  if (::write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size()) || fsync(fd.get()) != 0)
    return errno_error("write " + path);
  return {};
}

Status save_key(const std::string& path, EVP_PKEY* key) {
  Bio bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return failed(path);
  return write_new(path, text_of(bio.get()), 0600);
}

Result<std::string> pem_of(X509* cert) {
  Bio bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), cert) != 1) return failed("write a certificate");
  return text_of(bio.get());
}

bool extend(X509* cert, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, cert, nullptr, nullptr, 0);
  std::unique_ptr<X509_EXTENSION, Free<X509_EXTENSION_free>> e(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return e && X509_add_ext(cert, e.get(), -1) == 1;
}

Result<Cert> new_certificate(const std::string& name, EVP_PKEY* key, X509* issuer, long days) {
  Cert cert(X509_new());
  unsigned char serial[16];
  if (!cert || RAND_bytes(serial, sizeof serial) != 1) return failed("make a certificate");
  serial[0] &= 0x7f;
  std::unique_ptr<BIGNUM, Free<BN_free>> number(BN_bin2bn(serial, sizeof serial, nullptr));
  X509_NAME* subject = X509_get_subject_name(cert.get());
  const bool good =
      number && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(cert.get())) && X509_set_version(cert.get(), 2) == 1 &&
      // Clocks of two hosts differ.
      X509_gmtime_adj(X509_getm_notBefore(cert.get()), -kDay) && X509_gmtime_adj(X509_getm_notAfter(cert.get()), days * kDay) &&
      X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(name.substr(0, 64).c_str()),
                                 -1, -1, 0) == 1 &&
      X509_set_issuer_name(cert.get(), issuer ? X509_get_subject_name(issuer) : subject) == 1 &&
      X509_set_pubkey(cert.get(), key) == 1;
  if (!good) return failed("make a certificate for " + name);
  return cert;
}

Result<Key> new_key() {
  Key key(EVP_EC_gen("P-256"));
  if (!key) return failed("make a key");
  return key;
}

bool is_host_name(const std::string& host) {
  return !host.empty() && host.size() <= 253 && host[0] != '.' && host[0] != '-' &&
         host.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:") == std::string::npos;
}

}  // namespace

Status make_authority(const std::string& dir, bool& made) {
  made = false;
  if (mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return errno_error("create directory " + dir);
  if (access((dir + "/ca.pem").c_str(), F_OK) == 0) return {};
  ASSIGN_OR_RETURN(const Key key, new_key());
  ASSIGN_OR_RETURN(const Cert cert, new_certificate("supervise authority", key.get(), nullptr, kAuthorityDays));
  if (!extend(cert.get(), cert.get(), NID_basic_constraints, "critical,CA:TRUE") ||
      !extend(cert.get(), cert.get(), NID_key_usage, "critical,keyCertSign") ||
      !extend(cert.get(), cert.get(), NID_subject_key_identifier, "hash") ||
      X509_sign(cert.get(), key.get(), EVP_sha256()) == 0)
    return failed("make the authority");
  RETURN_IF_ERROR(save_key(dir + "/ca-key.pem", key.get()));
  ASSIGN_OR_RETURN(const auto pem, pem_of(cert.get()));
  RETURN_IF_ERROR(write_new(dir + "/ca.pem", pem, 0644));
  made = true;
  return {};
}

Status make_host_keys(const std::string& dir, const std::string& host) {
  if (!is_host_name(host)) return errno_error(EINVAL, fmt::format("\"{}\" is no name or address of a host", host));
  const auto open_pem = [&](const char* name) -> Result<Bio> {
    Bio bio(BIO_new_file((dir + name).c_str(), "r"));
    if (!bio) return failed("read " + dir + name);
    return bio;
  };
  ASSIGN_OR_RETURN(const Bio ca_file, open_pem("/ca.pem"));
  ASSIGN_OR_RETURN(const Bio ca_key_file, open_pem("/ca-key.pem"));
  const Cert ca(PEM_read_bio_X509(ca_file.get(), nullptr, nullptr, nullptr));
  const Key ca_key(PEM_read_bio_PrivateKey(ca_key_file.get(), nullptr, nullptr, nullptr));
  if (!ca || !ca_key) return failed(fmt::format("read {}/ca.pem and ca-key.pem", dir));
  ASSIGN_OR_RETURN(const Key key, new_key());
  ASSIGN_OR_RETURN(const Cert cert, new_certificate(host, key.get(), ca.get(), kHostDays));
  unsigned char raw[16];
  const bool address = inet_pton(AF_INET, host.c_str(), raw) == 1 || inet_pton(AF_INET6, host.c_str(), raw) == 1;
  if (!extend(cert.get(), ca.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !extend(cert.get(), ca.get(), NID_key_usage, "critical,digitalSignature") ||
      !extend(cert.get(), ca.get(), NID_ext_key_usage, "serverAuth,clientAuth") ||
      !extend(cert.get(), ca.get(), NID_subject_alt_name, (address ? "IP:" : "DNS:") + host) ||
      !extend(cert.get(), ca.get(), NID_authority_key_identifier, "keyid") ||
      X509_sign(cert.get(), ca_key.get(), EVP_sha256()) == 0)
    return failed("make the certificate of " + host);
  const std::string own = dir + "/" + host;
  if (mkdir(own.c_str(), 0700) != 0)
    return errno == EEXIST ? errno_error(EEXIST, own + " is there already; remove it for a new key") : errno_error(own);
  ASSIGN_OR_RETURN(const auto pem, pem_of(cert.get()));
  ASSIGN_OR_RETURN(const auto ca_pem, pem_of(ca.get()));
  RETURN_IF_ERROR(save_key(own + "/key.pem", key.get()));
  RETURN_IF_ERROR(write_new(own + "/cert.pem", pem, 0644));
  return write_new(own + "/ca.pem", ca_pem, 0644);
}

}  // namespace supervise
