// The wire format of protocol buffers, read field by field, as far as CRIU's images need it
// (protobuf.dev/programming-guides/encoding). Views point into the caller's bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace supervise {

struct ProtoField {
  std::uint32_t number = 0;
  std::uint64_t value = 0;      // varint and fixed
  std::string_view bytes;       // length-delimited: the content
  std::string_view whole;       // tag and content, as they lie in the message
};

// Nothing when the bytes are no well-formed message.
std::optional<std::vector<ProtoField>> proto_fields(std::string_view message);
const ProtoField* proto_find(const std::vector<ProtoField>& fields, std::uint32_t number);
void proto_put_varint(std::string& out, std::uint64_t value);
// A length-delimited field.
void proto_put_bytes(std::string& out, std::uint32_t number, std::string_view content);

}  // namespace supervise
