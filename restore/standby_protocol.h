// What origin and standby say to each other over the network (restore/wire.h carries it). Included by
// this folder's .cpp files only. Each request is answered by one reply, but for "data".
#pragma once

#include "restore/ownership_members.h"

namespace supervise::protocol {

inline constexpr int kVersion = 1;

struct Request {
  std::string what;      // hello, state, epoch, ask, withdraw, begin, data, finish, commit, retract, claimed
  std::string app;       // hello
  int version = kVersion;
  HostIdentity origin;   // hello
  std::string kind;      // ask: prepare, verify
  std::string image;
  std::string upload;    // begin
  std::string part;      // data
  std::uint64_t at = 0;  // data: offset; withdraw: generation
  std::string manifest;  // finish
  std::vector<Commit> commit;
  std::int64_t patience_ms = 0;  // ask: how long the answer may take
};

struct Part {
  std::string name;
  std::uint64_t size = 0;
};

struct Reply {
  std::string error;  // empty: all is well
  int err = 0;
  bool ok = false;    // ask
  std::string reason;
  HostIdentity who;
  std::uint64_t number = 0;  // epoch, generation
  std::string image, level;
  bool beats = false;
  std::vector<Part> parts;   // begin: what is there; finish: what is damaged
  std::vector<Commit> commit;
  std::vector<Claim> claim;
};

template <class V, json_io::Of<Request> P>
void members(V& v, P& r) {
  v("what", r.what);
  v("app", r.app);
  v("version", r.version);
  v("origin", r.origin);
  v("kind", r.kind);
  v("image", r.image);
  v("upload", r.upload);
  v("part", r.part);
  v("at", r.at);
  v("manifest", r.manifest);
  v("commit", r.commit);
  v("patience_ms", r.patience_ms);
}

template <class V, json_io::Of<Part> P>
void members(V& v, P& p) {
  v("name", p.name);
  v("size", p.size);
}

template <class V, json_io::Of<Reply> P>
void members(V& v, P& r) {
  v("error", r.error);
  v("err", r.err);
  v("ok", r.ok);
  v("reason", r.reason);
  v("who", r.who);
  v("number", r.number);
  v("image", r.image);
  v("level", r.level);
  v("beats", r.beats);
  v("parts", r.parts);
  v("commit", r.commit);
  v("claim", r.claim);
}

}  // namespace supervise::protocol
