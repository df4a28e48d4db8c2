#include "supervisor/commands/image_archive.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "restore/image_layout.h"
#include "supervisor/base/scope_exit.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {
namespace {

constexpr std::size_t kBlock = 512;
constexpr std::size_t kBuffer = 1 << 20;

struct Header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
  char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], padding[12];
};
static_assert(sizeof(Header) == kBlock);

unsigned checksum_of(Header header) {
  std::memset(header.checksum, ' ', sizeof header.checksum);
  const auto* bytes = reinterpret_cast<const unsigned char*>(&header);
  unsigned sum = 0;
  for (std::size_t i = 0; i < kBlock; ++i) sum += bytes[i];
  return sum;
}

template <std::size_t N>
void put_octal(char (&field)[N], std::uint64_t value) {
  const auto text = fmt::format("{:0{}o}", value, N - 1);
  std::memcpy(field, text.data(), std::min(text.size(), N - 1));
}

void put_size(Header& header, std::uint64_t size) {
  if (size < (1ull << 33)) return put_octal(header.size, size);
  header.size[0] = static_cast<char>(0x80);
  for (std::size_t i = 11; i > 3; --i, size >>= 8) header.size[i] = static_cast<char>(size & 0xff);
}

template <std::size_t N>
Result<std::uint64_t> get_octal(const char (&field)[N]) {
  std::uint64_t value = 0;
  std::size_t i = 0;
  while (i < N && field[i] == ' ') ++i;
  for (; i < N && field[i] >= '0' && field[i] <= '7'; ++i)
    value = value * 8 + static_cast<std::uint64_t>(field[i] - '0');
  if (i < N && field[i] != '\0' && field[i] != ' ') return plain_error("a number is damaged");
  return value;
}

Result<std::uint64_t> get_size(const Header& header) {
  if ((static_cast<unsigned char>(header.size[0]) & 0x80) == 0) return get_octal(header.size);
  std::uint64_t size = 0;
  for (std::size_t i = 4; i < 12; ++i) size = size << 8 | static_cast<unsigned char>(header.size[i]);
  return size;
}

Status write_all(int fd, const char* data, std::size_t size, const std::string& file) {
  while (size > 0) {
    const ssize_t n = ::write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("write " + file);
    data += n;
    size -= static_cast<std::size_t>(n);
  }
  return ok_status();
}

// Exactly `size` bytes, or an error.
Status read_all(int fd, char* data, std::size_t size, const std::string& file) {
  while (size > 0) {
    const ssize_t n = ::read(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read " + file);
    if (n == 0) return plain_error(file + ": ends too early");
    data += n;
    size -= static_cast<std::size_t>(n);
  }
  return ok_status();
}

Status copy(int from, const std::string& from_name, int to, const std::string& to_name,
            std::uint64_t size) {
  std::vector<char> buffer(kBuffer);
  while (size > 0) {
    const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(size, kBuffer));
    RETURN_IF_ERROR(read_all(from, buffer.data(), piece, from_name));
    RETURN_IF_ERROR(write_all(to, buffer.data(), piece, to_name));
    size -= piece;
  }
  return ok_status();
}

std::size_t padding_of(std::uint64_t size) { return static_cast<std::size_t>((kBlock - size % kBlock) % kBlock); }

Status add_file(int out, const std::string& file, const std::string& dir, const std::string& prefix,
                const std::string& name) {
  const auto path = dir + "/" + name;
  const UniqueFd in(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  struct stat st {};
  if (!in || ::fstat(in.get(), &st) != 0) return errno_error("open " + path);
  if (!S_ISREG(st.st_mode)) return plain_error(path + ": is not a regular file");
  Header header{};
  const auto full = prefix + "/" + name;
  if (full.size() >= sizeof header.name) return errno_error(ENAMETOOLONG, path);
  full.copy(header.name, full.size());
  put_octal(header.mode, 0600);
  put_octal(header.uid, 0);
  put_octal(header.gid, 0);
  const auto size = static_cast<std::uint64_t>(st.st_size);
  put_size(header, size);
  put_octal(header.mtime, static_cast<std::uint64_t>(st.st_mtim.tv_sec));
  header.type = '0';
  std::memcpy(header.magic, "ustar", 6);
  std::memcpy(header.version, "00", 2);
  const auto sum = fmt::format("{:06o}", checksum_of(header));
  std::memcpy(header.checksum, sum.data(), 6);
  header.checksum[6] = '\0';
  header.checksum[7] = ' ';
  RETURN_IF_ERROR(write_all(out, reinterpret_cast<const char*>(&header), kBlock, file));
  RETURN_IF_ERROR(copy(in.get(), path, out, file, size));
  const char zeros[kBlock] = {};
  return write_all(out, zeros, padding_of(size), file);
}

}  // namespace

Status write_archive(const std::string& file, const std::string& image_dir,
                     const std::vector<std::string>& names) {
  const auto temp = fmt::format("{}.tmp-{}", file, ::getpid());
  UniqueFd out(::open(temp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!out) return errno_error("create " + temp);
  ScopeExit remove([&] { ::unlink(temp.c_str()); });
  const auto prefix = image_dir.substr(image_dir.rfind('/') + 1);
  for (const auto& name : names) RETURN_IF_ERROR(add_file(out.get(), temp, image_dir, prefix, name));
  const char zeros[2 * kBlock] = {};
  RETURN_IF_ERROR(write_all(out.get(), zeros, sizeof zeros, temp));
  if (::fsync(out.get()) != 0) return errno_error("fsync " + temp);
  if (::rename(temp.c_str(), file.c_str()) != 0)
    return errno_error(fmt::format("rename {} to {}", temp, file));
  remove.dismiss();
  return ok_status();
}

Result<std::vector<std::string>> read_archive(const std::string& file, const std::string& dir) {
  const UniqueFd in(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in) return errno_error("open " + file);
  std::vector<std::string> names;
  char padding[kBlock];
  while (true) {
    Header header;
    RETURN_IF_ERROR(read_all(in.get(), reinterpret_cast<char*>(&header), kBlock, file));
    if (header.name[0] == '\0') break;
    const auto sum = get_octal(header.checksum);
    if (!sum || *sum != checksum_of(header))
      return plain_error(file + ": is no tar archive, or its headers are damaged");
    const std::string full(header.name, ::strnlen(header.name, sizeof header.name));
    if (header.type == '5') continue;  // a directory
    if (header.type != '0' && header.type != '\0')
      return plain_error(fmt::format("{}: {} is not a regular file", file, full));
    const auto name = full.substr(full.rfind('/') + 1);
    if (name != kManifestName && !is_part_name(name))
      return plain_error(fmt::format("{}: {} is no part of an image", file, full));
    if (std::find(names.begin(), names.end(), name) != names.end())
      return plain_error(fmt::format("{}: {} is there twice", file, full));
    ASSIGN_OR_RETURN(const auto size, get_size(header));
    const auto path = dir + "/" + name;
    const UniqueFd out(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!out) return errno_error("create " + path);
    RETURN_IF_ERROR(copy(in.get(), file, out.get(), path, size));
    RETURN_IF_ERROR(read_all(in.get(), padding, padding_of(size), file));
    names.push_back(name);
  }
  return names;
}

}  // namespace supervise
