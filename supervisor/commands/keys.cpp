#include <fmt/format.h>

#include "restore/tls_keys.h"
#include "supervisor/commands/commands.h"

namespace supervise {

int command_keys(const KeysOptions& options) {
  bool made = false;
  if (auto s = make_authority(options.dir, made); !s) return complain(s.error().message(), 125);
  std::string text;
  if (made) text += fmt::format("{0}/ca.pem and {0}/ca-key.pem: the authority. Who has ca-key.pem may join: keep it off the hosts\n", options.dir);
  for (const auto& host : options.hosts) {
    if (auto s = make_host_keys(options.dir, host); !s) return complain(s.error().message(), 125);
    text += fmt::format("{0}/{1}: ca.pem, cert.pem, key.pem for host {1}; copy them to /etc/supervise/tls there\n", options.dir, host);
  }
  return print_out(text);
}

}  // namespace supervise
