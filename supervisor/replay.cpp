#include "supervisor/replay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "supervisor/base/fault_point.h"
#include "supervisor/replayer.h"

namespace supervise {

Replayer::Replayer(const Journal& journal, int root_fd, const ReplayOptions& options)
    : journal_(journal), names_(journal.names()), options_(options), root_fd_(root_fd),
      beneath_(root_fd) {}

Result<ReplayReport> Replayer::run() {
  RETURN_IF_ERROR(prepare());
  beneath_.remember_parents(true);
  Status located = locate();
  beneath_.remember_parents(false);
  if (!located) return located.error();
  RETURN_IF_ERROR(place_all());
  RETURN_IF_ERROR(remove_absent());
  RETURN_IF_ERROR(drop_parked());
  RETURN_IF_ERROR(relocate_nameless());
  RETURN_IF_ERROR(write_all());
  RETURN_IF_ERROR(sync_directories());
  RETURN_IF_ERROR(verify_all());
  RETURN_IF_ERROR(report_files());
  return std::move(report_);
}

Status Replayer::step(std::string_view what) {
  if (options_.hook) RETURN_IF_ERROR(options_.hook(what));
  return fault_point("replay.step");
}

Error Replayer::failed(std::string_view what, std::string_view name) const {
  return errno_error(fmt::format("replay: {} {}", what, name.empty() ? "the root" : name));
}

std::string Replayer::parked_name(FileId id) const {
  return fmt::format(".supervise-replay.{:x}.p{}", journal_.tag(), id);
}

std::string Replayer::built_name(FileId id) const {
  return fmt::format(".supervise-replay.{:x}.n{}", journal_.tag(), id);
}

Place Replayer::in_root(std::string leaf) { return {root_, std::move(leaf)}; }

std::uint64_t Replayer::ino_of(const struct stat& st) const {
  return options_.ino_of ? options_.ino_of(st) : st.st_ino;
}

bool Replayer::is_kind(const FileState& f, const struct stat& st) {
  switch (f.kind) {
    case NodeKind::Regular: return S_ISREG(st.st_mode);
    case NodeKind::Directory: return S_ISDIR(st.st_mode);
    case NodeKind::Symlink: return S_ISLNK(st.st_mode);
    case NodeKind::Fifo: return S_ISFIFO(st.st_mode);
    case NodeKind::Other: return true;
  }
  return true;
}

bool Replayer::has_attributes(const FileState& f) {
  return f.mode_changed || f.uid || f.gid || f.mtime || f.atime || !f.xattrs.empty();
}

// What a replay that ended early has left: half-built files go, parked ones are found by locate().
Status Replayer::prepare() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  ASSIGN_OR_RETURN(UniqueFd fd, beneath_.open_dir("", O_PATH));
  root_ = std::make_shared<UniqueFd>(std::move(fd));
  ASSIGN_OR_RETURN(auto entries, entries_at(in_root(".")));
  std::string ours = fmt::format(".supervise-replay.{:x}.n", journal_.tag());
  for (const auto& entry : entries) {
    if (!entry.starts_with(ours)) continue;
    RETURN_IF_ERROR(step("remove a half-built file"));
    if (unlinkat(root_->get(), entry.c_str(), 0) < 0) return failed("remove", entry);
  }
  return {};
}

Status Replayer::report_files() {
  for (const auto& [id, f] : journal_.files()) {
    if (f.unlinked()) {
      report_.unlinked.push_back(id);
      continue;
    }
    std::string name = f.names.empty() ? "" : f.names.front();
    std::optional<struct stat> st;
    if (f.names.empty()) {  // lives on under names that we found ourselves
      auto node = nodes_.find(id);
      if (node == nodes_.end() || !node->second.at) continue;
      ASSIGN_OR_RETURN(st, stat_at(*node->second.at));
    } else {
      auto place = beneath_.place(name);
      if (!place && Beneath::is_missing(place.error())) continue;
      if (!place) return place.error();
      ASSIGN_OR_RETURN(st, stat_at(*place));
    }
    if (st) report_.rekeyed.push_back({id, {st->st_dev, st->st_ino}, name});
  }
  return {};
}

Result<ReplayReport> replay(const Journal& journal, int root_fd, const ReplayOptions& options) {
  return Replayer(journal, root_fd, options).run();
}

namespace {

// Names are bytes and not always UTF-8, which JSON strings must be: as numbers then.
nlohmann::json name_to_json(const std::string& name) {
  bool plain = std::ranges::all_of(name, [](unsigned char c) { return c >= 0x20 && c < 0x7f; });
  if (plain) return name;
  return std::vector<unsigned char>(name.begin(), name.end());
}

std::string name_from_json(const nlohmann::json& j) {
  if (j.is_string()) return j.get<std::string>();
  auto bytes = j.get<std::vector<unsigned char>>();
  return {bytes.begin(), bytes.end()};
}

}  // namespace

std::string ReplayReport::to_json() const {
  nlohmann::json j{{"files", files},   {"bytes", bytes},       {"names", names},
                   {"compared_bytes", compared_bytes}, {"unlinked", unlinked}};
  j["rekeyed"] = nlohmann::json::array();
  for (const auto& r : rekeyed)
    j["rekeyed"].push_back({{"id", r.id}, {"dev", r.key.dev}, {"ino", r.key.ino},
                            {"name", name_to_json(r.name)}});
  return j.dump();
}

Result<ReplayReport> ReplayReport::from_json(const std::string& text) {
  auto j = nlohmann::json::parse(text, nullptr, false);
  try {
    if (j.is_discarded()) return plain_error("replay report: malformed");
    ReplayReport r;
    j.at("files").get_to(r.files);
    j.at("bytes").get_to(r.bytes);
    j.at("names").get_to(r.names);
    j.at("compared_bytes").get_to(r.compared_bytes);
    j.at("unlinked").get_to(r.unlinked);
    for (const auto& e : j.at("rekeyed"))
      r.rekeyed.push_back({e.at("id").get<FileId>(),
                           {e.at("dev").get<std::uint64_t>(), e.at("ino").get<std::uint64_t>()},
                           name_from_json(e.at("name"))});
    return r;
  } catch (const nlohmann::json::exception& e) {
    return plain_error(fmt::format("replay report: {}", e.what()));
  }
}

}  // namespace supervise
