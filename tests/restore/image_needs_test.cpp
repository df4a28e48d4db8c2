#include "restore/image_needs.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "restore/protobuf_walk.h"

namespace supervise {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

void put_number(std::string& out, std::uint32_t field, std::uint64_t value) {
  proto_put_varint(out, field << 3);
  proto_put_varint(out, value);
}

// A files.img with these file_entry messages.
std::string files_img(const std::vector<std::string>& entries) {
  std::string out("\x19\x43\x56\x54\x38\x31\x30\x56", 8);
  for (const auto& e : entries) {
    const auto size = static_cast<std::uint32_t>(e.size());
    out.append(reinterpret_cast<const char*>(&size), 4);
    out += e;
  }
  return out;
}

std::string entry(std::uint32_t field, const std::string& content) {
  std::string out;
  put_number(out, 1, 1);
  put_number(out, 2, 7);
  proto_put_bytes(out, field, content);
  return out;
}

std::string inet(int family, int type, int state, int port, const std::vector<std::uint32_t>& address) {
  std::string m;
  put_number(m, 3, static_cast<std::uint64_t>(family));
  put_number(m, 4, static_cast<std::uint64_t>(type));
  put_number(m, 6, static_cast<std::uint64_t>(state));
  put_number(m, 7, static_cast<std::uint64_t>(port));
  for (auto w : address) put_number(m, 11, w);
  return entry(4, m);
}

std::string unix_socket(int state, const std::string& name) {
  std::string m;
  put_number(m, 4, static_cast<std::uint64_t>(state));
  proto_put_bytes(m, 11, name);
  return entry(16, m);
}

std::string file(int flags, const std::string& name) {
  std::string m;
  put_number(m, 2, static_cast<std::uint64_t>(flags));
  proto_put_bytes(m, 6, name);
  return entry(3, m);
}

TEST(ImageNeeds, AWarmImageHoldsNothing) {
  const auto needs = needs_in_files_img(files_img({inet(AF_INET, SOCK_STREAM, 7, 0, {0}), unix_socket(7, ""),
                                                   file(O_RDONLY, "/etc/hosts")}));
  ASSERT_TRUE(needs.ok());
  EXPECT_THAT(needs.value().bound, IsEmpty());
  EXPECT_THAT(needs.value().written, IsEmpty());
  EXPECT_THAT(why_not_parked(needs.value()), IsEmpty());
}

TEST(ImageNeeds, ListenersToOtherHostsAreNotParked) {
  const auto needs = needs_in_files_img(files_img({
      inet(AF_INET, SOCK_STREAM, 10, 80, {0}), inet(AF_INET, SOCK_STREAM, 10, 81, {0x0100007f}),
      inet(AF_INET6, SOCK_STREAM, 10, 82, {0, 0, 0, 0x01000000}), inet(AF_INET, SOCK_DGRAM, 7, 53, {0}),
      unix_socket(10, std::string("/run/x.sock\0", 12)), unix_socket(10, std::string("\0abs", 4))}));
  ASSERT_TRUE(needs.ok());
  EXPECT_THAT(why_not_parked(needs.value()), ElementsAre("it listens on 0.0.0.0:80", "it listens on 0.0.0.0:53"));
  EXPECT_THAT(why_not_twice(needs.value(), {}),
              ElementsAre(HasSubstr("0.0.0.0:80"), HasSubstr("127.0.0.1:81"), HasSubstr("[::1]:82"),
                          HasSubstr("0.0.0.0:53"), HasSubstr("unix:/run/x.sock"), HasSubstr("unix:@abs")));
}

TEST(ImageNeeds, FilesThatAreWrittenClashBelowStoragePathsOnly) {
  const auto needs = needs_in_files_img(
      files_img({file(O_RDWR, "/srv/data/db"), file(O_RDONLY, "/srv/data/ro"), file(O_WRONLY, "/srv/database/log")}));
  ASSERT_TRUE(needs.ok());
  EXPECT_THAT(why_not_twice(needs.value(), {{"data", "/srv/data"}}), ElementsAre(HasSubstr("/srv/data/db")));
}

TEST(ImageNeeds, FilesThatThisHostLacksAreNamed) {
  const auto needs = needs_in_files_img(files_img({
      file(O_RDWR, "/dev/null"), file(O_RDWR, "/dev/no-such-device"), file(O_RDONLY, "/proc/1/none"), file(O_RDONLY, "/srv/data/none"),
      file(O_RDWR, "/dev/shm/no such segment"), file(O_RDWR, "/tmp/no such file"), file(O_RDWR, "/tmp/no such file"), file(O_RDONLY, "/etc/passwd")}));
  ASSERT_TRUE(needs.ok());
  Manifest manifest;
  manifest.paths.push_back({"data", "/srv/data"});
  EXPECT_THAT(missing_here(needs.value(), manifest),
              ElementsAre(HasSubstr("/dev/shm/no such segment"), HasSubstr("/tmp/no such file")));
}

TEST(ImageNeeds, WhatIsCutShortIsRefused) {
  const auto whole = files_img({file(O_RDWR, "/srv/data/db")});
  for (std::size_t n = 0; n < whole.size(); ++n)
    if (n != 8) { EXPECT_FALSE(needs_in_files_img(whole.substr(0, n)).ok()) << n; }
}

}  // namespace
}  // namespace supervise
