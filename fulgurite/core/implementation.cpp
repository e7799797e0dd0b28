#include "fulgurite/core/implementation.h"

namespace fulgurite {

Support takes_sm(const Target& target, int sm) {
  if (target.kind == DeviceKind::kCuda && target.sm == sm) return std::nullopt;
  return Refusal{"target " + name(target) + ", takes sm" + std::to_string(sm)};
}

Support first_refusal(std::initializer_list<Support> rules) {
  for (const Support& rule : rules)
    if (rule) return rule;
  return std::nullopt;
}

}  // namespace fulgurite
