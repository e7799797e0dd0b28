#include "fulgurite/core/device.h"

#include <array>

#include "fulgurite/core/error.h"

namespace fulgurite {

std::string_view name(Isa isa) {
  static constexpr auto kNames =
      std::to_array<std::string_view>({"portable", "avx2", "avx512", "avx512_bf16", "amx"});
  return kNames.at(static_cast<size_t>(isa));
}

namespace {

constexpr std::array kArchitectures{80, 90, 100, 120};

}  // namespace

std::string_view name(DeviceKind kind) { return kind == DeviceKind::kCpu ? "cpu" : "cuda"; }

std::string name(const Target& target) {
  return target.kind == DeviceKind::kCpu ? "cpu" : fmt::format("sm{}", target.sm);
}

Target target_named(std::string_view wanted) {
  std::string known = "cpu";
  if (wanted == known) return {};
  for (const int sm : kArchitectures) {
    const Target target{DeviceKind::kCuda, Isa::kPortable, sm, {}};
    if (name(target) == wanted) return target;
    known += ", " + name(target);
  }
  fail(ErrorKind::kRequest, "no target \"{}\"; there are {}", printable(wanted, 80), known);
}

Device device_of(const Target& target) {
  Device device;
  device.target = target;
  return device;
}

bool flushes_denormals(Isa isa) { return isa >= Isa::kAvx512Bf16; }

}  // namespace fulgurite
