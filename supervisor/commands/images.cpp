#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "restore/ownership.h"
#include "supervisor/base/scope_exit.h"
#include "supervisor/commands/commands.h"
#include "supervisor/commands/image_archive.h"

namespace supervise {
namespace {

using Json = nlohmann::ordered_json;

std::uint64_t bytes_of(const Manifest& manifest) {
  std::uint64_t sum = 0;
  for (const auto& part : manifest.parts) sum += part.size;
  return sum;
}

std::string utc(std::int64_t unix_ns) {
  const std::time_t t = unix_ns / 1'000'000'000;
  std::tm tm{};
  ::gmtime_r(&t, &tm);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
  return text;
}

std::string ownership_of(const std::string& image_dir) {
  const Ownership ownership(image_dir.substr(0, image_dir.rfind('/')));
  if (const auto claim = ownership.claimed(image_dir); claim && claim.value())
    return fmt::format("{} on {}", claim.value()->state, claim.value()->owner.host);
  if (const auto commit = ownership.committed(image_dir); commit && commit.value()) return "committed";
  return "stored";
}

// A directory, NAME (its newest image) or NAME/GENERATION.
Result<std::string> image_dir_of(const ImagesOptions& options, const std::string& image) {
  struct stat st {};
  if (image.find('/') != std::string::npos && ::stat(image.c_str(), &st) == 0 && S_ISDIR(st.st_mode))
    return std::filesystem::absolute(image).lexically_normal().string();
  const auto slash = image.find('/');
  auto store = ImageStore::open(options.images_dir, image.substr(0, slash), false);
  if (!store)
    return store.error().with(fmt::format("IMAGE '{}': neither a directory nor an application in "
                                          "the store {} (see --images)", image, options.images_dir));
  if (slash == std::string::npos) {
    ASSIGN_OR_RETURN(const auto newest, store.value().newest());
    if (!newest) return plain_error(fmt::format("IMAGE '{}': there is no image in {}", image,
                                                store.value().dir()));
    return newest->dir;
  }
  std::string_view text = std::string_view(image).substr(slash + 1);
  if (text.starts_with("gen-")) text.remove_prefix(4);
  std::uint64_t generation = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), generation);
  if (error != std::errc() || end != text.data() + text.size())
    return plain_error(fmt::format("IMAGE '{}': character {}: expected the number of a generation",
                                   image, slash + 2));
  ASSIGN_OR_RETURN(const auto all, store.value().list());
  for (const auto& ref : all)
    if (ref.generation == generation) return ref.dir;
  return plain_error(fmt::format("IMAGE '{}': there is no generation {} in {}", image, generation,
                                 store.value().dir()));
}

Result<std::vector<std::string>> applications(const std::string& store) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(store, error), end; !error && it != end;
       it.increment(error))
    if (it->is_directory() && !it->path().filename().string().starts_with("."))
      names.push_back(it->path().filename().string());
  if (error && error.value() != ENOENT) return errno_error(error.value(), "image store " + store);
  std::sort(names.begin(), names.end());
  return names;
}

int list(const ImagesOptions& options) {
  std::vector<std::string> names = options.operands;
  if (names.empty()) {
    auto found = applications(options.images_dir);
    if (!found) return complain(found.error().message(), 125);
    names = found.take();
  }
  auto all = Json::array();
  std::string text;
  for (const auto& name : names) {
    const auto store = ImageStore::open(options.images_dir, name, false);
    if (!store) return complain(store.error().message(), 125);
    const auto refs = store.value().list();
    if (!refs) return complain(refs.error().message(), 125);
    for (const auto& ref : refs.value()) {
      Json item{{"application", name}, {"generation", ref.generation}, {"directory", ref.dir}};
      if (const auto manifest = load_manifest(ref.dir)) {
        const auto& m = manifest.value();
        item["created"] = utc(m.created_unix_ns);
        item["bytes"] = bytes_of(m);
        item["reason"] = m.reason;
        item["origin"] = m.origin_host;
        item["state"] = ownership_of(ref.dir);
        text += fmt::format("{:<16} {:>6} {:<20} {:>9.1f} MiB {:<10} {:<14} {}\n", name,
                            ref.generation, utc(m.created_unix_ns),
                            static_cast<double>(bytes_of(m)) / (1 << 20), m.reason,
                            ownership_of(ref.dir), ref.dir);
      } else {
        item["error"] = manifest.error().message();
        text += fmt::format("{:<16} {:>6} {}\n", name, ref.generation, manifest.error().message());
      }
      all.push_back(std::move(item));
    }
  }
  if (options.json) return print_out(all.dump(2) + "\n");
  return print_out(all.empty() ? fmt::format("no images in {}\n", options.images_dir) : text);
}

std::string inspected(const std::string& dir, const Manifest& m) {
  std::string command;
  for (const auto& word : m.command) command += (command.empty() ? "" : " ") + word;
  std::string out = fmt::format(
      "directory:   {}\napplication: {}\ncommand:     {}\ngeneration:  {}\nepoch:       {}\n"
      "state:       {}\ncreated:     {} by {} ({})\nmade with:   supervise {}, CRIU {}, kernel {} {}\n"
      "frozen:      {:.1f} ms, dump {:.1f} ms\n",
      dir, m.app_name, command, m.generation, m.epoch, ownership_of(dir), utc(m.created_unix_ns),
      m.origin_host, m.reason, m.supervise_version, m.criu_version, m.kernel, m.machine, m.freeze_ms,
      m.dump_ms);
  out += "paths:\n";
  for (const auto& path : m.paths) out += fmt::format("  {} at {}\n", path.name, path.place);
  out += "threads:\n";
  for (const auto& t : m.threads) {
    out += fmt::format("  process {} thread {} {}: {}{}\n", t.pid, t.tid, t.comm,
                       t.reason.empty() ? t.where : t.reason,
                       t.ref_class.empty() ? "" : " [" + t.ref_class + "]");
    for (const std::string& frame : t.stack) out += "      at " + frame + "\n";
  }
  out += "files on the paths:\n";
  for (const auto& file : m.files) out += fmt::format("  {} {} bytes\n", file.path, file.size);
  if (!m.portability.empty()) out += "taken from the host:\n";
  for (const char* severity : {"warning", "advice", "info"})
    for (const auto& fact : m.portability)
      if (fact.severity == severity) out += fmt::format("  {} ({}): {}\n", fact.severity, fact.what, fact.text);
  out += fmt::format("parts: {}, {} bytes\n", m.parts.size(), bytes_of(m));
  for (const auto& part : m.parts)
    out += fmt::format("  {:<28} {:>12} {}\n", part.name, part.size, part.sha256);
  return out;
}

int inspect(const ImagesOptions& options) {
  const auto dir = image_dir_of(options, options.operands.front());
  if (!dir) return complain(dir.error().message(), 125);
  const auto manifest = load_manifest(dir.value());
  if (!manifest) return complain(manifest.error().message(), 1);
  if (!options.json) return print_out(inspected(dir.value(), manifest.value()));
  auto json = Json::parse(manifest.value().to_json(), nullptr, false);
  json["directory"] = dir.value();
  json["ownership"] = ownership_of(dir.value());
  return print_out(json.dump(2) + "\n");
}

int verify(const ImagesOptions& options) {
  int status = 0;
  auto all = Json::array();
  std::string text;
  for (const auto& image : options.operands) {
    const auto dir = image_dir_of(options, image);
    if (!dir) return complain(dir.error().message(), 125);
    const auto manifest = verify_image(dir.value());
    Json item{{"directory", dir.value()}, {"whole", manifest.ok()}};
    if (manifest) {
      text += fmt::format("{}: whole, {} parts, {} bytes\n", dir.value(),
                          manifest.value().parts.size(), bytes_of(manifest.value()));
    } else {
      item["error"] = manifest.error().message();
      complain(manifest.error().message(), 1);
      status = 1;
    }
    all.push_back(std::move(item));
  }
  return print_out(options.json ? all.dump(2) + "\n" : text, status);
}

int prune(const ImagesOptions& options) {
  const auto store = ImageStore::open(options.images_dir, options.operands.front(), false);
  if (!store) return complain(store.error().message(), 125);
  store.value().sweep();
  const auto before = store.value().list();
  if (!before) return complain(before.error().message(), 125);
  if (const auto status = store.value().prune(options.keep); !status)
    return complain(status.error().message(), 125);
  const auto after = store.value().list();
  if (!after) return complain(after.error().message(), 125);
  const auto removed = before.value().size() - after.value().size();
  if (options.json)
    return print_out(Json{{"removed", removed}, {"left", after.value().size()}}.dump(2) + "\n");
  return print_out(fmt::format("{} images removed, {} left in {}\n", removed, after.value().size(),
                               store.value().dir()));
}

int free_image(const ImagesOptions& options) {
  const auto dir = image_dir_of(options, options.operands.front());
  if (!dir) return complain(dir.error().message(), 125);
  const auto freed = Ownership(dir->substr(0, dir->rfind('/'))).free_claims(dir.value(), options.force);
  if (!freed) return complain(freed.error().message(), freed.error().err == EBUSY ? 1 : 125);
  if (options.json) return print_out(Json{{"directory", dir.value()}, {"freed", freed.value()}}.dump(2) + "\n");
  return print_out(fmt::format("{} claims removed from {}\n", freed.value(), dir.value()));
}

int export_image(const ImagesOptions& options) {
  const auto dir = image_dir_of(options, options.operands[0]);
  if (!dir) return complain(dir.error().message(), 125);
  const auto manifest = verify_image(dir.value());
  if (!manifest) return complain(manifest.error().message(), 1);
  std::vector<std::string> names;
  for (const auto& part : manifest.value().parts) names.push_back(part.name);
  names.emplace_back(kManifestName);
  if (const auto status = write_archive(options.operands[1], dir.value(), names); !status)
    return complain("export: " + status.error().message(), 125);
  return print_out(fmt::format("{} exported to {}\n", dir.value(), options.operands[1]));
}

// The name is the manifest's, which comes last in the archive: the files go into a directory of
// their own in the store first.
Result<ImageRef> imported(const ImagesOptions& options, const std::string& file) {
  std::error_code error;
  std::filesystem::create_directories(options.images_dir, error);
  auto scratch = options.images_dir + "/.import-XXXXXX";
  if (::mkdtemp(scratch.data()) == nullptr) return errno_error("create " + scratch);
  const ScopeExit remove([&] {
    std::error_code ignored;
    std::filesystem::remove_all(scratch, ignored);
  });
  ASSIGN_OR_RETURN(const auto names, read_archive(file, scratch));
  auto manifest = verify_image(scratch);
  if (!manifest) return manifest.error().with(file);
  ASSIGN_OR_RETURN(auto store, ImageStore::open(options.images_dir, manifest->app_name, true));
  ASSIGN_OR_RETURN(auto draft, store.begin());
  ScopeExit abandon([&] { std::filesystem::remove_all(draft.dir, error); });
  for (const auto& name : names)
    if (name != kManifestName && ::rename((scratch + "/" + name).c_str(),
                                          (draft.dir + "/" + name).c_str()) != 0)
      return errno_error(fmt::format("move {} to {}", name, draft.dir));
  abandon.dismiss();
  return store.finish(std::move(draft), manifest.value());
}

int import_image(const ImagesOptions& options) {
  const auto ref = imported(options, options.operands.front());
  if (!ref) return complain("import: " + ref.error().message(), 125);
  return print_out(fmt::format("imported as {}\n", ref.value().dir));
}

}  // namespace

int command_images(const ImagesOptions& options) {
  if (options.action == "list") return list(options);
  if (options.action == "inspect") return inspect(options);
  if (options.action == "verify") return verify(options);
  if (options.action == "prune") return prune(options);
  if (options.action == "free") return free_image(options);
  if (options.action == "export") return export_image(options);
  return import_image(options);
}

}  // namespace supervise
