#include "supervisor/standby_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace supervise {
namespace {

int count(const StandbyView& view, CopyState state) {
  return static_cast<int>(std::count_if(view.copies.begin(), view.copies.end(),
                                        [&](const CopyView& c) { return c.state == state; }));
}

const CopyView* newest_ready(const StandbyView& view) {
  const CopyView* newest = nullptr;
  for (const auto& c : view.copies)
    if (c.state == CopyState::Ready && (!newest || c.generation > newest->generation)) newest = &c;
  return newest;
}

std::optional<std::string> why_older(const SeenImage& image, const CopyView& ready) {
  // A generation is given once; an image that was brought from elsewhere gets a new one here. Clocks of
  // different hosts say nothing.
  if (image.generation > ready.generation && image.origin == ready.origin &&
      image.created_unix_ns < ready.created_unix_ns)
    return fmt::format("it was made before the image of generation {}, which is ready", ready.generation);
  return std::nullopt;
}

using Version = std::array<int, 3>;

std::optional<Version> version_of(const std::string& text) {
  Version v{};
  if (std::sscanf(text.c_str(), "%d.%d.%d", &v[0], &v[1], &v[2]) < 1) return std::nullopt;
  return v;
}

}  // namespace

StandbyStep plan_standby(const StandbyView& view) {
  StandbyStep step;
  const int wanted = std::max(0, view.instances - count(view, CopyState::Waking) - count(view, CopyState::Running));
  const CopyView* ready = newest_ready(view);
  const SeenImage* target = nullptr;
  for (const auto& image : view.images) {
    if (view.refused.contains(image.stamp)) continue;
    if (!image.broken.empty()) {
      step.refuse.push_back({image, image.broken});
      continue;
    }
    if (image.handover) continue;
    if (ready)
      if (auto why = why_older(image, *ready)) {
        step.refuse.push_back({image, *why});
        continue;
      }
    // One that was used up is passed over, but it does not make an older one fresh again.
    if (!target || image.generation > target->generation) target = &image;
  }

  std::vector<const CopyView*> all_ready;
  for (const auto& c : view.copies)
    if (c.state == CopyState::Ready) all_ready.push_back(&c);
  std::sort(all_ready.begin(), all_ready.end(), [](const CopyView* a, const CopyView* b) {
    return a->generation != b->generation ? a->generation < b->generation : a->id > b->id;
  });

  int want_here = wanted;
  if (target) {
    if (auto most = view.most.find(target->generation); most != view.most.end())
      want_here = std::min(want_here, std::max(0, most->second - (view.instances - wanted)));
    int have = 0;
    for (const auto& c : view.copies)
      if (c.generation == target->generation && (c.state == CopyState::Ready || c.state == CopyState::Preparing))
        ++have;
    const bool stale = ready && ready->generation > target->generation;
    if (!stale && have < std::min(want_here, target->free_slots) && count(view, CopyState::Preparing) == 0)
      step.prepare = *target;
  }
  // What is ready beyond the wanted number goes, the oldest first; older ones also when the newest alone
  // are all that there can be.
  int keep = wanted;
  if (target && ready && ready->generation == target->generation) {
    int newest = 0;
    for (const auto* c : all_ready) newest += c->generation == target->generation ? 1 : 0;
    if (newest >= want_here) keep = std::min(keep, newest);
  }
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all_ready.size(); ++i)
    step.end.push_back(all_ready[i]->id);
  return step;
}

std::optional<int> copy_to_wake(const std::vector<CopyView>& copies) {
  const CopyView* best = nullptr;
  for (const auto& c : copies)
    if (c.state == CopyState::Ready &&
        (!best || c.generation > best->generation || (c.generation == best->generation && c.id < best->id)))
      best = &c;
  if (!best) return std::nullopt;
  return best->id;
}

std::optional<std::string> why_foreign(const Manifest& m, const std::string& name, const HostFacts& here,
                                       const std::string& criu_version) {
  if (m.app_name != name)
    return fmt::format("it is of the application {}, this standby is of {}", m.app_name, name);
  if (m.machine != here.machine)
    return fmt::format("it was made on {}, this host is {}", m.machine, here.machine);
  if (const auto missing = missing_flags(m.cpu_flags, here.cpu_flags); !missing.empty()) {
    std::string text;
    for (std::size_t i = 0; i < missing.size() && i < 8; ++i) text += " " + missing[i];
    if (missing.size() > 8) text += fmt::format(" and {} more", missing.size() - 8);
    return fmt::format("its host had CPU features that this one lacks:{}", text);
  }
  const auto made = version_of(m.criu_version), ours = version_of(criu_version);
  if (made && ours && *ours < *made)
    return fmt::format("CRIU {} made it, this host has {}", m.criu_version, criu_version);
  return std::nullopt;
}

}  // namespace supervise
