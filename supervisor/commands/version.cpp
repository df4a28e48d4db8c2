#include <fmt/format.h>
#include <seccomp.h>
#include <sys/utsname.h>

#include <boost/version.hpp>
#include <nlohmann/json.hpp>

#include "restore/criu.h"
#include "restore/manifest.h"
#include "supervisor/commands/commands.h"

namespace supervise {

int command_version(bool json) {
  utsname host{};
  ::uname(&host);
  const auto* seccomp = ::seccomp_version();
  const auto libseccomp =
      seccomp == nullptr ? std::string("unknown")
                         : fmt::format("{}.{}.{}", seccomp->major, seccomp->minor, seccomp->micro);
  const auto criu = Criu::find();
  const auto criu_path = criu ? criu.value().binary() : std::string();
  if (json) {
    const nlohmann::ordered_json object{{"supervise", SUPERVISE_VERSION},
                                        {"image_format", Manifest::kVersion},
                                        {"libseccomp", libseccomp},
                                        {"boost", BOOST_LIB_VERSION},
                                        {"criu", criu_path},
                                        {"kernel", host.release},
                                        {"machine", host.machine}};
    return print_out(object.dump(2) + "\n");
  }
  return print_out(fmt::format("supervise {}\nimage format {}\nlibseccomp {}\nCRIU {}\nkernel {} {}\n",
                               SUPERVISE_VERSION, Manifest::kVersion, libseccomp,
                               criu ? criu_path : "not found", host.release, host.machine));
}

}  // namespace supervise
