// faultfs: a directory passed through FUSE, whose calls fail, hang or are slow on command.
//   faultfs --source DIR --mount DIR --socket PATH [--writeback] [--direct-io] [--cache SECONDS] [--type NAME]
//   faultfs ctl SOCKET COMMAND...
// Without --cache, names and attributes are asked for each time, so that a fault shows at once.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>

#include "integration/faultfs/control.h"
#include "integration/faultfs/passthrough.h"

namespace supervise::faults {
namespace {

void op_init(void* data, fuse_conn_info* connection) {
  auto* fs = static_cast<Passthrough*>(data);
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_HANDLE_KILLPRIV);
  if (fs->writeback) connection->want |= FUSE_CAP_WRITEBACK_CACHE;
}

int serve(const std::vector<std::string>& args) {
  auto options = parse_daemon_options(args, "source");
  if (!options) return 2;
  static Passthrough fs;
  fs.writeback = options->writeback;
  fs.direct_io = options->direct_io;
  fs.cache_seconds = options->cache_seconds;
  fs.root.fd = ::open(options->source.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fs.root.fd < 0) {
    fmt::print(stderr, "{}: {}\n", options->source, std::strerror(errno));
    return 1;
  }
  fuse_lowlevel_ops ops{};
  ops.init = op_init;
  add_metadata_ops(ops);
  add_file_ops(ops);
  add_directory_ops(ops);
  return run_daemon(*options, "faultfs", ops, &fs, fs.rules, true);
}

}  // namespace
}  // namespace supervise::faults

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  if (!args.empty() && args[0] == "ctl")
    return supervise::faults::control_client({args.begin() + 1, args.end()});
  return supervise::faults::serve(args);
}
