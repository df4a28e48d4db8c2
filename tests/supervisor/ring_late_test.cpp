// Writers that are slow to copy: whatever is told when, the bytes are those of the ring's order.
#include <random>

#include "tests/supervisor/ring_fixture.h"
#include "tests/supervisor/seeds.h"

namespace supervise {
namespace {

using namespace test;

TEST(RingProperty, LateRecordsEndInTheOrderOfTheRing) {
  for (unsigned seed = 0, n = seeds(300); seed < n && !testing::Test::HasFailure(); ++seed) {
    std::mt19937 rng(seed);
    Memory memory;
    StoragePaths paths;
    paths.add(storage_path("p"));
    RingJournal ring(memory.control(), memory.ring(), paths);
    StoragePath& path = *paths.all()[0];
    Journal direct;
    unsigned files[2] = {ring.register_file(path, 1, "a", false, 0).value(), ring.register_file(path, 2, "b", false, 0).value()};
    std::uint64_t sizes[2] = {};
    std::vector<std::pair<Record*, std::string>> open;
    Writer writer(memory);
    for (int i = 0; i < 60; ++i) {
      const std::size_t f = rng() % 2;
      const std::uint64_t offset = rng() % 60;
      const std::string t(1 + rng() % 40, static_cast<char>('a' + i % 26));
      sizes[f] = std::max(sizes[f], offset + t.size());
      Record* r = writer.begin(files[f], offset, t.size());
      direct.wrote({0, f + 1}, f ? "b" : "a", offset, bytes(t), sizes[f]);
      if (rng() % 3 == 0) open.emplace_back(r, t);
      else writer.end(r, t);
      if (rng() % 3 == 0 && !open.empty()) {
        const std::size_t which = rng() % open.size();
        writer.end(open[which].first, open[which].second);
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(which));
      }
      if (rng() % 4 == 0) {
        ASSERT_TRUE(ring.drain(all_alive).ok());
      }
    }
    while (!open.empty()) {
      writer.end(open.back().first, open.back().second);
      open.pop_back();
      if (rng() % 2) {
        ASSERT_TRUE(ring.drain(all_alive).ok());
      }
    }
    ASSERT_TRUE(ring.drain(all_alive).ok());
    EXPECT_EQ(describe(path.journal), describe(direct)) << "seed " << seed;
    EXPECT_TRUE(ring.empty());
  }
}

}  // namespace
}  // namespace supervise
