// What the stub (the code that runs inside of every patched process) and the supervisor share: where
// things lie, and what they look like. Free of the library: the stub is compiled with this, too.
//
// The low 2 GiB are cut into windows of 256 MiB; the arena takes the first window in which its places are
// free, always at the same offsets, so that one masked comparison in the filter finds the stub's code.
//
//   offset      what                                     mapping
//   0x08000000  thread areas                             private (copied by fork), one a thread, %gs base
//   0x0a000000  descriptor table                         private, an entry a descriptor number
//   0x0a080000  process page, site table                 private, written by the supervisor
//   0x0a100000  control block, then the journal's ring   shared by all processes and the supervisor
//   0x0bad0000  the stub's code                          private; its calls are not looked at
//   0x0bad4000  its calls that are traced                private
//
// In an image control block and ring are a private page of zeros: every call goes the slow way until a
// supervisor maps its own there. A new program has a private copy of the control block's head and no ring: what
// it writes to a storage path goes the slow way, and when that is much it gets the shared one.
#pragma once

#include <stdint.h>

#include "seccomp/stub_window.h"

namespace supervise::stub {

inline constexpr uint32_t kVersion = 3;
inline constexpr uint64_t kMagic = 0x6275747365707573;  // "supestub"

inline constexpr uint64_t kWindow = 0x10000000;
inline constexpr unsigned kFirstWindow = 1, kLastWindow = 7;
inline constexpr uint64_t kAreas = 0x08000000, kAreasSize = 0x02000000;
inline constexpr uint64_t kFdTable = 0x0a000000;
inline constexpr uint64_t kProcess = 0x0a080000, kProcessSize = 0x20000;
inline constexpr uint64_t kControl = 0x0a100000, kControlSize = 0x80000;
inline constexpr uint64_t kRing = kControl + kControlSize;
inline constexpr uint64_t kRingSize = 16 << 20;
inline constexpr uint64_t kTraced = kCode + kCodeSize, kTracedSize = 0x1000;

inline constexpr uint64_t kPrivateSize = kProcess + kProcessSize - kAreas;  // areas, descriptors, process page
inline constexpr uint64_t kSharedSize = kControlSize + kRingSize, kWholeCode = kCodeSize + kTracedSize;

// ---- thread areas
inline constexpr uint64_t kAreaSize = 8192;
inline constexpr unsigned kAreaCount = kAreasSize / kAreaSize;

enum Stage : uint32_t {
  kIdle = 0,
  kEntered = 1,   // registers are saved; the call was not made
  kExecuted = 2,  // the call was made, `result` is its result; the journal may not know yet
  kDone = 3,      // ... and all that had to be told is told
};
enum TrapKind : uint32_t {
  kTrapEntry = 0,   // decide, as at any call
  kTrapResult = 1,  // the call was made in process; `result` is what came
};

struct Area {
  // The application's registers at the call; rcx and r11 are the kernel's to clobber.
  uint64_t rax, rdi, rsi, rdx, r10, r8, r9, rsp, rbx, rbp, r12, r13, r14, r15;
  uint64_t slot;       // the site's slot (Slot); return is to slot + kSlotReturn
  int64_t result;      // of the call
  uint32_t stage;      // Stage
  uint32_t trap_kind;  // TrapKind of the next stop at a traced call
  uint32_t tid;        // as the supervisor knows the thread; written by it
  uint32_t hint;       // the supervisor's answer at a stop: a descriptor class, 0: none
  uint32_t ring_held;  // length of the record that is being published or filled, 0: none
  uint32_t file_held;  // 1 + index of the file whose lock is being taken or held, 0: none
  uint64_t ring_pos;   // where that record is
  uint64_t entered;    // ring position at the call's entry
  uint32_t file;       // 1 + index of the file that the call concerns, 0: none is known
  uint32_t path;       // 1 + index of the storage path, 0: none
  uint64_t learned;    // Control::learned at the entry of a sync, 0: not looked at
  uint32_t facts_known;  // of a call that changes names: `facts` tell what was there before it
  uint32_t reserved;
  struct Fact {        // what a name stands for; mode 0: nothing
    uint64_t ino;
    uint32_t mode, links;
  } facts[2];
};
static_assert(sizeof(Area) <= 256);
inline constexpr uint64_t kStackTop = kAreaSize;  // the stub's own stack grows down to the Area

// ---- descriptors. An entry is version << 16 | class. Who closes or replaces a descriptor makes it a
// new version of class 0 first; who learned a class stores it only while the version is the one read
// before he looked. So a class never outlives its descriptor.
inline constexpr unsigned kFds = 65536;
enum FdClass : uint32_t {
  kUnknown = 0,
  kForeign = 1,         // on no storage path
  kDeclaredSlow = 2,    // on one, every call is the supervisor's
  kDeclaredRead = 16,   // + path index: opened for reading only
  kFirstDescription = 64,  // + index in Control::descriptions
};

// ---- process page: written by the supervisor
struct Process {
  uint64_t magic;
  uint32_t version;
  uint32_t sites;       // used entries of the site table
  uint64_t window;      // base address of this arena's window
  uint32_t fd_epoch;    // Control::fd_epoch that the descriptor table was made under (written by the stub)
  uint32_t fd_high;     // highest descriptor number with an entry, and 1 (written by the stub)
  uint64_t reserved[12];
};
static_assert(sizeof(Process) == 128);

enum Method : uint32_t { kMethodNone = 0, kMethodMov = 'A', kMethodPun = 'B', kMethodXor = 'C' };
struct Site {
  uint64_t address;     // of the syscall instruction
  uint64_t slot;
  uint8_t method, patched_at, patched_size, reserved;  // patched_at: bytes before `address`
  uint8_t original[8];  // what was there
  uint8_t pad[4];
};
static_assert(sizeof(Site) == 32);
inline constexpr unsigned kSites = (kProcessSize - sizeof(Process)) / sizeof(Site);

// ---- slots: where a patched site jumps to, within 2 GiB of it. Code:
//   mov  $nr,%eax            only method A (5 bytes), else the slot begins with the next
//   lea  slow(%rip),%r11
//   jmp  *page_entry(%rip)   the page's first 8 bytes hold the address of stub_enter
//   slow: syscall            traced: it is outside of the stub's code
//   jmp  site+2
inline constexpr uint64_t kSlotSize = 32;
inline constexpr uint64_t kSlotReturn = 2;  // behind `slow`; r11 and Area::slot hold the address of `slow`

// ---- control block
enum Mode : uint8_t {
  kModeSlow = 0,     // the supervisor decides
  kModeNative = 1,   // nobody cares
  kModeFd,           // first argument is a descriptor; success changes nothing that we keep
  kModeFdChange,     // as kModeFd, but on a storage path success must be learned: the supervisor's
  kModeTwoFds,       // two descriptors may be on a path: arguments 0 and 1 or 2 (sendfile, splice...)
  kModeName,         // by name, changes nothing
  kModeNameChange,   // by name, changes a name or attribute: the supervisor's on a storage path
  kModeOpen,
  kModeClose,
  kModeCloseRange,
  kModeDup,          // dup, dup2, dup3
  kModeFcntl,
  kModeRead,
  kModeWrite,
  kModeSync,
  kModeMap,
  kModeUnlink,
  kModeRename,
  kModeResize,       // ftruncate
  kModeAttributes,   // fchmod, fchown; utimensat, which has a name or none
};

enum ControlFlags : uint32_t {
  kByMount = 1,       // mount ids tell what is on a storage path
  kJournalContent = 2,
  kJournalRanges = 4,  // neither: writes are not journaled
  kSlow = 8,           // for now the supervisor decides all that is not kModeNative
  kNoPaths = 16,       // none is declared
};

enum FileFlags : uint16_t { kDirectory = 1, kNamed = 2 };
struct File {         // on a storage path; filled before its index is given out, by the supervisor, or by the
                      // stub that has created it
  uint64_t ino;
  uint64_t size;      // at least what the stub saw; atomic maximum
  uint32_t lock;      // of calls with an implicit offset, or that change names in the directory: Lock word
  uint16_t path;
  uint16_t flags;     // FileFlags; kNamed: `dir` and `name` are those of now
  uint16_t described[4];  // 1 + index of a description, by flags & 3; 0: none yet
  uint32_t dir;       // 1 + index of the directory that its name is in; 0: not known
  uint32_t name;      // name_hash()
  uint64_t reserved[3];
};
static_assert(sizeof(File) == 64);

enum DescriptionFlags : uint8_t { kAppend = 1, kDataSync = 2, kDirect = 4, kReadable = 8, kWritable = 16 };
struct Description {  // an open file description, as far as the stub must know it
  uint16_t file;
  uint8_t path;
  uint8_t flags;      // DescriptionFlags
};

// A lock word: 0, or the tid of its owner (Area::tid), with kWaiters when a thread sleeps on it.
inline constexpr uint32_t kWaiters = 0x80000000;

inline constexpr unsigned kFiles = 4096, kDescriptions = 8192, kInodes = 16384, kMounts = 64, kModes = 512;
struct Control {       // up to `files`: what a private copy has
  uint64_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t fd_epoch;         // descriptor tables made under another one are void
  uint32_t mounts;           // used entries of mount_ids
  uint64_t errnos[4];        // bit n: a call that failed with errno n is told
  uint64_t mount_ids[kMounts];
  uint8_t mount_path[kMounts];
  uint8_t modes[kModes];     // by system call number
  uint16_t names[kModes];    // for kModeName...: which arguments are names (name_arg below)
  uint32_t ring_lock;        // Lock word
  uint32_t ring_wanted;      // set by the stub: more than `want_at` bytes are in the ring; cleared by the supervisor
  uint64_t want_at;
  alignas(64) uint64_t head; // bytes ever published; index is head % kRingSize
  alignas(64) uint64_t tail; // bytes ever taken; written by the supervisor
  alignas(64) uint64_t calls;  // made in process (statistics; not exact)
  alignas(64) File files[kFiles];
  Description descriptions[kDescriptions];
  uint64_t learned;          // changes that the supervisor has learned in its own way; written by it
  uint32_t files_used;         // entries of `files` that were given out; may be more than there are
  uint32_t descriptions_used;  // the same of `descriptions`
  uint16_t inodes[kInodes];    // by inode_hash() and the places behind: 1 + index of the file; 0 ends a search
};
static_assert(sizeof(Control) <= kControlSize);

inline constexpr unsigned inode_hash(uint64_t ino) { return static_cast<unsigned>(ino * 0x9e3779b97f4a7c15 >> 50) % kInodes; }
inline constexpr uint32_t name_hash(const char* name, unsigned length) {  // FNV-1a
  uint32_t h = 0x811c9dc5;
  for (unsigned i = 0; i < length; ++i) h = (h ^ static_cast<unsigned char>(name[i])) * 0x01000193;
  return h;
}

// Two names a call, 7 bits each: argument index + 1 of the directory (0: the working directory) in bits 0
// to 2, of the path in bits 3 to 5 (0: no such name), bit 6: a final symbolic link is followed.
inline constexpr uint16_t name_arg(int dirfd, int path, bool follow, int which) {
  return static_cast<uint16_t>((static_cast<unsigned>(dirfd + 1) | static_cast<unsigned>(path + 1) << 3 |
                                (follow ? 64u : 0u)) << (which * 7));
}

// ---- the ring: records of whole cache lines, none of which wraps
enum RecordState : uint32_t {
  kFree = 0,       // never published
  kReserved = 1,   // published; its owner copies
  kCommitted = 2,
  kVoid = 3,       // its owner gave it up
};
enum RecordKind : uint32_t {
  kPad = 1,        // to the ring's end
  kWrite = 2,      // file, offset, bytes; content follows unless kRecordRange
  kSync = 3,       // file; `size` is the ring position at the call's entry, `offset` Control::learned then
  // Those that follow are whole from the moment they are published; `bytes` of content, which begins with:
  kCreate = 4,     // file: the directory. NameChange, name: made, or (kRecordExisted) truncated
  kUnlink = 5,     // file: the directory. NameChange, name
  kRename = 6,     // file: the directory. NameChange, name, new name
  kResize = 7,     // file; `offset` is its new size
  kAttributes = 8, // file; Attributes
};
enum RecordFlags : uint32_t { kRecordRange = 1, kRecordDurable = 2, kRecordDataOnly = 4, kRecordExisted = 8 };
struct Record {
  uint32_t state;
  uint32_t length;   // with header, a multiple of kRecordAlign
  uint16_t kind, flags;
  uint32_t owner;    // tid
  uint32_t file;
  uint32_t reserved;
  uint64_t offset;
  uint64_t bytes;
  uint64_t size;     // of the file after the write
  uint64_t position; // where it was published: tells a record from what lay there before
  uint64_t pad;
};
static_assert(sizeof(Record) == 64);
struct NameChange {
  uint64_t ino;              // what has the name, or had it
  uint32_t mode, links;      // ... before the call; of what was created: after it
  uint32_t uid, gid;
  uint32_t file, description;  // 1 + index that the stub has given to what it created; 0: none
  uint64_t replaced_ino;     // kRename: what the new name stood for before; replaced_mode 0: nothing
  uint32_t replaced_mode, replaced_links;
  uint16_t name, second;     // lengths
  uint32_t description_flags;
};
static_assert(sizeof(NameChange) == 56);
enum AttributeKind : uint32_t { kChangedMode = 1, kChangedOwner = 2, kChangedTimes = 4 };
struct Attributes {
  uint32_t what, mode, uid, gid;
  int64_t atime_sec, mtime_sec;
  uint32_t atime_nsec, mtime_nsec;
};
static_assert(sizeof(Attributes) == 40);
inline constexpr unsigned kLongestName = 255;
inline constexpr uint32_t kRecordAlign = 64;
inline constexpr uint64_t record_length(uint64_t content) {
  return (sizeof(Record) + content + kRecordAlign - 1) & ~uint64_t{kRecordAlign - 1};
}
inline constexpr uint64_t kLargestWrite = kRingSize / 4;  // content; larger ones are the supervisor's

// ---- the head of the code: what the supervisor must know of it; offsets are from kCode
struct CodeHead {
  uint64_t magic;
  uint64_t area_tag;          // (window + kAreas) / kAreasSize; written when the code is put in its place
  uint32_t version;
  uint32_t size;
  uint32_t enter;             // slots jump here
  uint32_t entered;           // [enter, entered): nothing but rcx, r11 and flags was touched
  uint32_t native_insn;       // the syscall instruction for the application's own call
  uint32_t native_recorded;   // [native_insn + 2, native_recorded): executed, its result in rax
  uint32_t traced_back;       // [traced_back, traced_recorded): a traced call has ended, its result in rax
  uint32_t traced_recorded;
  uint32_t leaving;           // [leaving, leave_end): registers are the application's but for r11, the target
  uint32_t leave_end;
  uint32_t traced_entry;      // the traced syscall instructions
  uint32_t traced_result;
  uint32_t first, first_end;  // code that makes mappings (BootMap), also to be put at the begin of a program
  uint32_t first_stop;        // its traced syscall instruction, from `first`
  uint32_t maps_stop;         // in the arena that is another one, whose address r15 must have
  uint32_t calls;             // code that makes calls (ArenaCall), to the same stop
  uint32_t reserved;
};

// ---- mappings that a thread is told to make, kBootTable below its stack pointer: a program that gets its arena
// before it runs, or one that needs pages for slots (the table is in the area then, as nothing else is).
inline constexpr uint64_t kBootTable = 0x1000, kAreaTable = 0x400;
inline constexpr unsigned kBootMaps = 12;
struct BootMap {
  uint64_t address, size;  // size 0: none, and none behind it
  uint32_t prot, flags;
  int64_t result;
};
struct BootTable {
  BootMap maps[kBootMaps + 1];
  uint8_t code[128];       // of a program, where our code is
};
static_assert(sizeof(BootMap) == 32 && sizeof(BootTable) < kBootTable);

// ---- calls that a thread is told to make, one after the other, whatever comes of each; rbp has the table
struct ArenaCall {
  int64_t nr;              // below 0: none, and none behind it
  uint64_t arguments[6];
  int64_t result;
};
static_assert(sizeof(ArenaCall) == 64);
inline constexpr unsigned kArenaCalls = 7;
inline constexpr uint64_t kAreaData = kAreaTable + (kArenaCalls + 1) * sizeof(ArenaCall), kAreaDataSize = 0x200;

}  // namespace supervise::stub
