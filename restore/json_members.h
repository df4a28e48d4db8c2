// Structures to and from JSON through one list of members each: `members(visitor, value)`, found by
// argument-dependent look-up. Included by this folder's .cpp files only. Strings are bytes (paths and
// arguments need not be UTF-8): what is not UTF-8 is written as {"hex": "..."}. The reader keeps the
// first error, which names the member with its full way ("parts[3].sha256").
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "supervisor/base/result.h"

namespace supervise::json_io {

using Json = nlohmann::ordered_json;

// For `template <class V, Of<X> P> void members(V& v, P& x)`, which serves X and const X.
template <class P, class T>
concept Of = std::same_as<std::remove_const_t<P>, T>;

bool is_utf8(const std::string& s);
std::string to_hex(const std::string& bytes);
std::optional<std::string> from_hex(const std::string& hex);
// Errors say at which byte the text stops being JSON.
Result<Json> parse(const std::string& what, const std::string& text);

inline Json encode(const std::string& s) {
  if (is_utf8(s)) return s;
  return Json{{"hex", to_hex(s)}};
}
inline Json encode(bool v) { return v; }
inline Json encode(double v) { return std::isfinite(v) ? v : 0.0; }
template <std::integral T>
Json encode(T v) { return v; }
template <class T>
  requires std::is_class_v<T>
Json encode(const T& v);
template <class T>
Json encode(const std::vector<T>& list) {
  Json j = Json::array();
  for (const auto& item : list) j.push_back(encode(item));
  return j;
}

struct Writer {
  Json j = Json::object();
  template <class T>
  void operator()(const char* key, const T& value) { j[key] = encode(value); }
};

template <class T>
  requires std::is_class_v<T>
Json encode(const T& v) {
  Writer w;
  members(w, v);
  return std::move(w.j);
}

class Reader {
 public:
  Reader(const Json& j, std::string where, std::optional<Error>& error)
      : j_(j), where_(std::move(where)), error_(error) {
    if (!j_.is_object()) fail(where_, "an object");
  }

  template <class T>
  void operator()(const char* key, T& out) {
    if (error_) return;
    std::string name = where_.empty() ? key : where_ + "." + key;
    auto it = j_.find(key);
    if (it == j_.end()) {
      error_ = plain_error(fmt::format("member {} is missing", name));
      return;
    }
    decode(*it, name, out);
  }

 private:
  void fail(const std::string& name, const char* expected) {
    if (!error_) {
      error_ = plain_error(name.empty() ? fmt::format("{} was expected", expected)
                                        : fmt::format("member {} is not {}", name, expected));
    }
  }
  void decode(const Json& j, const std::string& name, std::string& out) {
    if (j.is_string()) {
      out = j.get<std::string>();
      return;
    }
    if (j.is_object() && j.size() == 1 && j.contains("hex") && j["hex"].is_string()) {
      if (auto bytes = from_hex(j["hex"].get<std::string>())) {
        out = std::move(*bytes);
        return;
      }
    }
    fail(name, "a string");
  }
  void decode(const Json& j, const std::string& name, bool& out) {
    if (!j.is_boolean()) return fail(name, "true or false");
    out = j.get<bool>();
  }
  void decode(const Json& j, const std::string& name, double& out) {
    if (!j.is_number()) return fail(name, "a number");
    out = j.get<double>();
  }
  template <std::integral T>
  void decode(const Json& j, const std::string& name, T& out) {
    if (!j.is_number_integer()) return fail(name, "a whole number");
    bool fits = j.is_number_unsigned() ? std::in_range<T>(j.get<std::uint64_t>())
                                       : std::in_range<T>(j.get<std::int64_t>());
    if (!fits) return fail(name, "a number of its range");
    out = j.is_number_unsigned() ? static_cast<T>(j.get<std::uint64_t>())
                                 : static_cast<T>(j.get<std::int64_t>());
  }
  template <class T>
  void decode(const Json& j, const std::string& name, std::vector<T>& out) {
    if (!j.is_array()) return fail(name, "a list");
    out.clear();
    for (std::size_t i = 0; i < j.size() && !error_; ++i) {
      T item{};
      decode(j[i], fmt::format("{}[{}]", name, i), item);
      out.push_back(std::move(item));
    }
  }
  template <class T>
  void decode(const Json& j, const std::string& name, T& out) {
    Reader r(j, name, error_);
    members(r, out);
  }

  const Json& j_;
  std::string where_;
  std::optional<Error>& error_;
};

template <class T>
Result<T> decode_object(const Json& j) {
  T out{};
  std::optional<Error> error;
  Reader r(j, "", error);
  members(r, out);
  if (error) return *error;
  return out;
}

template <class T>
Result<T> read_object(const std::string& what, const std::string& text) {
  auto j = parse(what, text);
  if (!j) return j.error();
  auto out = decode_object<T>(*j);
  if (!out) return out.error().with(what);
  return out;
}

template <class T>
std::string write_object(const T& value) {
  return encode(value).dump(2) + "\n";
}

}  // namespace supervise::json_io
