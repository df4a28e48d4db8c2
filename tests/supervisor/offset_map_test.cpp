#include "supervisor/offset_map.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

#include "supervisor/content.h"

namespace supervise {
namespace {

using Map = OffsetMap<std::string>;

std::string show(const Map& m) {
  std::string out;
  for (const auto& [offset, value] : m) out += std::to_string(offset) + ":" + value + " ";
  return out;
}

TEST(OffsetMap, IsEmptyAtFirst) {
  Map m;
  EXPECT_TRUE(m.empty());
  EXPECT_EQ(m.begin(), m.end());
  EXPECT_EQ(m.lower_bound(0), m.end());
  EXPECT_THROW(m.at(0), std::out_of_range);
}

TEST(OffsetMap, DoesAllThatAMapDoes) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 rng(seed);
    Map m;
    std::map<std::uint64_t, std::string> model;
    const auto pick = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(rng); };
    const std::size_t range = seed % 3 ? 3000 : 100;
    const bool in_order = seed % 4 == 0;
    for (std::size_t i = 0; i < 2500; ++i) {
      const std::uint64_t key = in_order && pick(10) ? (model.empty() ? 0 : model.rbegin()->first + 1) : pick(range);
      const auto at = m.lower_bound(key);
      const auto there = model.lower_bound(key);
      ASSERT_EQ(at == m.end(), there == model.end());
      if (there != model.end()) {
        ASSERT_EQ(at->first, there->first);
        ASSERT_EQ(at->second, there->second);
      }
      if (there != model.begin()) {
        ASSERT_NE(at, m.begin());
        ASSERT_EQ(std::prev(at)->first, std::prev(there)->first);
      } else {
        ASSERT_EQ(at, m.begin());
      }
      const bool present = there != model.end() && there->first == key;
      switch (pick(12)) {
        case 0: case 1: case 2: {
          if (there == model.end()) break;
          const auto next = m.erase(at);
          const auto model_next = model.erase(there);
          ASSERT_EQ(next == m.end(), model_next == model.end());
          if (model_next != model.end()) {
            ASSERT_EQ(next->first, model_next->first);
          }
          break;
        }
        case 3: {
          if (there == model.end()) break;
          const auto after = std::next(there);
          const std::uint64_t to = after == model.end() ? there->first + pick(5) : there->first + pick(after->first - there->first);
          auto node = model.extract(there);
          node.key() = to;
          model.insert(std::move(node));
          m.rekey(at, to);
          break;
        }
        case 4: {
          if (pick(20)) break;
          const char c = static_cast<char>('a' + pick(26));
          m.erase_if([&](const std::string& s) { return s[0] < c; });
          std::erase_if(model, [&](const auto& e) { return e.second[0] < c; });
          break;
        }
        default: {
          if (present) {
            at->second += "x";
            there->second += "x";
            break;
          }
          const std::string value(1 + pick(40), static_cast<char>('a' + pick(26)));
          const auto made = m.insert(at, key, value);
          ASSERT_EQ(made->first, key);
          ASSERT_EQ(made->second, value);
          model[key] = value;
        }
      }
      ASSERT_EQ(m.size(), model.size());
      if (i % 50) continue;
      std::string expected;
      for (const auto& [offset, value] : model) expected += std::to_string(offset) + ":" + value + " ";
      ASSERT_EQ(show(m), expected) << "seed " << seed;
      const Map copy = m;
      ASSERT_EQ(show(copy), expected);
      for (const auto& [offset, value] : model) ASSERT_EQ(copy.at(offset), value);
    }
  }
}

TEST(OffsetMap, ACopyIsItsOwn) {
  Map m;
  for (std::uint64_t i = 0; i < 100; ++i) m.insert(m.end(), i, std::to_string(i));
  Map copy = m;
  m.erase_if([](const std::string&) { return true; });
  EXPECT_TRUE(m.empty());
  EXPECT_EQ(copy.size(), 100u);
  EXPECT_EQ(copy.at(99), "99");
  m = copy;
  copy = {};
  EXPECT_EQ(m.at(50), "50");
  EXPECT_EQ(copy.size(), 0u);
}

// ---- Content

std::span<const std::byte> bytes(std::string_view s) { return std::as_bytes(std::span(s.data(), s.size())); }
std::string text(const Content& c) { return {reinterpret_cast<const char*>(c.data()), c.size()}; }

TEST(Content, HoldsWhatItIsGiven) {
  std::mt19937 rng(4);
  std::vector<std::pair<Content, std::string>> all(200);
  for (int i = 0; i < 20'000; ++i) {
    auto& [content, model] = all[rng() % all.size()];
    std::string s(1 + rng() % (rng() % 4 ? 300 : 20'000), ' ');
    for (std::size_t k = 0; k < s.size(); k += 1 + rng() % 13) s[k] = static_cast<char>('a' + rng() % 26);
    switch (rng() % 8) {
      case 0: content = {}; model.clear(); break;
      case 1: {
        const std::size_t n = model.empty() ? 0 : rng() % (model.size() + 1);
        content.cut(n);
        model.resize(n);
        break;
      }
      case 2: {
        auto& [other, its] = all[rng() % all.size()];
        other = content;
        its = model;
        break;
      }
      case 3: {
        if (model.size() < 2) break;
        const std::size_t at = rng() % model.size(), n = std::min(s.size(), model.size() - at);
        content.write(at, bytes(s).first(n));
        model.replace(at, n, s, 0, n);
        break;
      }
      default:
        if (model.size() + s.size() > 65536) break;
        content.append(bytes(s));
        model += s;
    }
    ASSERT_EQ(text(content), model);
    if (i % 500) continue;
    for (const auto& [c, m] : all) ASSERT_EQ(text(c), m);
  }
}

TEST(Content, GivesMemoryBackAndUsesItAgain) {
  const std::string page(4096, 'p');
  std::uint64_t most = 0;
  for (int round = 0; round < 3; ++round) {
    std::vector<Content> all;
    for (int i = 0; i < 4000; ++i) all.emplace_back(bytes(page));
    if (round == 0) most = Content::taken();
    EXPECT_LE(Content::taken(), most);
  }
}

}  // namespace
}  // namespace supervise
