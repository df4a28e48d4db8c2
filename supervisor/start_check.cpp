#include "supervisor/start_check.h"

#include <fmt/format.h>

#include "restore/host_identity.h"
#include "restore/image_store.h"
#include "restore/ownership.h"

namespace supervise {

Status check_not_elsewhere(const std::string& standby, const std::string& name) {
  if (!standby.starts_with("dir:")) return {};
  auto store = ImageStore::open(standby.substr(4), name, false);
  if (!store) return {};  // never used yet
  auto newest = store->newest();
  if (!newest || !*newest) return {};
  const std::string& image = (*newest)->dir;
  Ownership ownership(store->dir());
  auto commit = ownership.committed(image);
  auto claim = ownership.claimed(image);
  if (!commit || !*commit || !claim) return {};
  const bool waits = !*claim;
  if (!waits && ((*claim)->state == "ended" || (*claim)->state == "retracted" ||
                 liveness_of((*claim)->owner) == Liveness::Gone))
    return {};
  const std::string what =
      waits ? std::string("its hand-over is committed, and a standby may resume it at any moment")
            : fmt::format("it was handed over to {} and runs there", describe((*claim)->owner));
  return errno_error(EBUSY, fmt::format("{}: {} (image {}); a second copy would write the same data. Start `supervise "
                                        "standby` here instead, or, when that host is fenced, give --take-over",
                                        name, what, image));
}

}  // namespace supervise
