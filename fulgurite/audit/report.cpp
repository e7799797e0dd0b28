#include "fulgurite/audit/report.h"

#include <fmt/format.h>

namespace fulgurite::audit {

std::string describe(const OpReport& report) {
  std::string text;
  for (const OutputReport& output : report.outputs)
    text += fmt::format("{}: {}\n", output.name, describe(output.difference));
  return text;
}

}  // namespace fulgurite::audit
