#include "restore/wire.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace supervise::wire {
namespace {

constexpr int kLevel = 1;            // what keeps up with a fast network
constexpr int kLongestSkip = 32;

// text length, length of the bytes on the wire, length unpacked (0: they are not packed)
using Header = std::array<std::uint32_t, 3>;

}  // namespace

const std::string* Packer::pack(const char* data, std::size_t size) {
  if (size < 256) return nullptr;
  if (skipped_ < skip_) {
    ++skipped_;
    return nullptr;
  }
  packed_.resize(ZSTD_compressBound(size));
  const std::size_t n = ZSTD_compress(packed_.data(), packed_.size(), data, size, kLevel);
  if (ZSTD_isError(n) || n > size / 10 * 9) {
    skip_ = std::min(kLongestSkip, skip_ * 2 + 1);
    skipped_ = 0;
    return nullptr;
  }
  skip_ = skipped_ = 0;
  packed_.resize(n);
  return &packed_;
}

Status send(TlsStream& stream, const std::string& text, const char* data, std::size_t size, Packer* packer,
            Deadline deadline, std::uint64_t* sent) {
  if (text.size() > kMaxText || size > kMaxBytes)
    return errno_error(EMSGSIZE, fmt::format("a message of {} and {} bytes", text.size(), size));
  const std::string* packed = packer && size > 0 ? packer->pack(data, size) : nullptr;
  const std::size_t on_wire = packed ? packed->size() : size;
  const Header header{htonl(static_cast<std::uint32_t>(text.size())), htonl(static_cast<std::uint32_t>(on_wire)),
                      htonl(packed ? static_cast<std::uint32_t>(size) : 0)};
  std::string front(reinterpret_cast<const char*>(header.data()), sizeof header);
  front += text;
  RETURN_IF_ERROR(stream.write(front.data(), front.size(), deadline));
  if (on_wire > 0) RETURN_IF_ERROR(stream.write(packed ? packed->data() : data, on_wire, deadline));
  if (sent) *sent += front.size() + on_wire;
  return {};
}

Result<Message> receive(TlsStream& stream, Deadline deadline) {
  const auto bad = [&](const char* why) {
    return errno_error(EBADMSG, fmt::format("{} sent no message of supervise: {}", stream.peer(), why));
  };
  Header header{};
  RETURN_IF_ERROR(stream.read(header.data(), sizeof header, deadline));
  const std::size_t text = ntohl(header[0]), on_wire = ntohl(header[1]), unpacked = ntohl(header[2]);
  if (text > kMaxText || on_wire > kMaxBytes || unpacked > kMaxBytes) return bad("too long");
  Message message;
  message.text.resize(text);
  RETURN_IF_ERROR(stream.read(message.text.data(), text, deadline));
  std::string bytes(on_wire, '\0');
  RETURN_IF_ERROR(stream.read(bytes.data(), on_wire, deadline));
  if (unpacked == 0) {
    message.bytes = std::move(bytes);
    return message;
  }
  message.bytes.resize(unpacked);
  const std::size_t n = ZSTD_decompress(message.bytes.data(), unpacked, bytes.data(), bytes.size());
  if (ZSTD_isError(n) || n != unpacked) return bad("damaged bytes");
  return message;
}

}  // namespace supervise::wire
