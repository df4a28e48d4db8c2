#include "supervisor/options_table.h"

#include <algorithm>
#include <array>
#include <vector>

namespace supervise {
namespace {

constexpr std::uint32_t kRun = command_bit(CommandId::Run);
constexpr std::uint32_t kStandby = command_bit(CommandId::Standby);
constexpr std::uint32_t kRestore = command_bit(CommandId::Restore);
constexpr std::uint32_t kImages = command_bit(CommandId::Images);
constexpr std::uint32_t kDoctor = command_bit(CommandId::Doctor);
constexpr std::uint32_t kApp = kRun | kStandby | kRestore;
constexpr std::uint32_t kSecond = kStandby | kRestore;
constexpr std::uint32_t kStatus = command_bit(CommandId::Status);
constexpr std::uint32_t kCheckpoint = command_bit(CommandId::Checkpoint);
constexpr std::uint32_t kHandover = command_bit(CommandId::Handover);
constexpr std::uint32_t kAdopt = command_bit(CommandId::Adopt);
constexpr std::uint32_t kActivate = command_bit(CommandId::Activate);
constexpr std::uint32_t kList = command_bit(CommandId::ListSyscalls);
constexpr std::uint32_t kVersion = command_bit(CommandId::Version);

constexpr CommandRow kCommands[] = {
    {CommandId::Run, "run", "[OPTIONS] -- APP [ARGS...]", "launch APP and keep it running",
     "Runs APP under supervision. When a call on a declared storage path fails, APP does not see "
     "the error: the path is switched to its next directory, what was not durable yet is written "
     "and proven there, and the call is completed. With a standby the application is then handed "
     "over to the second host, and this command ends with the hand-over exit code. The word `run` "
     "may be left out.",
     "supervise --name app --path data=/srv/first,/srv/second --standby dir:/shared/images -- app args\n"
     "supervise --path data=/srv/first,/srv/second --on 'data:fsync:EIO=alternate,report' -- app\n"
     "supervise --observe --path data=/srv/first --events /var/log/app.events -- app",
     0},
    {CommandId::Standby, "standby", "--name NAME --from dir:PATH | --listen HOST:PORT [OPTIONS]",
     "the second host: receive, verify, park and resume images",
     "Waits for images of the application NAME and resumes it here when a hand-over commits. Warm "
     "images (of the warm point or of `supervise checkpoint`) are made ready as --ready says, the "
     "newest in place of the one before, and woken by `supervise activate`. The application's standard "
     "streams become those of this command, its exit becomes ours.",
     "supervise standby --name app --path data=/srv/third --from dir:/shared/images\n"
     "supervise standby --name app --from dir:/shared/images --ready parked --activate command\n"
     "supervise standby --name app --path data=/srv/third --listen :7410", 0},
    {CommandId::Restore, "restore", "IMAGE [OPTIONS]", "resume an image in the foreground, supervised",
     "IMAGE is the directory of an image. It is verified first; what does not match its manifest "
     "is refused.",
     "supervise restore /shared/images/app/gen-000003 --path data=/srv/third", 1},
    {CommandId::Activate, "activate", "NAME", "wake the standby of NAME on this host",
     "Resumes the committed hand-over, or wakes the next copy of the newest warm image that is ready. "
     "Tells image, instance, and the milliseconds from the request to the last thread that was let go. "
     "Refused when the image or all its instances are claimed, with the owner named; exit status 1 "
     "then.", "supervise activate app", 1},
    {CommandId::Status, "status", "[NAME] [--json]", "what runs here",
     "Processes, threads, storage paths and their health, journal bytes, images, standby. Without "
     "NAME: everything that runs under supervision on this host and can be asked.",
     "supervise status\nsupervise status app --json", 1},
    {CommandId::Checkpoint, "checkpoint", "NAME [--stop]", "make an image now",
     "The application goes on afterwards, or ends with --stop.", "supervise checkpoint app", 1},
    {CommandId::Handover, "handover", "NAME [--to TARGET]", "planned hand-over",
     "Hands the running application over to its standby, as after a failure.",
     "supervise handover app\nsupervise handover app --to dir:/shared/images", 1},
    {CommandId::Adopt, "adopt", "NAME", "go on with this version of the program",
     "This program takes the place of the one that supervises NAME, for an upgrade without a restart: in the same "
     "process, so that PID, parent and standard streams stay. The application stands still for some milliseconds and "
     "as long as a sync of its storage paths takes. When this program can't take it over, the one "
     "before goes on; exit status 1 then. Refused while an incident is open, a warm point is watched for, or an image is "
     "on its way to a standby, and for an application that was activated from a warm image.",
     "supervise adopt app", 1},
    {CommandId::Images, "images",
     "list [NAME] | inspect IMAGE | verify IMAGE... | prune NAME | free IMAGE | export IMAGE FILE | import FILE",
     "the image store",
     "IMAGE is a directory, NAME (the newest image of that application) or NAME/GENERATION in the "
     "store. export writes a tar archive; import verifies it before it is in the store. free removes "
     "the claims of those who activated or resumed the image, so that it can be activated again; exit "
     "status 1 while one of them is alive or, without --force, may be.",
     "supervise images list\n"
     "supervise images verify app\n"
     "supervise images inspect app/3 --json\n"
     "supervise images prune app --keep 2\n"
     "supervise images free app/3\n"
     "supervise images export app app.tar",
     -1},
    {CommandId::Doctor, "doctor", "[OPTIONS]", "probe this host",
     "Tries what supervision, images and hand-over need, and names for each failure the capability "
     "or knob and the way to set it. Exit status 0 when all that is needed is there, otherwise 1.",
     "supervise doctor\n"
     "supervise doctor --path data=/srv/first,/srv/second --standby dir:/shared/images --json",
     0},
    {CommandId::Keys, "keys", "DIR HOST...", "certificates for a standby over the network",
     "Makes an authority in DIR, unless one is there, and for each HOST a key and a certificate in DIR/HOST, to be "
     "copied to /etc/supervise/tls of that host (or to where --tls says). HOST is the name or address that the "
     "--standby of other hosts has.",
     "supervise keys ./keys a.example b.example 10.0.0.7", -1},
    {CommandId::ListSyscalls, "list-syscalls", "[--json]", "the system calls that are looked at",
     "The table from which filter and handlers derive.", "supervise list-syscalls --json", 0},
    {CommandId::Completions, "completions", "bash", "completions for a shell", "",
     "supervise completions bash > /etc/bash_completion.d/supervise", 1},
    {CommandId::Man, "man", "", "the manual page, for man -l", "", "supervise man | man -l -", 0},
    {CommandId::Version, "version", "[--json]", "versions of the program and of what it uses", "",
     "supervise version", 0},
    {CommandId::Help, "help", "[COMMAND]", "help about a command", "", "supervise help run", 1},
};

constexpr OptionRow kOptions[] = {
    {"name", "NAME", false, kApp,
     "name of this application on the host: letters, digits, . _ -. Default for run: the program's "
     "base name; for restore: the image's"},
    {"path", "NAME=DIR[,DIR...]", true, kApp | kDoctor,
     "a storage path. run: the first directory is the one that the application uses, each further "
     "one is another way to the same storage. standby, restore: this host's own way to it. "
     "Repeatable",
     Completion::Dir},
    {"path-up", "NAME=COMMAND", true, kApp,
     "shell command that is run before another directory of the path is used (fence the old one, "
     "mount the new one). Environment: SUPERVISE_PATH, SUPERVISE_DIR, SUPERVISE_FROM, "
     "SUPERVISE_REASON. A non-zero exit makes that directory unavailable"},
    {"path-down", "NAME=COMMAND", true, kApp,
     "shell command that is run after a directory of the path was given up"},
    {"path-deadline", "DURATION", false, kApp,
     "how long --path-up, --path-down and the switch of a path may take (default 30s)"},
    {"on", "WHERE:CALLS:ERRNOS=LADDER", true, kRun,
     "a rule. WHERE: name of a path or *; CALLS, ERRNOS: names with commas between them, or *; "
     "LADDER: retry(N,DELAY), wait(TIMEOUT), alternate, handover, report, with commas between them. "
     "The first rule that matches wins. Default: retry(2,20ms),alternate,handover,report, and "
     "wait(10m),report for ENOSPC and EDQUOT. Repeatable"},
    {"take-over", "", false, kRun,
     "start although the store of --standby says that another host runs the application: it is fenced"},
    {"observe", "", false, kRun, "change nothing; log what would have been done"},
    {"warm-point", "POINT", false, kRun,
     "where threads stop for the image of a warm standby, which is made once all are stopped or idle: "
     "auto (each thread's first use of something outside the application), connect, bind, listen, "
     "accept (or idle with a listening socket), call:NAME, manual (only `supervise checkpoint`)",
     Completion::Words, "auto connect bind listen accept call: manual"},
    {"external", "CLASS[,CLASS...]", true, kRun,
     "only these classes of references stop a thread: connect, datagram, listen, accept, netlink, "
     "socket, fifo, device, terminal, shm, network-file"},
    {"internal", "PATTERN", true, kRun,
     "peers that count as inside, as shell patterns: 127.0.0.1:6379, 'unix /run/app/*', /dev/fuse. "
     "Repeatable"},
    {"warm-deadline", "DURATION", false, kRun,
     "how long after the first thread stopped the others are waited for; then the image is made as "
     "they are (default 60s)"},
    {"warm-settle", "DURATION", false, kRun,
     "how long all must be stopped or idle before the image is made (default 300ms)"},
    {"refresh", "DURATION", false, kRun, "make a new warm image every so often after the first"},
    {"journal", "content|ranges|off", false, kRun,
     "what is kept of writes that are not durable yet (default content)", Completion::Words,
     "content ranges off"},
    {"journal-limit", "SIZE", false, kRun,
     "bytes at which the supervisor makes files durable itself, for example 64M (default 256M)"},
    {"stub", "auto|on|off", false, kRun,
     "make calls in process where nothing has to be decided (auto), warn when that can't be (on), or stop at each call (off)",
     Completion::Words, "auto on off"},
    {"supervisor-loss", "keep|kill", false, kRun,
     "when the supervisor is killed or crashes: its keeper takes the application over (keep), or it is killed, too (kill)",
     Completion::Words, "keep kill"},
    {"images", "DIR", false, kApp | kImages | kDoctor, "the image store", Completion::Dir},
    {"standby", "TARGET", false, kApp | kDoctor,
     "where images go and the application is handed over to: dir:PATH, a directory on shared storage, or "
     "HOST:PORT of `supervise standby --listen`",
     Completion::Dir},
    {"from", "dir:PATH", false, kStandby, "where images come from: a directory on shared storage", Completion::Dir},
    {"listen", "HOST:PORT", false, kStandby,
     "receive images here over TLS, into the store of --images (:PORT listens on all addresses)"},
    {"tls", "DIR", false, kApp | kDoctor,
     "ca.pem, cert.pem and key.pem for HOST:PORT, as `supervise keys` makes them (default /etc/supervise/tls)",
     Completion::Dir},
    {"ready", "image|cached|parked", false, kSecond,
     "how far a warm image is prepared: verified; verified and held in memory; restored with every "
     "thread stopped (default image)",
     Completion::Words, "image cached parked"},
    {"activate", "handover|command", false, kStandby,
     "resume by itself when a hand-over commits (default), or only on `supervise activate`; a warm "
     "image is activated on `supervise activate` only",
     Completion::Words, "handover command"},
    {"instances", "N", false, kStandby,
     "how often one warm image may be activated; as many copies are prepared (default 1)"},
    {"on-activate", "COMMAND", false, kStandby,
     "shell command that is started on this host when a warm image is activated, beside the "
     "application. Environment: SUPERVISE_NAME, SUPERVISE_IMAGE, SUPERVISE_GENERATION, "
     "SUPERVISE_INSTANCE, SUPERVISE_PID. It outlives this command and the application"},
    {"on-activate-deadline", "DURATION", false, kStandby,
     "when a command of --on-activate is killed that has not ended by itself (default 5m)"},
    {"activate-signal", "SIGNAL", false, kStandby,
     "signal that the application's first process gets before its first instruction when a warm image "
     "is activated (USR1, SIGUSR1 or 10), for instance to seed its random numbers anew"},
    {"drift", "refuse|truncate|accept-appended", false, kSecond,
     "what to do when a file's size is not the image's (default refuse)", Completion::Words,
     "refuse truncate accept-appended"},
    {"tcp", "keep|close|reset", false, kApp, "established connections in an image (default keep)",
     Completion::Words, "keep close reset"},
    {"handover-exit-code", "N", false, kApp,
     "exit status after a hand-over, 1 to 255 but for 125, 126, 127 (default 113)"},
    {"events", "FILE", false, kApp, "events as JSON, a line each, are appended to FILE",
     Completion::File},
    {"log-format", "text|json", false, kApp, "form of the lines on stderr (default text)",
     Completion::Words, "text json"},
    {"log-level", "error|warn|info|debug", false, kApp, "least important level on stderr (default info)",
     Completion::Words, "error warn info debug"},
    {"config", "FILE", false, kApp,
     "options from a file, `option = value` a line, # begins a comment. What the command line says "
     "wins; a repeatable option there replaces all of the file's",
     Completion::File},
    {"stop", "", false, kCheckpoint, "end the application once its image is complete"},
    {"to", "TARGET", false, kHandover, "another standby than that of run: dir:PATH or HOST:PORT", Completion::Dir},
    {"timeout", "DURATION", false, kStatus | kCheckpoint | kHandover | kAdopt | kActivate,
     "how long the answer may take (default 5s for status, otherwise 10m)"},
    {"force", "", false, kImages,
     "free: also claims of other hosts, which are fenced, and the claim of a hand-over's image"},
    {"keep", "N", false, kImages, "prune: how many of the newest images stay (default 3)"},
    {"json", "", false, kStatus | kImages | kDoctor | kList | kVersion | kCheckpoint | kHandover | kAdopt | kActivate,
     "machine-readable output"},
};

constexpr std::string_view kPlanned[] = {"metrics", "trace", "errno", "calls"};

std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

class Nearest {
 public:
  explicit Nearest(std::string_view typed) : typed_(typed), best_(typed.size() / 3 + 2) {}
  void offer(std::string_view name) {
    if (const auto d = distance(typed_, name); d < best_) {
      best_ = d;
      name_ = name;
    }
  }
  std::string_view name() const { return name_; }

 private:
  std::string_view typed_, name_;
  std::size_t best_;
};

}  // namespace

std::span<const CommandRow> command_table() { return kCommands; }
std::span<const OptionRow> option_table() { return kOptions; }

const CommandRow* find_command(std::string_view name) {
  for (const auto& row : kCommands)
    if (row.name == name) return &row;
  return nullptr;
}

const CommandRow& command_row(CommandId id) {
  return *std::find_if(std::begin(kCommands), std::end(kCommands),
                       [&](const CommandRow& row) { return row.id == id; });
}

const OptionRow* find_option(std::string_view name, CommandId id) {
  for (const auto& row : kOptions)
    if (row.name == name && (row.commands & command_bit(id)) != 0) return &row;
  return nullptr;
}

bool is_planned_option(std::string_view name) {
  return std::find(std::begin(kPlanned), std::end(kPlanned), name) != std::end(kPlanned);
}

std::string_view nearest_option(std::string_view typed, CommandId id) {
  Nearest nearest(typed);
  for (const auto& row : kOptions)
    if ((row.commands & command_bit(id)) != 0) nearest.offer(row.name);
  return nearest.name();
}

std::string_view nearest_command(std::string_view typed) {
  Nearest nearest(typed);
  for (const auto& row : kCommands) nearest.offer(row.name);
  return nearest.name();
}

}  // namespace supervise
