// What the parts with signals share: a handler that does I/O of its own, what brings signals, and work that they
// meet.
#pragma once

#include <atomic>
#include <signal.h>

namespace stress {

extern int handler_pipe[2], handler_file;
extern std::atomic<long> handled, handler_bytes;

// What a handler may do: its own calls, with results that it checks; errno stays the interrupted code's.
void busy_handler(int signal, siginfo_t*, void*);
void handle(int signal, void (*f)(int, siginfo_t*, void*), int flags);
void every_ms(double ms);
void open_handler_files();
void close_handler_files();

// Reads and writes of known content; every result is what it would be without a signal.
void plain_work(int id, const std::atomic<bool>& end);

}  // namespace stress
