// Sockets, System V semaphores and queues, POSIX message queues.
#include <arpa/inet.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "../blocking.h"

namespace blocking {
namespace {

int listener(sockaddr_in& address) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  must(bind(fd, (sockaddr*)&address, sizeof address) == 0 && listen(fd, 5) == 0, "listen");
  socklen_t size = sizeof address;
  getsockname(fd, (sockaddr*)&address, &size);
  return fd;
}

int semaphores = -1, queues[2] = {-1, -1};

}  // namespace

void add_sockets() {
  static sockaddr_in address{}, accepting{};
  static int udp = socket(AF_INET, SOCK_DGRAM, 0);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  must(bind(udp, (sockaddr*)&address, sizeof address) == 0, "bind");
  socklen_t size = sizeof address;
  getsockname(udp, (sockaddr*)&address, &size);
  released("recvfrom(udp)", 0, [] { char b[8]; return recv(udp, b, 8, 0); }, returns(1),
           [] { must(sendto(udp, "x", 1, 0, (sockaddr*)&address, sizeof address) == 1, "sendto"); });
  timed("recv(SO_RCVTIMEO)", 0, [] {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in any{};
    any.sin_family = AF_INET;
    must(bind(s, (sockaddr*)&any, sizeof any) == 0, "bind");
    timespec t = span();
    timeval v{t.tv_sec, t.tv_nsec / 1000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &v, sizeof v);
    char b[8];
    return recv(s, b, 8, 0);
  }, -1, EAGAIN);

  static int tcp = listener(accepting);
  released("accept(tcp)", 0, [] { return accept(tcp, nullptr, nullptr); }, at_least_zero(), [] {
    int s = socket(AF_INET, SOCK_STREAM, 0);
    must(connect(s, (sockaddr*)&accepting, sizeof accepting) == 0, "connect");
  });

  static sockaddr_un local{AF_UNIX, {}};
  snprintf(local.sun_path, sizeof local.sun_path, "%s/socket", dir.c_str());
  unlink(local.sun_path);
  static int unix_listener = socket(AF_UNIX, SOCK_STREAM, 0);
  must(bind(unix_listener, (sockaddr*)&local, sizeof local) == 0 && listen(unix_listener, 5) == 0, "bind unix");
  released("accept4(unix)", 0, [] { return accept4(unix_listener, nullptr, nullptr, SOCK_CLOEXEC); }, at_least_zero(), [] {
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    must(connect(s, (sockaddr*)&local, sizeof local) == 0, "connect unix");
  });

  static auto receive = [](int fd, int flags) {
    char b[16];
    iovec v{b, sizeof b};
    msghdr m{};
    m.msg_iov = &v, m.msg_iovlen = 1;
    return recvmsg(fd, &m, flags);
  };
  static int stream[2], datagram[2], waitall[2], blocked[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram) == 0 &&
           socketpair(AF_UNIX, SOCK_SEQPACKET, 0, waitall) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, blocked) == 0,
       "socketpair");
  released("recvmsg(unix stream)", 0, [] { return receive(stream[0], 0); }, returns(5), [] { must(write(stream[1], "hello", 5) == 5, "write"); });
  released("recvmsg(unix dgram)", 6, [] { return receive(datagram[0], 0); }, returns(4), [] { must(write(datagram[1], "four", 4) == 4, "write"); });
  released("recvmmsg(seqpacket)", 6, [] {
    char b[16];
    iovec v{b, sizeof b};
    mmsghdr m{};
    m.msg_hdr.msg_iov = &v, m.msg_hdr.msg_iovlen = 1;
    return (long)recvmmsg(waitall[0], &m, 1, 0, nullptr);
  }, returns(1), [] { must(write(waitall[1], "ab", 2) == 2, "write"); });
  fill_nonblocking(blocked[1]);
  released("send(full unix)", 0, [] { return send(blocked[1], "z", 1, MSG_NOSIGNAL); }, returns(1), [] {
    int flags = fcntl(blocked[0], F_GETFL);
    fcntl(blocked[0], F_SETFL, flags | O_NONBLOCK);
    std::vector<char> b(65536);
    while (read(blocked[0], b.data(), b.size()) > 0) {
    }
  });
}

void add_sysv() {
  semaphores = semget(IPC_PRIVATE, 2, 0600);
  for (int& queue : queues) queue = msgget(IPC_PRIVATE, 0600);
  static const int sems = semaphores, in = queues[0], full = queues[1];
  must(sems >= 0 && in >= 0 && full >= 0, "sysv ipc");
  struct Message { long type; char text[512]; };
  released("semop", 7, [] { sembuf op{0, -1, 0}; return semop(sems, &op, 1); }, returns(0),
           [] { sembuf op{0, 1, 0}; must(semop(sems, &op, 1) == 0, "semop"); });
  timed("semtimedop", 7, [] { sembuf op{1, -1, 0}; timespec t = span(); return semtimedop(sems, &op, 1, &t); }, -1, EAGAIN);
  released("msgrcv", 7, [] { Message m; return msgrcv(in, &m, sizeof m.text, 0, 0); }, returns(2),
           [] { Message m{1, "z"}; must(msgsnd(in, &m, 2, 0) == 0, "msgsnd"); });
  Message m{1, ""};
  while (msgsnd(full, &m, sizeof m.text, IPC_NOWAIT) == 0) {
  }
  while (msgsnd(full, &m, 1, IPC_NOWAIT) == 0) {
  }
  released("msgsnd(full)", 0, [] { Message one{1, "q"}; return msgsnd(full, &one, 1, 0); }, returns(0),
           [] { Message one; must(msgrcv(full, &one, sizeof one.text, 0, 0) >= 0, "msgrcv"); });
}

void remove_sysv() {
  if (semaphores >= 0) semctl(semaphores, 0, IPC_RMID);
  for (int queue : queues)
    if (queue >= 0) msgctl(queue, IPC_RMID, nullptr);
}

void add_mqueue() {
  static char name[64];
  snprintf(name, sizeof name, "/guest-blocking-%d", getpid());
  mq_attr attributes{};
  attributes.mq_maxmsg = 2, attributes.mq_msgsize = 32;
  static mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
  if (queue < 0) {
    line("skip mq_receive: %s", strerror(errno));
    return;
  }
  mq_unlink(name);
  released("mq_receive", 0, [] { char b[32]; return mq_receive(queue, b, sizeof b, nullptr); }, returns(3),
           [] { must(mq_send(queue, "abc", 3, 0) == 0, "mq_send"); });
}

}  // namespace blocking
