#include "supervisor/base/passed_fds.h"

#include <fcntl.h>
#include <gtest/gtest.h>

namespace supervise {
namespace {

bool closes_on_exec(int fd) { return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }

TEST(PassedFds, StayOpenOverAnExecOnlyFromTheMomentItIsAskedFor) {
  const UniqueFd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  {
    PassedFds fds;
    EXPECT_EQ(fds.pass(fd), fd.get());
    EXPECT_EQ(fds.pass(-1), -1);
    EXPECT_EQ(fds.numbers(), std::vector<int>{fd.get()});
    EXPECT_TRUE(closes_on_exec(fd.get()));
    fds.keep_open();
    EXPECT_FALSE(closes_on_exec(fd.get()));
  }
  EXPECT_TRUE(closes_on_exec(fd.get())) << "the exec has failed";
}

TEST(PassedFds, AreTakenOnceAndCloseOnExecAgain) {
  const int number = open("/dev/null", O_RDONLY);
  {
    auto taken = PassedFds::take(number);
    ASSERT_TRUE(taken.ok());
    EXPECT_EQ(taken->get(), number);
    EXPECT_TRUE(closes_on_exec(number));
  }
  auto gone = PassedFds::take(number);
  ASSERT_FALSE(gone.ok());
  EXPECT_EQ(gone.error().err, EBADF);
  auto none = PassedFds::take(-1);
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->valid());
}

}  // namespace
}  // namespace supervise
