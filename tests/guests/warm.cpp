// Initializes in a random order (SEED), with 4 processes and 20 threads that speak with one another
// over sockets, FIFOs and System V messages; then each thread "ref-*" uses something outside, once,
// and the others wait in a way of their own. Thread names are what an image's manifest shows.
// warm DIR SEED TCP_PORT UDP_PORT LISTEN_PORT: in DIR outside.sock and outside.fifo, @outside and
// /dev/shm/outside belong to others. Prints "passed NAME" per reference and "end"; ERR on surprise.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

static std::string dir;
static unsigned seed;
static int tcp_port, udp_port, listen_port, queue = -1;

static volatile int* ending;  // shared: connections end with their processes

static void err(const char* what) {
  if (ending && *ending) return;
  printf("ERR %s: %s\n", what, strerror(errno));
  fflush(stdout);
}
#define OK(x) ((x) >= 0 ? 0 : (err(#x), 1))

static void work(const char* name) {
  std::mt19937 random(seed * 7919 + std::hash<std::string>()(name));
  for (int i = 0, n = static_cast<int>(random() % 4); i <= n; ++i) {
    if (random() % 2) {
      timespec ts{0, static_cast<long>(random() % 20'000'000)};
      nanosleep(&ts, nullptr);
    } else {
      const unsigned rounds = random() % 4'000'000;
      for (volatile unsigned spin = 0; spin < rounds;) spin = spin + 1;
    }
  }
}

using Body = std::function<void()>;
static std::vector<std::thread> references;

static void thread(const char* name, bool reference, Body body) {
  std::thread t([=] {
    pthread_setname_np(pthread_self(), name);
    work(name);
    body();
    if (!reference) return;
    printf("passed %s\n", name);
    fflush(stdout);
  });
  if (reference) references.push_back(std::move(t));
  else t.detach();
}

static sockaddr_in loopback(int port) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(static_cast<uint16_t>(port));
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return a;
}
static sockaddr_un named(const std::string& name, socklen_t* size) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  memcpy(a.sun_path, name.data(), name.size());
  *size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size() + (name[0] ? 1 : 0));
  return a;
}
template <class A>
static int connected(int family, const A& a, socklen_t size, bool patient) {
  for (int i = 0; i < 2000; ++i) {
    int fd = socket(family, SOCK_STREAM, 0);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&a), size) == 0) return fd;
    close(fd);
    if (!patient) return -1;
    poll(nullptr, 0, 2);
  }
  return -1;
}
static int connect_unix(const std::string& name, bool patient) {
  socklen_t size;
  auto a = named(name, &size);
  return connected(AF_UNIX, a, size, patient);
}
static int listen_unix(const std::string& name) {
  socklen_t size;
  auto a = named(name, &size);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (OK(bind(fd, reinterpret_cast<sockaddr*>(&a), size)) || OK(listen(fd, 5))) return -1;
  return fd;
}
static void serve(int listener) {
  int c = accept(listener, nullptr, nullptr);
  char byte = 0;
  while (read(c, &byte, 1) == 1)
    if (write(c, &byte, 1) != 1) err("echo");
  err("the inner connection ended");
}
static void use(int fd) {  // an inner connection works, now and later
  char byte = 'x';
  if (OK(fd)) return;
  for (;;) {
    if (write(fd, "x", 1) != 1 || read(fd, &byte, 1) != 1) return err("inner connection");
    poll(nullptr, 0, 40);
  }
}

static int inner_tcp[2];  // a pipe that tells the port to the client

static void first() {
  thread("in-tcp-srv", false, [] {
    int l = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in a = loopback(0);
    socklen_t size = sizeof a;
    if (OK(bind(l, reinterpret_cast<sockaddr*>(&a), size)) || OK(listen(l, 5)) ||
        OK(getsockname(l, reinterpret_cast<sockaddr*>(&a), &size)))
      return;
    int port = ntohs(a.sin_port);
    (void)!write(inner_tcp[1], &port, sizeof port);
    serve(l);
  });
  thread("ref-tcp", true, [] {
    sockaddr_in a = loopback(tcp_port);
    int fd = connected(AF_INET, a, sizeof a, false);
    if (!OK(fd)) (void)!write(fd, "hello\n", 6);
  });
  thread("ref-unix", true, [] { OK(connect_unix(dir + "/outside.sock", false)); });
}

static void second() {
  thread("in-tcp-cli", false, [] {
    int port = 0;
    if (read(inner_tcp[0], &port, sizeof port) != sizeof port) err("port");
    sockaddr_in a = loopback(port);
    use(connected(AF_INET, a, sizeof a, false));
  });
  thread("ref-udp", true, [] {
    sockaddr_in a = loopback(udp_port);
    OK(sendto(socket(AF_INET, SOCK_DGRAM, 0), "hello\n", 6, 0, reinterpret_cast<sockaddr*>(&a), sizeof a));
  });
  thread("ref-abstract", true, [] { OK(connect_unix(std::string("\0outside", 8), false)); });
  thread("in-unix-srv", false, [] { serve(listen_unix(dir + "/inside.sock")); });
  thread("in-abs-srv", false, [] { serve(listen_unix(std::string("\0inside", 7))); });
}

static void third() {
  thread("ref-fifo", true, [] { OK(open((dir + "/outside.fifo").c_str(), O_WRONLY)); });
  thread("ref-listen", true, [] {
    sockaddr_in a = loopback(listen_port);
    a.sin_addr.s_addr = INADDR_ANY;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    OK(bind(fd, reinterpret_cast<sockaddr*>(&a), sizeof a));
  });
  thread("in-unix-cli", false, [] { use(connect_unix(dir + "/inside.sock", true)); });
  thread("in-abs-cli", false, [] { use(connect_unix(std::string("\0inside", 7), true)); });
  thread("in-fifo-w", false, [] {
    int fd = open((dir + "/inside.fifo").c_str(), O_WRONLY);
    (void)!write(fd, "x", 1);
    pause();
  });
  thread("in-msg-w", false, [] {
    struct { long type = 1; char text = 'x'; } m;
    OK(msgsnd(queue, &m, 1, 0));
    pause();
  });
}

static void fourth() {
  thread("ref-netlink", true, [] { OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT)); });
  thread("ref-packet", true, [] { OK(socket(AF_PACKET, SOCK_DGRAM, 0)); });
  thread("ref-shm", true, [] { OK(shm_open("/outside", O_RDWR, 0600)); });
  thread("ref-device", true, [] { OK(open("/dev/loop-control", O_RDWR | O_CLOEXEC)); });
  thread("in-fifo-r", false, [] {
    int fd = open((dir + "/inside.fifo").c_str(), O_RDONLY);
    char byte = 0;
    if (read(fd, &byte, 1) != 1) err("inner fifo");
    if (read(fd, &byte, 1) != 0) err("inner fifo");  // waits
  });
  thread("in-msg-r", false, [] {
    struct { long type; char text[8]; } m;
    if (msgrcv(queue, &m, 8, 0, 0) != 1) err("msgrcv");
    int own = shm_open("/inside", O_RDWR | O_CREAT, 0600);
    OK(own);
    shm_unlink("/inside");
    msgrcv(queue, &m, 8, 0, 0);  // waits
  });
}

int main(int argc, char** argv) {
  if (argc < 6) return 2;
  dir = argv[1];
  seed = static_cast<unsigned>(atoi(argv[2]));
  tcp_port = atoi(argv[3]);
  udp_port = atoi(argv[4]);
  listen_port = atoi(argv[5]);
  signal(SIGPIPE, SIG_IGN);
  ending = static_cast<int*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  queue = msgget(ftok("/", static_cast<int>(seed % 250) + 1), IPC_CREAT | 0600);
  if (OK(queue) || OK(pipe(inner_tcp)) || OK(mkfifo((dir + "/inside.fifo").c_str(), 0600))) return 1;
  void (*rest[])() = {second, third, fourth};
  std::vector<pid_t> children;
  for (auto one : rest) {
    pid_t pid = fork();
    if (pid == 0) {
      one();
      for (auto& t : references) t.join();
      // Its inner servers and waiters serve on until the first process ends.
      for (;;) pause();
    }
    children.push_back(pid);
  }
  first();
  for (auto& t : references) t.join();
  char go = 0;
  if (read(0, &go, 1) < 0) err("stdin");  // the scenario says when all have passed
  *ending = 1;
  for (pid_t pid : children) kill(pid, SIGKILL);
  for (pid_t pid : children) waitpid(pid, nullptr, 0);
  msgctl(queue, IPC_RMID, nullptr);
  unlink((dir + "/inside.fifo").c_str());
  unlink((dir + "/inside.sock").c_str());
  printf("end\n");
}
