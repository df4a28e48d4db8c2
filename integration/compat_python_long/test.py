"""Python's own tests of os, subprocess, signal, threading, socket and io, whole, natively and under supervise."""

import harness
from compat_support.python_tests import compare

# In a virtual machine whose host listens on no vsock an accept of one waits for ever, natively too.
VSOCK = ["-test_socket.ThreadedVSOCKSocketStreamTest", "-test_socket.BasicVSOCKTest"]
GROUPS = [["test_socket", *VSOCK]] + [[name] for name in (
    "test_os", "test_subprocess", "test_signal", "test_threading", "test_io", "test_mmap", "test_fcntl",
    "test_posix", "test_select", "test_epoll", "test_poll", "test_selectors", "test_pty", "test_wait3", "test_wait4", "test_fork1",
    "test_eintr", "test_tempfile", "test_pathlib", "test_shutil", "test_file", "test_fileio", "test_largefile", "test_mailbox",
    "test_concurrent_futures", "test_queue", "test_faulthandler", "test_resource", "test_popen", "test_cmd_line", "test_dbm_dumb",
    "test_sqlite3", "test_asyncio.test_subprocess", "test_asyncio.test_unix_events")]


def main(t):
    compare(t, GROUPS, ("bare", "path"), 900)


harness.run(main)
