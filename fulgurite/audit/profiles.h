#pragma once
// What engines compute, as values of the knobs: each with its source, and marked where it is not certain. It
// is a claim about an engine at a commit that was read; docs/engine_profiles.md prints them all.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/model/config.h"

namespace fulgurite::audit {

struct ProfileKnob {
  enum class Families { kAll, kV32, kGlm5, kV4, kNotV4 } families = Families::kAll;
  std::string_view setting;    // "gate=bf16"
  std::string_view source;     // where it was read
  std::string_view uncertain;  // why it may be otherwise; empty: it is certain
};

struct Profile {
  std::string_view name;
  std::string_view preset;  // what the settings change
  std::string_view what;    // the engine, and what of it was read
  std::span<const ProfileKnob> knobs;
  bool v4_alone = false;               // what was read runs no other family
  std::string_view no_knob_says = {};  // what it does otherwise, and no knob can
};

std::span<const Profile> profiles();
std::vector<std::string> profile_names();

// The profile's settings that speak of the model.
std::vector<ProfileKnob> knobs_for(const Profile& profile, const model::Config& config);

// "PRESET[,knob=value...]" for parse_numerics. Throws Error{kRequest} for a name that is none, and for a family
// that the profile says nothing of.
std::string profile_numerics(std::string_view name, const model::Config& config);

}  // namespace fulgurite::audit
