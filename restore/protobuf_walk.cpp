#include "restore/protobuf_walk.h"

namespace supervise {
namespace {

std::optional<std::uint64_t> take_varint(std::string_view& in) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !in.empty(); shift += 7) {
    auto byte = static_cast<unsigned char>(in.front());
    in.remove_prefix(1);
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return value;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> take_fixed(std::string_view& in, std::size_t size) {
  if (in.size() < size) return std::nullopt;
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size; ++i) {
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(in[i])) << (8 * i);
  }
  in.remove_prefix(size);
  return value;
}

}  // namespace

std::optional<std::vector<ProtoField>> proto_fields(std::string_view message) {
  std::vector<ProtoField> fields;
  while (!message.empty()) {
    std::string_view start = message;
    auto tag = take_varint(message);
    if (!tag || *tag >> 3 == 0 || *tag >> 3 > 0x1fffffff) return std::nullopt;
    ProtoField f;
    f.number = static_cast<std::uint32_t>(*tag >> 3);
    std::optional<std::uint64_t> value;
    switch (*tag & 7) {
      case 0:
        value = take_varint(message);
        break;
      case 1:
        value = take_fixed(message, 8);
        break;
      case 5:
        value = take_fixed(message, 4);
        break;
      case 2:
        value = take_varint(message);
        if (value && *value > message.size()) return std::nullopt;
        if (value) {
          f.bytes = message.substr(0, *value);
          message.remove_prefix(*value);
        }
        break;
      default:
        return std::nullopt;
    }
    if (!value) return std::nullopt;
    f.value = *value;
    f.whole = start.substr(0, start.size() - message.size());
    fields.push_back(f);
  }
  return fields;
}

const ProtoField* proto_find(const std::vector<ProtoField>& fields, std::uint32_t number) {
  const ProtoField* last = nullptr;
  for (const auto& f : fields) {
    if (f.number == number) last = &f;
  }
  return last;
}

void proto_put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>((value & 0x7f) | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

void proto_put_bytes(std::string& out, std::uint32_t number, std::string_view content) {
  proto_put_varint(out, static_cast<std::uint64_t>(number) << 3 | 2);
  proto_put_varint(out, content.size());
  out += content;
}

}  // namespace supervise
