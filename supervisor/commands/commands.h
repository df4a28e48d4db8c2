// One function a command; each prints its result on stdout, errors on stderr, and returns the
// program's exit status: 0; 1 when what was asked for is not so (not running, not whole, refused);
// 125 when the command itself failed.
#pragma once

#include "supervisor/options.h"

namespace supervise {

int command_list_syscalls(bool json);
int command_images(const ImagesOptions& options);
int command_doctor(const DoctorOptions& options);
int command_keys(const KeysOptions& options);
int command_version(bool json);
int command_status(const ControlOptions& options);
int command_control(CommandId command, const ControlOptions& options);  // checkpoint, handover, adopt, activate

// "supervise: MESSAGE" on stderr; returns `status`.
int complain(const std::string& message, int status);
// Writes to stdout; 125 with a message when that fails (a full disk), otherwise `status`.
int print_out(std::string_view text, int status = 0);

}  // namespace supervise
