#include "restore/manifest.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <random>

#include "restore/digest.h"

namespace supervise {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

std::string random_bytes(std::mt19937& rng, std::size_t max) {
  std::string s;
  bool text = rng() % 2;
  for (auto n = rng() % (max + 1); n > 0; --n) {
    s += static_cast<char>(text ? ' ' + rng() % 95 : rng() % 256);
  }
  return s;
}

std::string hash_text(std::mt19937& rng) { return sha256_of_bytes(random_bytes(rng, 10)); }

Manifest random_manifest(std::mt19937& rng) {
  Manifest m;
  auto u64 = [&] { return (static_cast<std::uint64_t>(rng()) << 32 | rng()) >> rng() % 64; };
  auto str = [&] { return random_bytes(rng, 12); };
  m.supervise_version = str(), m.criu_version = str(), m.kernel = str(), m.machine = str();
  m.app_name = str(), m.origin_host = str(), m.reason = str();
  for (auto n = rng() % 4; n; --n) m.command.push_back(str());
  m.generation = u64(), m.epoch = u64();
  m.created_unix_ns = static_cast<std::int64_t>(u64()), m.error_unix_ns = -5;
  m.root_pid = static_cast<int>(rng());
  for (auto n = rng() % 4; n; --n) m.paths.push_back({str(), str()});
  for (auto n = rng() % 4; n; --n)
    m.threads.push_back({static_cast<int>(rng()), static_cast<int>(rng()), str(), str(), str(), str(), str(), {str()}});
  for (auto n = rng() % 4; n; --n)
    m.files.push_back({str(), u64(), rng() % 2 ? hash_text(rng) : std::string()});
  for (int fd = 0; fd < 3; ++fd) m.stdio.push_back({fd, str(), str()});
  for (auto n = rng() % 4; n; --n)
    m.parts.push_back({"part-" + std::to_string(n) + ".img", u64(), hash_text(rng)});
  for (auto n = rng() % 4; n; --n) m.cpu_flags.push_back(str());
  m.run_options = str(), m.state = random_bytes(rng, 3000);
  m.freeze_ms = static_cast<double>(rng()) / 7.0, m.dump_ms = 1e-300 * rng();
  return m;
}

void expect_equal(const Manifest& a, const Manifest& b) {
  EXPECT_EQ(a.version, b.version);
  EXPECT_EQ(a.supervise_version, b.supervise_version);
  EXPECT_EQ(a.criu_version, b.criu_version);
  EXPECT_EQ(a.kernel, b.kernel);
  EXPECT_EQ(a.machine, b.machine);
  EXPECT_EQ(a.app_name, b.app_name);
  EXPECT_EQ(a.command, b.command);
  EXPECT_EQ(a.generation, b.generation);
  EXPECT_EQ(a.epoch, b.epoch);
  EXPECT_EQ(a.origin_host, b.origin_host);
  EXPECT_EQ(a.reason, b.reason);
  EXPECT_EQ(a.created_unix_ns, b.created_unix_ns);
  EXPECT_EQ(a.error_unix_ns, b.error_unix_ns);
  EXPECT_EQ(a.root_pid, b.root_pid);
  ASSERT_EQ(a.paths.size(), b.paths.size());
  for (std::size_t i = 0; i < a.paths.size(); ++i) {
    EXPECT_EQ(a.paths[i].name, b.paths[i].name);
    EXPECT_EQ(a.paths[i].place, b.paths[i].place);
  }
  ASSERT_EQ(a.threads.size(), b.threads.size());
  for (std::size_t i = 0; i < a.threads.size(); ++i) {
    EXPECT_EQ(a.threads[i].pid, b.threads[i].pid);
    EXPECT_EQ(a.threads[i].tid, b.threads[i].tid);
    EXPECT_EQ(a.threads[i].comm, b.threads[i].comm);
    EXPECT_EQ(a.threads[i].where, b.threads[i].where);
  }
  ASSERT_EQ(a.files.size(), b.files.size());
  for (std::size_t i = 0; i < a.files.size(); ++i) {
    EXPECT_EQ(a.files[i].path, b.files[i].path);
    EXPECT_EQ(a.files[i].size, b.files[i].size);
    EXPECT_EQ(a.files[i].sha256, b.files[i].sha256);
  }
  ASSERT_EQ(a.stdio.size(), b.stdio.size());
  for (std::size_t i = 0; i < a.stdio.size(); ++i) {
    EXPECT_EQ(a.stdio[i].fd, b.stdio[i].fd);
    EXPECT_EQ(a.stdio[i].kind, b.stdio[i].kind);
    EXPECT_EQ(a.stdio[i].id, b.stdio[i].id);
  }
  ASSERT_EQ(a.parts.size(), b.parts.size());
  for (std::size_t i = 0; i < a.parts.size(); ++i) {
    EXPECT_EQ(a.parts[i].name, b.parts[i].name);
    EXPECT_EQ(a.parts[i].size, b.parts[i].size);
    EXPECT_EQ(a.parts[i].sha256, b.parts[i].sha256);
  }
  EXPECT_EQ(a.cpu_flags, b.cpu_flags);
  EXPECT_EQ(a.run_options, b.run_options);
  EXPECT_EQ(a.state, b.state);
  EXPECT_EQ(a.freeze_ms, b.freeze_ms);
  EXPECT_EQ(a.dump_ms, b.dump_ms);
}

std::string resealed(ordered_json j) {
  j.erase("manifest_sha256");
  j["manifest_sha256"] = sha256_of_bytes(j.dump());
  return j.dump();
}

std::string error_of(const std::string& text) {
  auto m = Manifest::from_json(text);
  return m ? "(accepted)" : m.error().message();
}

ordered_json sample() {
  std::mt19937 rng(7);
  Manifest m = random_manifest(rng);
  m.parts = {{"core-2.img", 10, sha256_of_bytes("x")}, {"pages-1.img", 20, sha256_of_bytes("y")}};
  m.threads = {{2, 2, "app", "user code", "runs", "", "", {}}};
  return ordered_json::parse(m.to_json());
}

TEST(Manifest, ComesBackEqualWhateverItHolds) {
  std::mt19937 rng(20240607);
  for (int round = 0; round < 500; ++round) {
    Manifest m = random_manifest(rng);
    auto back = Manifest::from_json(m.to_json());
    ASSERT_TRUE(back.ok()) << back.error().message();
    expect_equal(m, *back);
    if (HasFailure()) FAIL() << "round " << round;
    ASSERT_EQ(back->to_json(), m.to_json());
  }
}

TEST(Manifest, EveryMemberThatIsMissingIsNamed) {
  const auto whole = sample();
  for (const auto& [key, value] : whole.items()) {
    auto damaged = whole;
    damaged.erase(key);
    std::string text = key == "manifest_sha256" ? damaged.dump() : resealed(damaged);
    EXPECT_THAT(error_of(text), HasSubstr("member " + key + " is missing"));
  }
}

TEST(Manifest, EveryMemberOfTheWrongKindIsNamed) {
  const auto whole = sample();
  for (const auto& [key, value] : whole.items()) {
    if (key == "manifest_sha256") continue;
    auto damaged = whole;
    damaged[key] = nullptr;
    EXPECT_THAT(error_of(resealed(damaged)), HasSubstr("member " + key + " is not "));
  }
}

TEST(Manifest, NestedMembersAreNamedWithTheirWay) {
  auto j = sample();
  j["parts"][1].erase("sha256");
  EXPECT_THAT(error_of(resealed(j)), HasSubstr("member parts[1].sha256 is missing"));
  j = sample();
  j["threads"][0]["tid"] = "two";
  EXPECT_THAT(error_of(resealed(j)), HasSubstr("member threads[0].tid is not a whole number"));
  j = sample();
  j["threads"][0]["tid"] = 1ull << 40;
  EXPECT_THAT(error_of(resealed(j)), HasSubstr("member threads[0].tid is not a number of its range"));
  j = sample();
  j["generation"] = -1;
  EXPECT_THAT(error_of(resealed(j)), HasSubstr("member generation is not a number of its range"));
  j = sample();
  j["command"] = {"a", 5};
  EXPECT_THAT(error_of(resealed(j)), HasSubstr("member command[1] is not a string"));
}

TEST(Manifest, PartNamesMustBePlainAndOnce) {
  for (const char* name : {"", ".", "..", "a/b", "/etc/passwd", "manifest.json"}) {
    auto j = sample();
    j["parts"][0]["name"] = name;
    EXPECT_THAT(error_of(resealed(j)), HasSubstr("is not a plain file name")) << name;
  }
  auto j = sample();
  j["parts"][0]["name"] = "pages-1.img";
  EXPECT_THAT(error_of(resealed(j)), HasSubstr("(\"pages-1.img\") is there twice"));
  j = sample();
  j["parts"][0]["sha256"] = "abc";
  EXPECT_THAT(error_of(resealed(j)), HasSubstr("is not 64 hexadecimal digits"));
}

TEST(Manifest, AnotherVersionIsRefused) {
  for (int version : {0, 2, 17}) {
    auto j = sample();
    j["version"] = version;
    EXPECT_THAT(error_of(j.dump()), HasSubstr("format version " + std::to_string(version) +
                                              ", but this program reads version 1"));
  }
}

TEST(Manifest, EveryTruncationIsRefused) {
  std::string text = sample().dump(2);
  for (std::size_t n = 0; n < text.size(); ++n) {
    ASSERT_THAT(error_of(text.substr(0, n)), HasSubstr("the JSON ends too early")) << n;
  }
}

TEST(Manifest, EveryFlippedBitIsRefusedOrHarmless) {
  std::mt19937 rng(3);
  Manifest m = random_manifest(rng);
  std::string text = m.to_json();
  int refused = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << i % 8));
    auto back = Manifest::from_json(damaged);
    if (back) {
      EXPECT_EQ(back->to_json(), text) << "byte " << i;
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, static_cast<int>(text.size() / 2));
}

TEST(Manifest, WhatIsNoObjectIsRefused) {
  EXPECT_THAT(error_of("[]"), HasSubstr("an object was expected"));
  EXPECT_THAT(error_of("nonsense"), HasSubstr("not JSON at byte"));
  EXPECT_THAT(error_of(std::string(100000, '[')), HasSubstr("manifest.json"));
}

}  // namespace
}  // namespace supervise
