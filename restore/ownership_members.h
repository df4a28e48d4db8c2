// The JSON members of Commit and Claim. Included by this folder's .cpp files only.
#pragma once

#include "restore/identity_members.h"

namespace supervise {

template <class V, json_io::Of<Commit> P>
void members(V& v, P& c) {
  v("epoch", c.epoch);
  v("generation", c.generation);
  v("origin", c.origin);
  v("committed_unix_ns", c.committed_unix_ns);
}

template <class V, json_io::Of<Claim> P>
void members(V& v, P& c) {
  v("epoch", c.epoch);
  v("owner", c.owner);
  v("state", c.state);
  v("since_unix_ns", c.since_unix_ns);
  v("first_io_unix_ns", c.first_io_unix_ns);
}

}  // namespace supervise
