#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "restore/digest.h"
#include "restore/host_identity.h"
#include "restore/image_receive.h"
#include "restore/image_store.h"
#include "restore/remote_standby.h"
#include "restore/tls_keys.h"
#include "tests/restore/test_support.h"

namespace supervise {
namespace {

using namespace test;
using testing::HasSubstr;

TEST(NetAddress, ReadsHostsAndPorts) {
  const auto plain = parse_net_address("b.example:7410", false);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->host, "b.example");
  EXPECT_EQ(plain->port, 7410);
  const auto v6 = parse_net_address("[fe80::1]:80", false);
  ASSERT_TRUE(v6.ok());
  EXPECT_EQ(v6->host, "fe80::1");
  EXPECT_EQ(v6->text(), "[fe80::1]:80");
  EXPECT_TRUE(parse_net_address(":0", true).ok());
  for (const char* bad : {"b", "b:", "b:x", "b:70000", "b:0", ":80", "fe80::1:80", "[fe80::1:80", "a/b:80", "b:80 "})
    EXPECT_FALSE(parse_net_address(bad, false).ok()) << bad;
}

// A standby's receiver in a child, on loopback.
class Network : public testing::Test {
 protected:
  static constexpr Millis kLong{30000};

  void SetUp() override {
    bool made = false;
    ASSERT_TRUE(make_authority(keys_.path(), made).ok());
    ASSERT_TRUE(made);
    for (const char* host : {"127.0.0.1", "other.example"}) ASSERT_TRUE(make_host_keys(keys_.path(), host).ok());
    bool again = true;
    ASSERT_TRUE(make_authority(keys_.path(), again).ok());
    EXPECT_FALSE(again);
    auto listeners = listen_on({"127.0.0.1", 0});
    ASSERT_TRUE(listeners.ok()) << listeners.error().message();
    listener_ = std::move(listeners->front());
    where_ = {"127.0.0.1", port_of(listener_.get())};
    store_ = ImageStore::open(keys_ / "images", "app", true).take();
  }
  TlsContext tls(const std::string& host) const {
    auto context = TlsContext::load(keys_ / host);
    EXPECT_TRUE(context.ok()) << context.error().message();
    return context.take();
  }
  // Serves one connection with the certificate of `host`.
  pid_t serve(const std::string& host = "127.0.0.1") {
    const TlsContext mine = tls(host);
    return in_child([&, mine] {
      pollfd p{listener_.get(), POLLIN, 0};
      if (poll(&p, 1, 30000) != 1) return 9;
      UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      auto stream = TlsStream::accept(mine, std::move(fd), Deadline::in(kLong));
      if (!stream) return 8;
      const ReceiveLog quiet{[](const std::string&) {}, [](const std::string&) {}};
      return serve_origin(stream.take(), store_->dir(), "app", quiet).ok() ? 0 : 7;
    });
  }
  Result<RemoteStandby> connect(const std::string& app = "app") const {
    return RemoteStandby::connect(tls("127.0.0.1"), where_, app, Deadline::in(kLong));
  }
  static std::string manifest_of(const std::vector<std::pair<std::string, std::string>>& parts, const std::string& app = "app") {
    Manifest m;
    m.app_name = app;
    m.reason = "warm";
    m.generation = 77;
    for (const auto& [name, content] : parts) m.parts.push_back({name, content.size(), sha256_of_bytes(content)});
    return m.to_json();
  }
  static Status put(RemoteStandby& remote, const std::string& part, const std::string& content, std::uint64_t at = 0) {
    return remote.data(part, at, content.data(), content.size(), Deadline::in(kLong));
  }

  // Exit status of a child.
  static int status_of(pid_t child) {
    const int status = wait_for(child, kLong);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  ScratchDir keys_;
  UniqueFd listener_;
  NetAddress where_;
  std::optional<ImageStore> store_;
};

TEST_F(Network, AnImageArrivesWhole) {
  const pid_t child = serve();
  auto remote = connect();
  ASSERT_TRUE(remote.ok()) << remote.error().message();
  const std::string pages(900000, 'p'), core = "core";
  std::optional<ArrivedImage> arrived;
  auto there = remote->begin("00ff", arrived, Deadline::in(kLong));
  ASSERT_TRUE(there.ok()) << there.error().message();
  EXPECT_TRUE(there->empty());
  ASSERT_TRUE(put(*remote, "pages-1.img", pages).ok());
  ASSERT_TRUE(put(*remote, "core-1.img", core).ok());
  EXPECT_LT(remote->bytes_sent(), 100000u) << "what repeats is packed";
  std::vector<std::string> damaged;
  auto image = remote->finish(manifest_of({{"pages-1.img", pages}, {"core-1.img", core}, {"empty.img", ""}}), damaged, Deadline::in(kLong));
  ASSERT_TRUE(image.ok()) << image.error().message();
  EXPECT_TRUE(damaged.empty());
  EXPECT_EQ(image->image, "gen-000001");
  EXPECT_TRUE(verify_image(store_->dir() + "/gen-000001").ok());

  const Commit commit{3, 1, HostIdentity::self(), 5};
  ASSERT_TRUE(remote->commit("gen-000001", commit, Deadline::in(kLong)).ok());
  EXPECT_TRUE(remote->commit("gen-000001", commit, Deadline::in(kLong)).ok()) << "asking twice is harmless";
  const auto state = remote->state(Deadline::in(kLong));
  ASSERT_TRUE(state.ok());
  EXPECT_EQ(state->committed, "gen-000001");
  ASSERT_TRUE(state->commit.has_value());
  EXPECT_EQ(state->commit->epoch, 3u);
  EXPECT_FALSE(state->claim.has_value());
  EXPECT_TRUE(remote->retract("gen-000001", Deadline::in(kLong)).ok());
  EXPECT_EQ(remote->state(Deadline::in(kLong))->committed, "");
  // Its answer was lost: the same upload is there.
  auto twice = remote->begin("00ff", arrived, Deadline::in(kLong));
  ASSERT_TRUE(twice.ok());
  ASSERT_TRUE(arrived.has_value());
  EXPECT_EQ(arrived->image, "gen-000001");
  remote = plain_error("ended");
  EXPECT_EQ(status_of(child), 7) << "an upload was begun";
}

TEST_F(Network, GoesOnWhereAConnectionBrokeAndAsksForWhatIsDamaged) {
  const std::string pages(300000, 'x');
  {
    const pid_t child = serve();
    auto remote = connect();
    ASSERT_TRUE(remote.ok());
    std::optional<ArrivedImage> arrived;
    ASSERT_TRUE(remote->begin("ab", arrived, Deadline::in(kLong)).ok());
    ASSERT_TRUE(put(*remote, "pages-1.img", pages.substr(0, 100000)).ok());
    ASSERT_TRUE(put(*remote, "mm-1.img", "wrong").ok());
    ASSERT_TRUE(remote->epoch(Deadline::in(kLong)).ok());  // all before it has arrived
    remote = plain_error("broken");
    EXPECT_EQ(status_of(child), 7) << "an upload that is not finished is no good end";
  }
  EXPECT_TRUE(store_->list()->empty()) << "what is half is no image";
  const pid_t child = serve();
  auto remote = connect();
  ASSERT_TRUE(remote.ok());
  std::optional<ArrivedImage> arrived;
  auto there = remote->begin("ab", arrived, Deadline::in(kLong));
  ASSERT_TRUE(there.ok());
  EXPECT_FALSE(arrived.has_value());
  EXPECT_EQ((*there)["pages-1.img"], 100000u);
  ASSERT_TRUE(put(*remote, "pages-1.img", pages.substr(100000), 100000).ok());
  std::vector<std::string> damaged;
  const auto manifest = manifest_of({{"pages-1.img", pages}, {"mm-1.img", "right"}, {"ids-1.img", "ids"}});
  ASSERT_TRUE(remote->finish(manifest, damaged, Deadline::in(kLong)).ok());
  EXPECT_EQ(damaged, (std::vector<std::string>{"mm-1.img", "ids-1.img"}));
  EXPECT_TRUE(store_->list()->empty());
  ASSERT_TRUE(put(*remote, "mm-1.img", "right").ok());
  ASSERT_TRUE(put(*remote, "ids-1.img", "ids").ok());
  auto image = remote->finish(manifest, damaged, Deadline::in(kLong));
  ASSERT_TRUE(image.ok()) << image.error().message();
  EXPECT_TRUE(damaged.empty());
  EXPECT_TRUE(verify_image(store_->dir() + "/" + image->image).ok());
  remote = plain_error("ended");
  EXPECT_EQ(status_of(child), 0);
}

TEST_F(Network, TheNewerConnectionOfAnUploadWins) {
  const pid_t child = serve();
  auto old = connect();
  ASSERT_TRUE(old.ok());
  std::optional<ArrivedImage> arrived;
  ASSERT_TRUE(old->begin("ef", arrived, Deadline::in(kLong)).ok());
  const pid_t second = serve();
  auto newer = connect();
  ASSERT_TRUE(newer.ok());
  ASSERT_TRUE(newer->begin("ef", arrived, Deadline::in(kLong)).ok());
  EXPECT_EQ(status_of(child), -1) << "the older one was ended";
  ASSERT_TRUE(put(*newer, "a.img", "a").ok());
  std::vector<std::string> damaged;
  EXPECT_TRUE(newer->finish(manifest_of({{"a.img", "a"}}), damaged, Deadline::in(kLong)).ok());
  newer = plain_error("ended");
  EXPECT_EQ(status_of(second), 0);
}

TEST_F(Network, RefusesWhatIsNotItsBusiness) {
  const pid_t child = serve();
  auto other = connect("another");
  ASSERT_FALSE(other.ok());
  EXPECT_THAT(other.error().message(), HasSubstr("standby for \"app\", not for \"another\""));
  EXPECT_EQ(status_of(child), 0);

  const pid_t second = serve();
  auto remote = connect();
  ASSERT_TRUE(remote.ok());
  std::optional<ArrivedImage> arrived;
  EXPECT_FALSE(remote->begin("../x", arrived, Deadline::in(kLong)).ok());
  EXPECT_FALSE(remote->commit("../../etc", {}, Deadline::in(kLong)).ok());
  EXPECT_FALSE(remote->commit("gen-000009", {}, Deadline::in(kLong)).ok());
  ASSERT_TRUE(remote->begin("cd", arrived, Deadline::in(kLong)).ok());
  ASSERT_TRUE(put(*remote, "../../escaped.img", "x").ok());
  std::vector<std::string> damaged;
  auto escaped = remote->finish(manifest_of({{"../../escaped.img", "x"}}), damaged, Deadline::in(kLong));
  ASSERT_FALSE(escaped.ok());
  EXPECT_THAT(escaped.error().message(), HasSubstr("is no part of an image"));
  EXPECT_NE(access((keys_ / "escaped.img").c_str(), F_OK), 0);
  ASSERT_TRUE(remote->begin("ce", arrived, Deadline::in(kLong)).ok());
  ASSERT_TRUE(put(*remote, "a.img", "x").ok());
  auto foreign = remote->finish(manifest_of({{"a.img", "x"}}, "another"), damaged, Deadline::in(kLong));
  ASSERT_FALSE(foreign.ok());
  EXPECT_THAT(foreign.error().message(), HasSubstr("the image is of \"another\""));
  remote = plain_error("ended");
  status_of(second);
}

TEST_F(Network, TrustsOneAuthorityAndTheNameThatWasAskedFor) {
  const pid_t child = serve("other.example");
  auto wrong = connect();
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().err, EACCES) << wrong.error().message();
  EXPECT_THAT(wrong.error().message(), HasSubstr("IP address mismatch"));
  EXPECT_EQ(status_of(child), 8);

  ScratchDir elsewhere;
  bool made = false;
  ASSERT_TRUE(make_authority(elsewhere.path(), made).ok());
  ASSERT_TRUE(make_host_keys(elsewhere.path(), "127.0.0.1").ok());
  // Its own certificate is foreign; the standby's it would believe.
  ASSERT_EQ(rename((keys_ / "other.example/ca.pem").c_str(), (elsewhere / "127.0.0.1/ca.pem").c_str()), 0);
  const pid_t second = serve();
  auto foreign = TlsContext::load(elsewhere / "127.0.0.1");
  ASSERT_TRUE(foreign.ok());
  auto refused = RemoteStandby::connect(*foreign, where_, "app", Deadline::in(kLong));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(status_of(second), 8);
}

TEST_F(Network, FilesThatAreMissingOrOpenToOthersAreNamed) {
  ASSERT_EQ(chmod((keys_ / "127.0.0.1/key.pem").c_str(), 0644), 0);
  auto open_key = TlsContext::load(keys_ / "127.0.0.1");
  ASSERT_FALSE(open_key.ok());
  EXPECT_THAT(open_key.error().message(), HasSubstr("chmod 600"));
  auto none = TlsContext::load(keys_ / "none");
  ASSERT_FALSE(none.ok());
  EXPECT_THAT(none.error().message(), HasSubstr("none/ca.pem"));
  EXPECT_THAT(none.error().message(), HasSubstr("supervise keys"));
  EXPECT_EQ(make_host_keys(keys_.path(), "127.0.0.1").error().err, EEXIST);
  EXPECT_EQ(make_host_keys(keys_.path(), "a/b").error().err, EINVAL);
}

TEST_F(Network, WhatIsNoMessageEndsTheConnection) {
  const TlsContext mine = tls("127.0.0.1");
  const std::string noise(4096, '\xff');
  const pid_t child = serve();
  auto stream = TlsStream::connect(mine, where_, Deadline::in(kLong));
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE(stream->write(noise.data(), noise.size(), Deadline::in(kLong)).ok());
  EXPECT_EQ(status_of(child), 7);
  const pid_t second = serve();
  auto silent = TlsStream::connect(mine, where_, Deadline::in(kLong));
  ASSERT_TRUE(silent.ok());
  ASSERT_TRUE(wire::send(*silent, "{\"what\":\"commit\"}", Deadline::in(kLong)).ok());
  EXPECT_EQ(status_of(second), 7) << "nothing goes before hello";
}

}  // namespace
}  // namespace supervise
