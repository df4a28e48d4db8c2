// What the tests of ownership share: a store with an image, and claims that others made.
#pragma once

#include "restore/host_identity.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "restore/ownership.h"
#include "tests/restore/test_support.h"

namespace supervise::test {

inline int err_of(const Status& s) { return s.ok() ? 0 : s.error().err; }

class OwnershipTest : public testing::Test {
 protected:
  void SetUp() override {
    image_ = d_ / "gen-000001";
    mkdir(image_.c_str(), 0700);
  }
  std::string image(int n) {
    std::string dir = d_ / ("gen-" + std::to_string(n));
    mkdir(dir.c_str(), 0700);
    return dir;
  }
  static Commit a_commit(std::uint64_t epoch = 1) {
    return {epoch, 1, HostIdentity::self(), unix_now_ns()};
  }
  void claim_by_dead(const std::string& img, const char* state) {
    pid_t pid = in_child([&] {
      Ownership o(d_.path());
      if (!o.claim(img, 1)) return 1;
      Claim c = *o.claimed(img).value();
      c.state = state;
      return o.update_claim(img, c).ok() ? 0 : 2;
    });
    ASSERT_EQ(wait_for(pid, Millis(5000)), 0);
  }
  // Rewrites the claim as if somebody else had made it.
  void forge(const std::function<void(Claim&)>& change) {
    Claim c = *own_.claimed(image_).value();
    change(c);
    Ownership o(d_.path());
    ASSERT_TRUE(write_file_durably(image_ + "/claim.json", forged_text(c)).ok());
  }
  static std::string forged_text(const Claim& c) {
    return "{\"epoch\":" + std::to_string(c.epoch) + ",\"owner\":" + identity_to_json(c.owner) +
           ",\"state\":\"" + c.state + "\",\"since_unix_ns\":0,\"first_io_unix_ns\":0}";
  }

  ScratchDir d_;
  Ownership own_ = patient(d_.path());
  std::string image_;

 private:
  // Fifty processes that sync take turns: the disk may be slow, and in use.
  static Ownership patient(const std::string& dir) {
    Ownership own(dir);
    own.lock_timeout = Millis(25000);
    return own;
  }
};

}  // namespace supervise::test
