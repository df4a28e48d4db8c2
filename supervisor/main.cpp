// The program: parses, runs one command, and gives its exit status.
#include <sys/prctl.h>
#include <unistd.h>

#include <string_view>

#include "supervisor/commands/commands.h"
#include "supervisor/doctor.h"
#include "supervisor/events.h"
#include "supervisor/front.h"
#include "supervisor/options.h"
#include "supervisor/options_table.h"
#include "supervisor/session_entry.h"
#include "supervisor/succession.h"
#include "supervisor/world_inherited.h"

namespace supervise {
namespace {

int run_logged(const Invocation& invocation, const LogOptions& log) {
  Events events;
  if (const auto status = add_log_sinks(events, log); !status)
    return complain(status.error().message(), 125);
  for (const auto& warning : invocation.warnings) events.warn("options.warning", warning);
  switch (invocation.command) {
    case CommandId::Run: return run_application(invocation.run, events);
    case CommandId::Standby: return run_standby(invocation.standby, events);
    default: return run_restore(invocation.standby, events);
  }
}

int run_command(const Invocation& invocation) {
  switch (invocation.command) {
    case CommandId::Run: return front::run([&] { return run_logged(invocation, invocation.run.log); });
    case CommandId::Standby:
    case CommandId::Restore: return front::run([&] { return run_logged(invocation, invocation.standby.log); });
    case CommandId::Status: return command_status(invocation.control);
    case CommandId::Checkpoint:
    case CommandId::Handover:
    case CommandId::Adopt:
    case CommandId::Activate: return command_control(invocation.command, invocation.control);
    case CommandId::Images: return command_images(invocation.images);
    case CommandId::Doctor: return command_doctor(invocation.doctor);
    case CommandId::Keys: return command_keys(invocation.keys);
    case CommandId::ListSyscalls: return command_list_syscalls(invocation.json);
    case CommandId::Version: return command_version(invocation.json);
    case CommandId::Completions: return print_out(completion_script("bash"));
    case CommandId::Man: return print_out(manual_page());
    case CommandId::Help: return print_out(help_text(invocation.topic));
  }
  return 125;
}

}  // namespace
}  // namespace supervise

int main(int argc, char** argv) {
  prctl(PR_SET_NAME, "supervise");  // as which it was called (launcher.cpp)
  supervise::InheritedState::record();  // first: the application is to inherit what we did
  if (supervise::is_successor()) return supervise::run_successor();
  // What doctor starts for its smoke test.
  if (argc == 2 && std::string_view(argv[1]) == "doctor-guest") return supervise::doctor_guest();
  const auto invocation = supervise::parse_command_line({argv + 1, argv + argc});
  if (!invocation) return supervise::complain(invocation.error().message(), 125);
  return supervise::run_command(invocation.value());
}
