#include "restore/manifest.h"

#include <algorithm>
#include <set>

#include "restore/digest.h"
#include "restore/json_members.h"

namespace supervise {

using json_io::Of;

template <class V, Of<ImagePart> P>
void members(V& v, P& p) {
  v("name", p.name);
  v("size", p.size);
  v("sha256", p.sha256);
}

template <class V, Of<ImagePath> P>
void members(V& v, P& p) {
  v("name", p.name);
  v("place", p.place);
}

template <class V, Of<ImageThread> P>
void members(V& v, P& t) {
  v("pid", t.pid);
  v("tid", t.tid);
  v("comm", t.comm);
  v("where", t.where);
  v("reason", t.reason);
  v("class", t.ref_class);
  v("peer", t.peer);
  v("stack", t.stack);
}

template <class V, Of<ImageFact> P>
void members(V& v, P& f) {
  v("what", f.what);
  v("severity", f.severity);
  v("text", f.text);
}

template <class V, Of<ImageFile> P>
void members(V& v, P& f) {
  v("path", f.path);
  v("size", f.size);
  v("sha256", f.sha256);
}

template <class V, Of<ImageStdio> P>
void members(V& v, P& s) {
  v("fd", s.fd);
  v("kind", s.kind);
  v("id", s.id);
}

template <class V, Of<Manifest> P>
void members(V& v, P& m) {
  v("version", m.version);
  v("supervise_version", m.supervise_version);
  v("criu_version", m.criu_version);
  v("kernel", m.kernel);
  v("machine", m.machine);
  v("app_name", m.app_name);
  v("command", m.command);
  v("generation", m.generation);
  v("epoch", m.epoch);
  v("origin_host", m.origin_host);
  v("reason", m.reason);
  v("created_unix_ns", m.created_unix_ns);
  v("error_unix_ns", m.error_unix_ns);
  v("root_pid", m.root_pid);
  v("paths", m.paths);
  v("threads", m.threads);
  v("files", m.files);
  v("stdio", m.stdio);
  v("portability", m.portability);
  v("parts", m.parts);
  v("cpu_flags", m.cpu_flags);
  v("run_options", m.run_options);
  v("state", m.state);
  v("freeze_ms", m.freeze_ms);
  v("dump_ms", m.dump_ms);
}

namespace {

constexpr const char* kWhat = "manifest.json";
// SHA-256 of the compact form of all other members: a touched manifest is refused too.
constexpr const char* kSeal = "manifest_sha256";

bool is_sha256(const std::string& s) {
  return s.size() == 64 && std::all_of(s.begin(), s.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

Status check_values(const Manifest& m) {
  std::set<std::string> names;
  for (std::size_t i = 0; i < m.parts.size(); ++i) {
    const auto& p = m.parts[i];
    auto bad = [&](const char* member, const char* why) {
      return plain_error(fmt::format("{}: member parts[{}].{} (\"{}\") {}", kWhat, i, member,
                                     json_io::is_utf8(p.name) ? p.name : json_io::to_hex(p.name), why));
    };
    if (p.name.empty() || p.name == "." || p.name == ".." || p.name.find('/') != std::string::npos ||
        p.name.find('\0') != std::string::npos || p.name == kWhat) {
      return bad("name", "is not a plain file name");
    }
    if (!names.insert(p.name).second) return bad("name", "is there twice");
    if (!is_sha256(p.sha256)) return bad("sha256", "is not 64 hexadecimal digits");
  }
  for (std::size_t i = 0; i < m.files.size(); ++i) {
    if (!m.files[i].sha256.empty() && !is_sha256(m.files[i].sha256)) {
      return plain_error(
          fmt::format("{}: member files[{}].sha256 is not 64 hexadecimal digits", kWhat, i));
    }
  }
  return {};
}

}  // namespace

std::string Manifest::to_json() const {
  auto j = json_io::encode(*this);
  j[kSeal] = sha256_of_bytes(j.dump());
  return j.dump(2) + "\n";
}

Result<Manifest> Manifest::from_json(const std::string& text) {
  auto parsed = json_io::parse(kWhat, text);
  if (!parsed) return parsed.error();
  auto& j = parsed.value();
  if (!j.is_object()) return plain_error(fmt::format("{}: an object was expected", kWhat));
  auto version = j.find("version");
  if (version == j.end()) return plain_error(fmt::format("{}: member version is missing", kWhat));
  if (!version->is_number_integer()) {
    return plain_error(fmt::format("{}: member version is not a whole number", kWhat));
  }
  if (*version != kVersion) {
    return plain_error(fmt::format("{}: format version {}, but this program reads version {} only: "
                                   "use the supervise that made the image, or a newer one",
                                   kWhat, version->dump(), kVersion));
  }
  auto seal = j.find(kSeal);
  if (seal == j.end()) return plain_error(fmt::format("{}: member {} is missing", kWhat, kSeal));
  const auto said = *seal;
  j.erase(kSeal);
  auto m = json_io::decode_object<Manifest>(j);
  if (!m) return m.error().with(kWhat);
  if (!said.is_string() || said.get<std::string>() != sha256_of_bytes(j.dump())) {
    return plain_error(fmt::format("{}: was changed after it was written (its {} does not match)",
                                   kWhat, kSeal));
  }
  RETURN_IF_ERROR(check_values(*m));
  return m;
}

}  // namespace supervise
