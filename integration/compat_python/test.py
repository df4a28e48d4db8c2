"""Python's own tests, those that end soon: the same outcome, test by test, natively and under supervise."""

import harness
from compat_support.python_tests import compare

GROUPS = [
    ["test_fcntl", "test_mmap", "test_pty", "test_select", "test_epoll", "test_fork1", "test_posix", "test_pipes"],
    ["test_os", "-test_os.TerminalSizeTests"],
    ["test_subprocess.POSIXProcessTestCase", "-test_subprocess.POSIXProcessTestCase.test_communicate_repeated",
     "test_subprocess.ContextManagerTests"],
    ["test_signal", "-test_signal.SiginterruptTest", "-test_signal.StressTest", "-test_signal.ItimerTest"],
    ["test_threading.ThreadTests", "test_threading.ThreadJoinOnShutdown", "test_threading.SubinterpThreadingTests",
     "test_threading.InterruptMainTests", "test_threading.LockTests"],
    ["test_io.CBufferedReaderTest", "test_io.CBufferedWriterTest", "test_io.CMiscIOTest", "test_io.CIOTest",
     "test_socket.BasicTCPTest", "test_socket.BasicUDPTest", "test_socket.SendmsgUnixStreamTest", "test_socket.RecvmsgSCMRightsStreamTest",
     "test_socket.TestUnixDomain", "test_socket.SendfileUsingSendfileTest", "test_socket.SocketPairTest"],
]


def main(t):
    compare(t, GROUPS, ("path",), 90)


harness.run(main)
