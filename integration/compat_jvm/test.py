"""A JVM: threads, files, mappings, child processes, sockets and garbage collection, natively and under supervise."""

import harness
from compat_support import WORK, Problems


def main(t):
    host = t.host("jvm")
    problems = Problems(t)
    if host.run(["javac", "-d", "/srv/classes", t.folder / "Work.java"], 60, check=False).status != 0:
        t.skip("javac is not installed (default-jdk-headless)")
    problems.same(host, "the version", ["java", "-Xshare:auto", "-version"], seconds=60, status=0)
    for what, options, modes in (("default collector", [], ("bare", "path")), ("serial collector, interpreted", ["-XX:+UseSerialGC", "-Xint"], ("path",)),
                                 ("ZGC", ["-XX:+UseZGC"], ("path",))):
        problems.same(host, what, ["java", "-Xmx256m", *options, "-cp", "/srv/classes", "Work", f"{WORK}/java"], modes=modes, seconds=90, status=21)
    # The JVM handles these itself: SIGTERM runs the hooks, SIGQUIT prints all threads and goes on.
    for mode in ("native", "bare"):
        script = "import java.util.*; class W { public static void main(String[] a) throws Exception { System.out.println(\"up\"); Thread.sleep(60000); } }"
        host.path(f"{WORK}").mkdir(exist_ok=True)
        host.path(f"{WORK}/W.java").write_text(script)
        prefix = [] if mode == "native" else [t.supervise_binary(), "run", "--log-level", "error", "--"]
        one = host.start([*prefix, "java", "-Xmx64m", f"{WORK}/W.java"], name=f"java-{mode}")
        one.wait_line("^up$", 40)
        one.signal(3)
        problems.attempt(one.wait_line, "Full thread dump", 15)
        one.signal(15)
        problems.attempt(t.equal, one.wait(20), 143, f"SIGTERM ends the JVM with 143 ({mode})")
    problems.finish()


harness.run(main)
