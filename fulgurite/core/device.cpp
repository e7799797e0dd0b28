#include "fulgurite/core/device.h"

#include <array>

namespace fulgurite {

std::string_view name(Isa isa) {
  static constexpr auto kNames =
      std::to_array<std::string_view>({"portable", "avx2", "avx512", "avx512_bf16", "amx"});
  return kNames.at(static_cast<size_t>(isa));
}

}  // namespace fulgurite
