// Messages of two hosts: a JSON text and raw bytes, each with its length in front (32 bits, big
// endian). The bytes are packed with zstd where that makes them smaller; the header says so.
#pragma once

#include <cstdint>
#include <string>

#include "restore/tls.h"

namespace supervise::wire {

inline constexpr std::size_t kMaxText = 32u << 20;
inline constexpr std::size_t kMaxBytes = 1u << 20;  // of a message, unpacked

struct Message {
  std::string text;
  std::string bytes;  // unpacked
};

// Tries to pack the bytes, and for a while not when that was of no use.
class Packer {
 public:
  // Nothing when it stays as it is.
  const std::string* pack(const char* data, std::size_t size);

 private:
  std::string packed_;
  int skip_ = 0, skipped_ = 0;
};

// `packer` nullptr: as they are. `sent` takes the bytes on the wire.
Status send(TlsStream& stream, const std::string& text, const char* data, std::size_t size, Packer* packer,
            Deadline deadline, std::uint64_t* sent = nullptr);
inline Status send(TlsStream& stream, const std::string& text, Deadline deadline) {
  return send(stream, text, nullptr, 0, nullptr, deadline);
}
// EBADMSG: it is no message, or larger than any may be.
Result<Message> receive(TlsStream& stream, Deadline deadline);

}  // namespace supervise::wire
