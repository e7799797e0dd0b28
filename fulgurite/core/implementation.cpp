#include "fulgurite/core/implementation.h"

namespace fulgurite {

Support first_refusal(std::initializer_list<Support> rules) {
  for (const Support& rule : rules)
    if (rule) return rule;
  return std::nullopt;
}

}  // namespace fulgurite
