"""The harness of the integration tests: hosts made of namespaces, storage that fails, programs with
deadlines, and nothing left behind. See scenario.py for how a test is written."""

from .daemon import FaultDaemon
from .disk import FailingDisk, FuseDirectory, SmallFileSystem
from .host import Host
from .needs import criu_binary
from .process import Process
from .scenario import Interrupted, Scenario, Skip, run
from .system import LoopDevice, emergency_read_only, shutdown_file_system, wait_until

__all__ = ["FailingDisk", "FaultDaemon", "FuseDirectory", "Host", "Interrupted", "LoopDevice", "Process",
           "Scenario", "Skip", "SmallFileSystem", "criu_binary", "emergency_read_only", "run",
           "shutdown_file_system", "wait_until"]
