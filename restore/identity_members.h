// The JSON members of HostIdentity. Included by this folder's .cpp files only.
#pragma once

#include "restore/json_members.h"
#include "restore/ownership.h"

namespace supervise {

template <class V, json_io::Of<HostIdentity> P>
void members(V& v, P& h) {
  v("host", h.host);
  v("boot_id", h.boot_id);
  v("pid", h.pid);
  v("start_time", h.start_time);
  v("pid_namespace", h.pid_namespace);
}

}  // namespace supervise
